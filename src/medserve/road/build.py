"""From a trained network to the files of a package: graph, weights, self-check, calibration, operating point.

    built = build(candidate, parts, plain, work)           # plain: the ModelSpec before anything is fitted
    built.spec, built.scores["val"]

Everything after training looks at the scores of the exported graph, run by the engine that serves: what is calibrated
and measured is what answers.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from medserve.data.split import Parts, PartView
from medserve.data.transforms import Normalise
from medserve.errors import BadData
from medserve.evaluation.calibrate import calibrate
from medserve.evaluation.operating import choose_points
from medserve.models.package import GRAPH, SELFCHECK, WEIGHTS
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.progress import Progress
from medserve.runtime.engine import Engine
from medserve.runtime.graphfile import read_graph
from medserve.store.files import write_bytes
from medserve.types import Array, Named, Samples, Scores

if TYPE_CHECKING:
    from torch import nn

    from medserve.models.served import ServedNet

FALSE_ALARM = 0.02
SELFCHECKS = 4
_CLASSES = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained network on its way into a package. role: "recipe" or "baseline"."""

    role: Literal["recipe", "baseline"]
    recipe: str
    architecture: Named
    net: "nn.Module"
    history: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A candidate with its graph and everything fitted on val and calibration; `folder` holds its files."""

    candidate: Candidate
    spec: ModelSpec
    served: "ServedNet"
    engine: Engine
    folder: Path
    scores: dict[str, Scores] = field(default_factory=dict)


def plain_spec(
    name: str, version: str, inputs: InputSpec, output: OutputSpec, transforms: list[Named], question: str
) -> ModelSpec:
    """The signature, before an architecture is chosen and anything is fitted."""
    return ModelSpec(
        name=name,
        version=version,
        question=question,  # type: ignore[arg-type]
        inputs=[inputs],
        output=output,
        transforms=transforms,
        architecture=Named("none"),
    )


def build(
    candidate: Candidate,
    parts: Parts,
    plain: ModelSpec,
    normalise: Normalise,
    folder: Path,
    progress: Progress,
    *,
    seed: int,
) -> Built:
    """Export the graph, check it against the network, score val and calibration with it, and fit what is fitted there.

    Raises: Fault "export-failed", "export-differs", "disk-full".
    """
    from medserve.models import ood
    from medserve.models.export import export_onnx
    from medserve.models.served import ServedNet

    shape = plain.inputs[0].shape
    mean, std = normalise.mean, normalise.std
    try:
        embeddings, statistics = ood.describe(candidate.net, parts.train, mean, std)
        labels = parts.train.targets if plain.output.task in _CLASSES else None
        distance = ood.fit(embeddings, statistics, labels)
    except BadData as error:
        progress.say(f"note: {error}")
        distance = None
    served = ServedNet(candidate.net, mean, std, distance)
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(served, shape, folder / GRAPH, samples=parts.train.take(np.arange(min(8, len(parts.train)))))
    _write_tensors(served, shape, folder)
    engine = Engine(read_graph(folder / GRAPH), shape=shape, width=plain.output.width)
    scores = {part.name: score(engine, part, progress) for part in (parts.val, parts.calibration)}

    cal, val = parts.calibration, parts.val
    spec = msgspec.structs.replace(
        plain, architecture=candidate.architecture, transforms=[*plain.transforms, normalise.named()]
    )
    fitted = calibrate(scores["calibration"].logits, cal.targets, plain.output, seed=seed)
    spec = msgspec.structs.replace(spec, calibration=fitted)
    spec = msgspec.structs.replace(
        spec, operating_points=choose_points(spec, scores["val"].logits, val.targets, who(val), seed=seed)
    )
    if scores["calibration"].distance is not None:
        spec = msgspec.structs.replace(
            spec, ood=ood.threshold_at(scores["calibration"].distance, false_alarm=FALSE_ALARM)
        )
    return Built(candidate, spec, served, engine, folder, scores)


def score(engine: Engine, samples: Samples, progress: Progress, *, cam: bool = False, batch: int = 64) -> Scores:
    """Scores of a whole part, a batch at a time."""
    starts = range(0, len(samples), batch)
    found = [
        engine.score(samples.take(np.arange(start, min(start + batch, len(samples)))), cam=cam)
        for start in progress.track(starts, "Scoring")
    ]
    return Scores.concat(found)


def who(part: PartView) -> Array:
    """(N,) patient keys of a part's cases."""
    return np.asarray([case.patient for case in part.cases], dtype=str)


def _write_tensors(served: "ServedNet", shape: tuple[int, ...], folder: Path) -> None:
    """Weights, and a few generated inputs with the outputs that every later engine must reproduce."""
    from safetensors.numpy import save as pack_arrays
    from safetensors.torch import save as pack

    images = selfcheck_images(shape)
    scores = served.scores(images)
    outputs = {name: getattr(scores, name) for name in ("logits", "distance", "cam")}
    stored = {"image": images} | {name: np.ascontiguousarray(v) for name, v in outputs.items() if v is not None}
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
