"""The words of one run: what was asked, what step 1 gave, and where a model comes from."""

import platform
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import medserve
from medserve.data.cohort import Cohort
from medserve.data.leaks import Removed
from medserve.data.split import Parts
from medserve.data.transforms import Normalise
from medserve.errors import NotFound, Usage
from medserve.models.encoders import PretrainedText
from medserve.models.spec import ModelSpec
from medserve.questions.recipes import RECIPES, Recipe
from medserve.road.build import Candidate

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may ask of a run; the defaults are the whole recipe. `max_train_s` shortens the schedule."""

    question: Literal["diagnosis", "treatment", "discovery"] | None = None  # left out, what the data set declares
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
    choose: str | None = None  # recipes to be compared by nested cross-validation: "cheap", or names with commas
    decision: tuple[float, float, str] | None = None  # thresholds of the decision curve, and why


def check_options(options: Options) -> None:
    """What can be said before any file is read.

    Raises: Usage "unknown-recipe", "name-unusable", "bad-plan", "folds-too-few", "choose-or-recipe".
    """
    if options.choose is not None and options.recipe is not None:
        raise Usage(
            "choose-or-recipe", "Either one recipe is named, or several are to be chosen from.",
            hint="Leave out --recipe, or --choose.",
        )  # fmt: skip
    if options.seed < 0 or (options.epochs is not None and options.epochs < 1):
        raise Usage("bad-plan", "The seed is at least 0, and epochs at least 1.", hint="See: medserve train --help")
    if options.recipe is not None and options.recipe not in RECIPES:
        raise NotFound("recipe", options.recipe, RECIPES, hint="List them: medserve models --for DATA")
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise Usage(
            "name-unusable",
            f"{options.name!r} cannot be the name of a service.",
            hint="It is a step of a web address: at most 64 letters, digits, dots, dashes and underscores.",
        )
    if options.folds is not None and options.folds < 2:
        raise Usage("folds-too-few", f"{options.folds} folds were asked for; at least 2 are needed.", hint="--folds 5")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Step 1 done: the parts, what left them, and the signature that follows from the data.

    normalise: of pictures, fitted on the training part; None for records, whose fields and models are fitted instead.
    encoder: pretrained, of texts; None where the recipe learns from scratch.
    rivals: recipes that are still to be chosen from; `recipe` is the first of them.
    """

    recipe: Recipe
    parts: Parts
    removed: Removed
    plain: ModelSpec
    normalise: Normalise | None
    encoder: PretrainedText | None = None
    rivals: tuple[Recipe, ...] = ()

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
    } | ({"weights": weights} if (weights := (candidate.history or {}).get("weights")) else {})


def slug(name: str) -> str:
    """A data set's name as one step of a web address: lower case, words joined by dashes."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "-".join(words)[:64] or "model"
