"""Steps 1 to 4 as one run: a data set in, a signed package with its report and its alternative out.

    result = train_package(Path("chest.npz"), Path("models/chest"), settings=settings, options=Options(seed=0))

Split before any fit; train the recipe and the simple baseline; decide between them on validation or cross-validation;
calibrate on the calibration part; open the sealed test part once, to report. What was started continues: checkpoints
stand in a folder beside `out` until the package is complete.
"""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medserve.errors import MedServeError, Usage
from medserve.models.package import ALTERNATIVE
from medserve.progress import SILENT, Progress
from medserve.road.build import build
from medserve.road.candidates import train_candidates
from medserve.road.collect import list_data
from medserve.road.effect import train_effect
from medserve.road.finish import finish
from medserve.road.offer import choose_of, decide
from medserve.road.prepare import collect
from medserve.road.run import Options, check_options
from medserve.road.work import alone, claim, naming, same_data
from medserve.settings import Settings
from medserve.store.files import new_folder

if TYPE_CHECKING:
    from medserve.data.forms import Listing


def train_package(
    data: Path, out: Path, *, settings: Settings, options: Options, progress: Progress = SILENT
) -> dict[str, Any]:
    """Run the road on `data`; `out` appears complete or not at all.

    Returns: {"package", "model", "recipe", "seed", "parts", "chosen", "seconds", "metrics", "report", ...}.
    Raises: Usage "out-exists" and those of `check_options`; BadData and Refusal of the data, with nothing left beside
        `out`; Fault "disk-full": the same call continues.
    """
    started = time.monotonic()
    check_options(options)
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Usage("out-exists", f"{out} already exists and is not empty.", hint="Choose another --out, or remove it.")
    listing = list_data(data, settings)
    work = out.parent / f".{out.name}.training"
    with alone(work):
        return _train(data, listing, out, work, settings, options, progress, started)


def _train(
    data: Path, listing: "Listing", out: Path, work: Path, settings: Settings, options: Options, progress: Progress,
    started: float,
) -> dict[str, Any]:  # fmt: skip
    """The run itself, in a folder that is this process's alone."""
    fresh = claim(work, data, options)
    try:
        prepared = collect(listing, work, settings, options, progress)
    except MedServeError as error:
        if fresh and error.exit_code == 2:  # bad input: there is nothing to go on with
            shutil.rmtree(work, ignore_errors=True)
        raise naming(data, error) from error
    same_data(work, prepared.cohort.digest)
    recipe, parts = prepared.recipe, prepared.parts
    progress.say(f"{prepared.cohort.name}: {parts.sizes}, recipe {recipe.name} at {prepared.plain.shape}")
    verdict: dict[str, Any] | None = None
    if prepared.rivals:
        prepared, verdict = choose_of(prepared, work, settings, options, progress)
        recipe = prepared.recipe
        progress.say(f"{recipe.name} is offered: the least loss in nested cross-validation.")
    if recipe.learner == "effect-trees":
        candidates, verdict = train_effect(prepared, options, progress)
    else:
        candidates = train_candidates(prepared, work, settings, options, progress)
    built = [
        build(c, parts, prepared.plain, prepared.normalise, work / c.role, progress, seed=options.seed)
        for c in candidates
    ]
    verdict = verdict or decide(built, prepared, work, settings, options, progress)
    offered = next(b for b in built if b.candidate.role == verdict["chosen"])
    other = next(b for b in built if b is not offered)
    with new_folder(out) as folder:
        result = finish(folder, offered, other, prepared, verdict, settings, options, progress)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "package": str(out),
        "model": result["model"],
        "recipe": recipe.name,
        "seed": options.seed,
        "parts": parts.sizes,
        "split": parts.rule["rule"],
        "chosen": verdict["chosen"],
        "seconds": round(time.monotonic() - started, 1),
        "decision": verdict,
        "left_training_side": len(prepared.removed.rows),
        "test_openings": result["openings"],
        "metrics": result["metrics"],
        "report": str(out / "evaluation" / "report.html"),
        "gallery": result["gallery"],
        "alternative": str(out / ALTERNATIVE),
    }
