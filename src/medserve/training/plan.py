"""How a network is trained: one frozen record, stored beside the weights, with no import of torch.

    plan = Plan(**recipe.plan(n=3882, seed=7))
    plan.rate(step=0, steps=1000)        # learning rate of the one-cycle schedule

Everything random derives from `seed` and the epoch, so a run that was killed continues exactly where it stood.
"""

import hashlib
import math
from typing import Literal

import msgspec

from medserve.errors import Usage


class Augment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Anatomy-safe changes of the training images, drawn anew for each image; every range is symmetric around none.

    shift: fraction of the side. scale: relative size. rotate_deg: degrees. contrast: relative. brightness: fraction of
    the full range. gamma: log range. erase: probability of one erased rectangle. Mirroring is off: it exchanges left
    and right, and a heart on the right is a diagnosis.
    """

    shift: float = 0.075
    scale: float = 0.12
    rotate_deg: float = 12.0
    contrast: float = 0.25
    brightness: float = 0.10
    gamma: float = 0.25
    erase: float = 0.25
    mirror_left_right: bool = False
    mirror_up_down: bool = False


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The schedule of one run.

    epochs: passes of as many images as the training part holds (at least one batch).
    balance: draw every class equally often; tasks without classes are shuffled plainly.
    rate_peak: highest learning rate; "one-cycle" climbs to it over `warm_up` of the run and falls to nearly 0.
    ema: decay of the exponential moving average of the weights that is validated and kept; 0 turns it off.
    patience: epochs without a better validation loss before stopping; None means two fifths of `epochs`, at least 5.
    precision: "auto" uses bfloat16 only where the processor computes in it.
    """

    epochs: int = 12
    batch: int = 64
    seed: int = 7
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    rate_peak: float = 2e-3
    warm_up: float = 0.25
    weight_decay: float = 0.05
    clip: float = 1.0  # largest norm of the gradient; 0: none
    label_smoothing: float = 0.05
    balance: bool = True
    augment: Augment | None = msgspec.field(default_factory=Augment)
    ema: float = 0.99
    patience: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for name, valid in (
            ("epochs", self.epochs >= 1),
            ("batch", self.batch >= 2),
            ("seed", self.seed >= 0),
            ("rate_peak", self.rate_peak > 0),
            ("warm_up", 0 <= self.warm_up < 1),
            ("ema", 0 <= self.ema < 1),
            ("label_smoothing", 0 <= self.label_smoothing < 1),
            ("patience", self.patience is None or self.patience >= 1),
        ):
            if not valid:
                raise Usage(
                    "bad-plan",
                    f"Training parameter {name} = {getattr(self, name)} is out of range.",
                    hint="See --help.",
                )

    def steps_per_epoch(self, n: int) -> int:
        return max(1, math.ceil(n / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step` of `steps`; a pure function, so a resumed run needs no schedule state.

        Source: Smith and Topin, "Super-convergence", arXiv 1708.07120; both arms are half cosines.
        """
        if self.schedule == "constant":
            return self.rate_peak
        turn = self.warm_up * steps
        if step < turn:
            low, done = self.rate_peak / 25, step / turn
            return low + (self.rate_peak - low) * (1 - math.cos(math.pi * done)) / 2
        done = (step - turn) / max(1.0, steps - turn)
        return self.rate_peak * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * done)) / 2)

    @property
    def waits(self) -> int:
        """Epochs without improvement that end the run."""
        return self.patience if self.patience is not None else max(5, math.ceil(0.4 * self.epochs))

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()
