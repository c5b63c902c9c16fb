"""The catalog of explanation methods, and one way to call them all.

    target = target_of(spec.output, scores.logits[0])
    heat   = EXPLAINERS["occlusion"].explain(model, images, columns)     # (B, H, W)
    heat   = explain("occlusion", model, image, target.column)           # (H, W)

A model is anything with `score(images, cam=False) -> Scores`. Gradient methods also need `.net`, the torch module, and
so never run in a service; `needs_torch` says which. Which methods a package offers is decided by its audit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from medserve.catalog import Catalog
from medserve.explain.cam import cam
from medserve.explain.occlusion import occlusion
from medserve.models.spec import OutputSpec
from medserve.questions.effect import first_arm
from medserve.types import Array, Scores


class Explainable(Protocol):
    """What a method may ask of a model; `runtime.LoadedModel` is one, `gradients.NetModel` another."""

    def score(self, images: Array, *, cam: bool = False) -> Scores: ...


Method = Callable[[Explainable, Array, Array], Array]  # (model, (B, C, H, W) uint8, (B,) columns) -> (B, H, W) float32


@dataclass(frozen=True, slots=True)
class Explainer:
    """cost: model passes for one picture, in words for a person."""

    explain: Method
    needs_torch: bool
    cost: str


class Target(NamedTuple):
    """The logit that a map explains, and the label it speaks for."""

    column: int
    label: str


EXPLAINERS: Catalog[Explainer] = Catalog("explanation method")


def target_of(output: OutputSpec, logits: Array) -> Target:
    """What to explain in one answer: the finding (binary), else the likeliest label.

    Args:
        logits: (K,) of one picture.

    Returns: binary: the positive label, whatever the decision. Ordinal: the highest level that is more likely reached
        than not, at least the first step. Number: the value itself. Effect: the arm that the model would advise, else
        the one of the best effect.
    """
    if output.task == "binary":
        return Target(0, output.labels[1])
    if output.task in ("number", "survival"):
        return Target(0, output.labels[0])
    if output.task == "effect":
        arm = first_arm(output, logits)
        return Target(arm - 1, f"{output.labels[arm]} against {output.labels[0]}")
    if output.task == "ordinal":
        column = max(int((np.minimum.accumulate(logits) > 0).sum()) - 1, 0)
        return Target(column, output.labels[column + 1])
    column = int(np.argmax(logits))
    return Target(column, output.labels[column])


def explain(name: str, model: Explainable, image: Array, column: int) -> Array:
    """One map of one picture.

    Args:
        image: (C, H, W) or (C, D, H, W) uint8, as it enters the graph.
        column: the logit, see `target_of`.

    Returns: (H, W) or (D, H, W) float32; positive values speak for the label.
    Raises: NotFound: no such method. Usage "explanation-unavailable": the model cannot give this one.
    """
    return EXPLAINERS[name].explain(model, image[None], np.array([column]))[0]


def _cam(model: Explainable, images: Array, columns: Array) -> Array:
    return cam(model.score(images, cam=True).cam, columns, images.shape[2:])


def _occlusion(model: Explainable, images: Array, columns: Array) -> Array:
    return occlusion(lambda batch: model.score(batch).logits, images, columns)


def _integrated_gradients(model: Explainable, images: Array, columns: Array) -> Array:
    from medserve.explain.gradients import integrated_gradients  # torch, captum: offline only

    return integrated_gradients(model, images, columns)


EXPLAINERS.register("cam")(Explainer(_cam, needs_torch=False, cost="none: the same pass as the score"))
EXPLAINERS.register("occlusion")(Explainer(_occlusion, needs_torch=False, cost="about 220 passes"))
EXPLAINERS.register("integrated-gradients")(
    Explainer(_integrated_gradients, needs_torch=True, cost="about 32 passes with gradients")
)
