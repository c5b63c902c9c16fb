"""The words of one run: what was asked, what step 1 gave, and where a model comes from."""

import platform
from dataclasses import asdict, dataclass
from typing import Any, Literal

import medserve
from medserve.data.cohort import Cohort
from medserve.data.leaks import Removed
from medserve.data.split import Parts
from medserve.data.transforms import Normalise
from medserve.models.spec import ModelSpec
from medserve.questions.recipes import Recipe
from medserve.road.build import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may ask of a run; the defaults are the whole recipe. `max_train_s` shortens the schedule."""

    question: Literal["diagnosis"] = "diagnosis"
    recipe: str | None = None
    seed: int = 0
    epochs: int | None = None
    folds: int | None = None
    leaks: Literal["drop", "refuse", "keep"] = "drop"
    keep: Literal["recipe", "baseline"] | None = None
    audit: Literal["full", "quick", "none"] = "full"
    name: str | None = None
    weights: str | None = None
    max_train_s: float | None = None
    decision: tuple[float, float, str] | None = None  # thresholds of the decision curve, and why


@dataclass(frozen=True, slots=True)
class Prepared:
    """Step 1 done: the parts, what left them, and the signature that follows from the data."""

    recipe: Recipe
    parts: Parts
    removed: Removed
    plain: ModelSpec
    normalise: Normalise

    @property
    def cohort(self) -> Cohort:
        return self.parts.cohort


def lineage(prepared: Prepared, candidate: Candidate, options: Options) -> dict[str, Any]:
    """Where a model comes from: data, code, parameters, seed, versions."""
    from importlib.metadata import version

    libraries = ("torch", "numpy", "onnxruntime", "onnx", "scikit-learn", "pydicom", "pillow")
    return {
        "data": {"name": prepared.cohort.name, "digest": prepared.cohort.digest, "cases": len(prepared.cohort)},
        "code": {"medserve": medserve.__version__, "python": platform.python_version()}
        | {name: version(name) for name in libraries},
        "options": {k: v for k, v in asdict(options).items() if v is not None},
        "role": candidate.role,
        "recipe": candidate.recipe,
        "seed": options.seed,
        "split": dict(prepared.parts.rule),
    }


def slug(name: str) -> str:
    """A data set's name as one step of a web address: lower case, words joined by dashes."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)[:64] or "model"
