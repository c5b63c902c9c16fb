"""From a trained network to the files of a package: graph, weights, self-check, calibration, operating point.

    built = build(candidate, parts, plain, work)           # plain: the ModelSpec before anything is fitted
    built.spec, built.scores["val"]

Everything after training looks at the scores of the exported graph, run by the engine that serves: what is calibrated
and measured is what answers.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from medserve.data.fields import Records
from medserve.data.split import Parts, PartView
from medserve.data.transforms import Normalise
from medserve.errors import BadData
from medserve.evaluation.calibrate import calibrate
from medserve.evaluation.conformal import with_groups
from medserve.evaluation.operating import choose_points
from medserve.models.package import GRAPH, SELFCHECK, STEP, WEIGHTS
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.progress import Progress
from medserve.questions.survival import with_baseline
from medserve.road.absent import hidden_scores, members, with_absent
from medserve.road.domain import fit_domain
from medserve.runtime.engine import Engine
from medserve.runtime.graphfile import read_graph
from medserve.store.files import write_bytes
from medserve.types import SEQUENCES, Array, Named, Samples, Scores

if TYPE_CHECKING:
    from torch import nn

    from medserve.models.served import ServedNet
    from medserve.training.effect import Learned

FALSE_ALARM = 0.02
SELFCHECKS = 4
BACKGROUND, BACKGROUND_OF = 8, 4000  # summaries, and the training cases they are made of
_CLASSES = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained network on its way into a package. role: "recipe" or "baseline"."""

    role: Literal["recipe", "baseline"]
    recipe: str
    architecture: Named
    net: "nn.Module"
    history: dict[str, Any] | None = None
    learned: "Learned | None" = None  # of an effect: what training found beside the weights


@dataclass(frozen=True, slots=True)
class Built:
    """A candidate with its graph and everything fitted on val and calibration; `folder` holds its files.

    background: (k, F) summaries of at least 10 training records each, against which a record is explained.
    """

    candidate: Candidate
    spec: ModelSpec
    served: "ServedNet"
    engine: Engine
    folder: Path
    scores: dict[str, Scores] = field(default_factory=dict)
    background: Array | None = None


def plain_spec(
    name: str, version: str, inputs: list[InputSpec], output: OutputSpec, transforms: list[Named], question: str
) -> ModelSpec:
    """The signature, before an architecture is chosen and anything is fitted."""
    return ModelSpec(
        name=name,
        version=version,
        question=question,  # type: ignore[arg-type]
        inputs=inputs,
        output=output,
        transforms=transforms,
        architecture=Named("none"),
    )


def build(
    candidate: Candidate,
    parts: Parts,
    plain: ModelSpec,
    normalise: Normalise | None,
    folder: Path,
    progress: Progress,
    *,
    seed: int,
) -> Built:
    """Export the graph, check it against the network, score val and calibration with it, and fit what is fitted there.

    Args:
        normalise: of pictures; None for records, whose models scale for themselves.

    Raises: Fault "export-failed", "export-differs", "disk-full".
    """
    from medserve.models import ood
    from medserve.models.export import export_onnx, export_step
    from medserve.models.served import ServedNet

    for module in candidate.net.modules():
        if hasattr(module, "merge"):  # weights that were tuned beside others become one with them
            module.merge()  # type: ignore[operator]
    shape = plain.shape
    mean, std = scale_of(normalise)
    # The distance of a text says nothing of its words; a likelihood is itself what tells how usual a molecule is.
    marks = plain.output.task in SEQUENCES
    try:
        if marks:
            raise BadData("no-distance", "This kind of answer is not measured against the training cases.")
        embeddings, statistics = ood.describe(candidate.net, parts.train, mean, std)
        labels = parts.train.targets if plain.output.task in _CLASSES else None
        distance = ood.fit(embeddings, statistics, labels)
    except BadData as error:
        progress.say(f"note: {error}")
        distance = None
    served = ServedNet(candidate.net, mean, std, distance)
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(served, shape, folder / GRAPH, samples=parts.train.take(np.arange(min(8, len(parts.train)))))
    if hasattr(candidate.net, "step"):
        export_step(candidate.net, folder / STEP)
    background = _background(parts.train, plain, seed) if plain.is_record and not marks else None
    _write_tensors(served, plain, folder, background)
    engine = Engine(read_graph(folder / GRAPH), shape=shape, width=plain.output.width)
    scores = {part.name: score(engine, part, progress) for part in (parts.val, parts.calibration)}
    crossed = getattr(candidate.net, "crossed", None)  # it has seen val: what it said before it had stands in its place
    if crossed is not None:
        assert len(crossed) in (len(parts.val), len(parts.train) + len(parts.val))
        scores["val"] = replace(scores["val"], logits=crossed[-len(parts.val) :])
    if candidate.learned is not None:
        told = candidate.learned.spec(candidate.architecture.name)
        plain = msgspec.structs.replace(plain, output=msgspec.structs.replace(plain.output, effect=told))
    if plain.output.task == "survival":
        output = with_baseline(plain.output, score(engine, parts.train, progress).logits, parts.train.targets)
        plain = msgspec.structs.replace(plain, output=output)

    cal, val = parts.calibration, parts.val
    inside = [] if normalise is None else [normalise.named()]
    spec = msgspec.structs.replace(plain, architecture=candidate.architecture, transforms=[*plain.transforms, *inside])
    fitted = calibrate(scores["calibration"].logits, cal.targets, plain.output, seed=seed)
    spec = msgspec.structs.replace(spec, calibration=fitted)
    if (theirs := members(spec, cal)) is not None:
        spec = with_groups(spec, scores["calibration"].logits, cal.targets, theirs)
    if plain.is_record and fitted.conformal is not None:
        blocks = Records.build(plain.transforms).blocks
        spec = with_absent(spec, hidden_scores(engine, cal, blocks, progress, seed=seed))
    spec = msgspec.structs.replace(
        spec, operating_points=choose_points(spec, scores["val"].logits, val.targets, who(val), seed=seed)
    )
    if scores["calibration"].distance is not None:
        spec = msgspec.structs.replace(
            spec, ood=ood.threshold_at(scores["calibration"].distance, false_alarm=FALSE_ALARM)
        )
    spec = msgspec.structs.replace(spec, domain=fit_domain(parts, plain, folder, seed=seed))
    return Built(candidate, spec, served, engine, folder, scores, background)


