"""`medserve evaluate`: a package measured again, on a part of its own data or on other data.

    result = evaluate_package(Path("models/chest"), Path("chest.npz"), "test", settings=settings)
    result["metrics"]["auroc"]

The parts are those of training, recognised by keyed hashes in the package. Each opening of the test part is counted.
The record is signed and kept under MEDSERVE_HOME/evaluations, by the model's digest; the package itself is not touched.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.cohort import Cohort
from medserve.data.pseudonym import pseudonym_key
from medserve.data.records import encode
from medserve.data.seal import open_test
from medserve.data.split import PartView, has_label
from medserve.errors import BadData, BadPackage
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.report import write_report
from medserve.models.package import ALTERNATIVE, Package
from medserve.models.signing import Signer, Trust
from medserve.models.spec import ModelSpec
from medserve.progress import SILENT, Progress
from medserve.road.absent import lacking, members
from medserve.road.build import drawn, score
from medserve.road.collect import list_data, read_data
from medserve.road.finish import groups_of, in_scope
from medserve.road.medicines import as_asked, last_sets
from medserve.road.membership import case_hash, count_seen, parts_by_hash
from medserve.road.records import check_inputs
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
from medserve.store.files import write_bytes

_CLASSES = {"binary", "multiclass", "ordinal"}


def evaluate_package(
    folder: Path,
    data: Path,
    part: str = "test",
    *,
    settings: Settings,
    progress: Progress = SILENT,
    report: Path | None = None,
    decision: tuple[float, float, str] | None = None,
    draws: int = 1000,
) -> dict[str, Any]:
    """Measure the package in `folder`.

    Args:
        part: "train", "val", "calibration", "test": as in training; "all": every labelled case of `data`.
        report: also write the HTML page here.
        decision: (low, high, why) thresholds for which the decision curve is judged.

    Returns: `evaluation.evaluate`'s record, with "metrics", "n", and where it was kept ("record").
    Raises: BadData "foreign-data": a part is named that this data does not hold; "labels-differ".
    """
    model = LoadedModel.open(folder, Trust.load(settings), max_pixels=settings.max_pixels)
    spec = model.spec
    with tempfile.TemporaryDirectory(dir=settings.folder("work")) as work:
        cohort, of = read_parts(model.package, data, Path(work), settings, progress)
        key = pseudonym_key(settings)
        trained_on = frozenset(model.package.split.get("trained_on", ()))
        view, refused = view_of(cohort, of, part, spec, data)
        sealed = [r for r, p in enumerate(of) if p == "test" and has_label(cohort.cases[r])]
        openings = None
        if sealed and part in ("test", "all"):  # the whole part, as training knew it, whatever is refused of it
            openings = open_test(PartView("test", cohort, np.asarray(sealed, np.int64)), settings, model.digest)
            progress.say(f"The sealed test part has now been opened {openings} time(s).")
        scores = score(model.engine, view, progress)
        result = evaluate(
            spec,
            scores,
            view.targets,
            part=part,
            patients=drawn(view),
            drawn=cohort.drawn,
            groups=groups_of(view),
            openings=openings,
            refused=refused,
            absent=lacking(spec, view) if spec.is_record else None,
            members=members(spec, view),
            decision_range=decision,
            last=last_sets(view, spec.output),
            draws=draws,
            **_beside(model, cohort, of, view, settings, progress),
        )
        result["model"]["digest"] = model.digest
        result["data"] = {
            "name": cohort.name,
            "digest": cohort.digest,
            "files": cohort.files,
            "refused": len(cohort.refused),
            "seen_in_training": count_seen(view, trained_on, key),
            "source": dict(cohort.source),
        }
        if report is not None:
            write_report(report, evaluation=result, model=model.card)
            result["report"] = str(report)
    result["record"] = str(_keep(result, settings))
    return result


def read_parts(
    package: Package, data: Path, work: Path, settings: Settings, progress: Progress
) -> tuple[Cohort, list[str | None]]:
    """The cases of `data` as the package reads them, and the part of its training that each stood in, if any.

    Raises: BadData "wrong-kind", "labels-differ", and those of reading.
    """
    spec, listing = package.spec, list_data(data, settings)
    if (listing.kind == "record") != spec.is_record:
        takes, found = ("records", "pictures") if spec.is_record else ("pictures", "records")
        why = f"The model takes {takes}; {data.name} holds {found}."
        raise BadData("wrong-kind", why, hint="Name data of the kind that it was trained on.")
    cohort = read_data(as_asked(listing, spec), spec.transforms, spec.shape, work, progress)
    if spec.is_record:
        cohort = encode(cohort, check_inputs(cohort, spec), work, progress=progress)
    known, key = parts_by_hash(package.split), pseudonym_key(settings)
    return _relabel(cohort, spec), [known.get(case_hash(key, case)) for case in cohort.cases]


def _beside(
    model: LoadedModel,
    cohort: Cohort,
    of: list[str | None],
    view: PartView,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """What stands beside the figures: the other candidate on the same cases, and, where `data` holds them, the
    validation and calibration parts."""
    found: dict[str, Any] = {"role": model.package.lineage.get("role", "recipe")}
    folder = model.package.path(ALTERNATIVE)
    if folder.is_dir():
        other = LoadedModel.open(folder, Trust.load(settings))
        if other.digest != model.package.lineage.get("alternative"):
            raise BadPackage(
                "package-altered",
                f"{folder} is not the alternative that was signed with its package.",
                hint="Fetch the package again, or remove that folder.",
            )
        found |= {"baseline": score(other.engine, view, progress), "baseline_spec": other.spec}
    for name in ("val", "calibration"):
        rows = [row for row, part in enumerate(of) if part == name]
        if rows:
            part = PartView(name, cohort, np.asarray(rows, np.int64))
            found[name] = (score(model.engine, part, progress), part.targets)
    return found


def view_of(
    cohort: Cohort, of: list[str | None], part: str, spec: ModelSpec, data: Path
) -> tuple[PartView, dict[str, int]]:
    """The cases of the part that the model can be asked about, and how many were refused by code."""
    wanted = [row for row, case in enumerate(cohort.cases) if has_label(case) and (part == "all" or of[row] == part)]
    if not wanted and part != "all":
        raise BadData(
            "foreign-data",
            f"{data.name} holds no case of this model's {part} part.",
            hint="For data that the model was not trained on, use --part all.",
        )
    return in_scope(spec, PartView(part, cohort, np.asarray(wanted, np.int64)))


def _relabel(cohort: Cohort, spec: ModelSpec) -> Cohort:
    """The same cases with the model's own label indices.

    Raises: BadData "labels-differ": another task, or a class that the model does not know.
    """
    labels, task = tuple(spec.output.labels), spec.output.task
    alike = cohort.task == task or {cohort.task, task} <= _CLASSES
    if not alike or (task not in ("number", "survival", "generate") and set(cohort.labels) - set(labels)):
        raise _differ(cohort, labels)
    if task in ("number", "survival", "generate") or cohort.labels == labels:
        return replace(cohort, task=task, labels=labels)
    index = [labels.index(label) for label in cohort.labels]
    if task == "tags":
        tags = [0.0, *(t for i in index for t in (1.0 + 2 * i, 2.0 + 2 * i))]
        marked = tuple(replace(c, label=tuple(tags[int(t)] for t in c.label or ())) for c in cohort.cases)  # type: ignore[union-attr]
        return replace(cohort, task=task, labels=labels, cases=marked)

    def translate(label: Any) -> Any:
        if isinstance(label, tuple):
            row = [float("nan")] * len(labels)
            for at, value in zip(index, label, strict=True):
                row[at] = value
            return tuple(row)
        return None if label is None else index[int(label)]

    cases = tuple(replace(case, label=translate(case.label)) for case in cohort.cases)
    return replace(cohort, task=task, labels=labels, cases=cases)


def _differ(cohort: Cohort, labels: tuple[str, ...]) -> BadData:
    return BadData(
        "labels-differ",
        f"The data's labels are {', '.join(cohort.labels) or 'none'}; the model's are {', '.join(labels)}.",
        hint="Declare `target: {classes: [...]}` with the model's names in a dataset.yaml.",
    )


def _keep(result: dict[str, Any], settings: Settings) -> Path:
    """A signed record beside the package, never inside it."""
    digest = result["model"]["digest"].removeprefix("sha256:")[:16]
    folder = settings.folder("evaluations") / digest
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{result['part']}-{result['data']['digest'][:8]}.json"
    data = json.dumps(result, indent=1).encode()
    write_bytes(folder / name, data, mode=0o600)
    write_bytes(folder / f"{name}.sig", Signer.load(settings).sign(data), mode=0o600)
    return folder / name