def score(engine: Engine, samples: Samples, progress: Progress, *, cam: bool = False, batch: int = 64) -> Scores:
    """Scores of a whole part, a batch at a time."""
    starts = range(0, len(samples), batch)
    found = [
        engine.score(samples.take(np.arange(start, min(start + batch, len(samples)))), cam=cam)
        for start in progress.track(starts, "Scoring")
    ]
    return Scores.concat(found)


def who(part: PartView) -> Array:
    """(N,) keys of what a bootstrap draws whole: the patients of a part's cases, or the declared column's values."""
    return np.asarray([case.drawn or case.patient for case in part.cases], dtype=str)


def drawn(part: PartView) -> Array | None:
    """The same; None where every case stands for itself."""
    return None if part.cohort.independent and not part.cohort.drawn else who(part)


def scale_of(normalise: Normalise | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) for the first operation of the graph; records pass as they are."""
    return ((0.0,), (1.0,)) if normalise is None else (normalise.mean, normalise.std)


def _background(train: Samples, plain: ModelSpec, seed: int) -> Array:
    from medserve.explain.shapley import background_of

    rows = np.random.default_rng(seed).permutation(len(train))[:BACKGROUND_OF]
    blocks = Records.build(plain.transforms).blocks
    return background_of(train.take(np.sort(rows)), BACKGROUND, seed, blocks)


def _write_tensors(served: "ServedNet", plain: ModelSpec, folder: Path, background: Array | None) -> None:
    """Weights, and a few generated inputs with the outputs that every later engine must reproduce."""
    from safetensors.numpy import save as pack_arrays
    from safetensors.torch import save as pack

    if plain.is_record:
        images = Records.build(plain.transforms).examples(SELFCHECKS)
    else:
        images = selfcheck_images(plain.shape)
    scores = served.scores(images)
    outputs = {name: getattr(scores, name) for name in ("logits", "distance", "cam")}
    stored = {"record" if plain.is_record else "image": images} | {
        name: np.ascontiguousarray(v) for name, v in outputs.items() if v is not None
    }
    stored |= {} if background is None else {"background": np.ascontiguousarray(background, np.float32)}
    write_bytes(folder / WEIGHTS, pack(served.tensors()))
    write_bytes(folder / SELFCHECK, pack_arrays(stored))


def selfcheck_images(shape: tuple[int, ...]) -> Array:
    """(4, *shape) uint8, generated: a ramp, noise, a disc and mid-grey. No patient's picture travels in a package."""
    rng = np.random.default_rng(0)
    *_, height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    ramp = (x + y) * 255 / max(1, height + width - 2)
    disc = np.where((y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2, 200, 40)
    planes = [np.broadcast_to(plane, shape) for plane in (ramp, disc, np.full((height, width), 128))]
    return np.stack([*planes, rng.integers(0, 256, shape)]).astype(np.uint8)
