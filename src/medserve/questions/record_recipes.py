"""Recipes for cases that are records: tables, timelines, waveforms, texts, and several of them together.

The catalog's order is the order of preference. Where a network is first, boosted trees on fixed features stand beside
it; where trees are first, a linear model does. The simpler one is what is offered unless the other is shown better.
"""

import math
from typing import Any

from medserve.questions.recipes import RECIPES, Recipe, average_of
from medserve.types import Named

_ALL: Any = ("binary", "multiclass", "multilabel", "ordinal", "number", "survival")
_NETWORK: dict[str, Any] = {
    "augment": None,
    "balance": False,
    "label_smoothing": 0.0,
    "precision": "float32",
    "rate_peak": 2e-3,
    "weight_decay": 0.02,
    "batch": 64,
}


def _add(recipe: Recipe) -> None:
    RECIPES.register(recipe.name)(recipe)


def _network(name: str, title: str, inputs: tuple[str, ...], *, images: int, rate: float, **more: Any) -> None:
    """A case-net; `images`: cases shown in all, `rate`: cases a second on two cores."""
    params = more.pop("params", {})
    settings = _NETWORK | more.pop("settings", {})
    _add(
        Recipe(
            name=name,
            title=title,
            architecture=Named(more.pop("architecture", "case-net"), params),
            kind="record",
            settings=settings,
            rate=rate,
            rate_side=1,
            images=images,
            inputs=inputs,
            tasks=more.pop("tasks", _ALL),
            most_minutes=math.inf,
            baseline=more.pop("baseline", "record-trees"),
            expected=more.pop("expected", "no figure yet"),
            source=more.pop("source", "not measured yet"),
            **more,
        )
    )


def _simple(name: str, title: str, learner: Any, *, rate: float, tasks: Any = _ALL, **more: Any) -> None:
    """A model that a library fits in one go; `rate`: cases a second on two cores."""
    _add(
        Recipe(
            name=name,
            title=title,
            architecture=Named(learner),
            kind="record",
            settings={},
            learner=learner,
            baseline=more.pop("baseline", "record-linear"),
            expected=more.pop("expected", "no figure yet"),
            source=more.pop("source", "not measured yet"),
            rate=rate,
            rate_side=1,
            epochs=1,
            tasks=tasks,
            most_minutes=math.inf,
            **more,
        )
    )


_network(
    "image-beside",
    "the default for a picture beside other inputs: a compact residual network joined with theirs",
    ("image",),
    images=40_000,
    rate=600,
)
_network(
    "waveform-kernels",
    "the default for few waveforms: fixed random kernels (MiniRocket) under a linear head",
    ("waveform",),
    images=30_000,
    rate=500,
    maximum=500,
    params={"encoders": {"waveform": {"name": "rocket"}}},
)
_network(
    "waveform-cnn",
    "the default for waveforms: a compact one-dimensional residual network",
    ("waveform",),
    images=60_000,
    rate=900,
)
_network(
    "text-cnn",
    "the default for texts: a convolutional network over words, from scratch",
    ("text",),
    images=40_000,
    rate=600,
    baseline="record-linear",
)
_network(
    "text-gru",
    "texts read in both directions by a recurrent network, from scratch; five times the work of text-cnn",
    ("text",),
    images=20_000,
    rate=120,
    baseline="record-linear",
    params={"encoders": {"text": {"name": "text-gru"}}},
)
_network(
    "text-frozen",
    "texts as a pretrained sentence encoder sees them, under a linear head; the encoder reads every text once",
    ("text",),
    images=40_000,
    rate=20_000,
    once_s=0.1,
    params={"encoders": {"text": {"name": "frozen-text"}}},
    settings={"weight_decay": 0.1},
)
_network(
    "text-lora",
    "a pretrained sentence encoder fine-tuned through low-rank adapters (LoRA); better on a GPU",
    ("text",),
    images=4_000,
    rate=5,
    baseline="record-linear",
    params={"encoders": {"text": {"name": "text-lora", "rank": 8}}},
    settings={"balance": True, "rate_peak": 1e-3, "batch": 16, "ema": 0.9},
)
_network(
    "timeline-gru",
    "the default for histories: a recurrent network over value, mask and time since",
    ("timeline",),
    images=24_000,
    rate=500,
    params={
        "encoders": {
            "timeline": {"name": "gru", "hidden": 32, "dropout": 0.4, "summary": 32, "summary_dropout": 0.6},
        }
    },
    settings={"rate_peak": 3e-3, "weight_decay": 0.05, "batch": 128},
)
_network(
    "medicines-gru",
    "the default for the medicines of a visit: a recurrent network over visits that can repeat, fined for interactions",
    ("timeline",),
    images=200_000,
    rate=2_000,
    least=8,
    tasks=("medicines",),
    architecture="medicine-net",
    baseline="repeat-last",
    expected="Jaccard .957 where repeating the last visit gives .896",
    source="generated patients, visits with an earlier one, benchmarks/medicines.py",
    params={
        "encoders": {
            "timeline": {"name": "gru", "hidden": 64, "dropout": 0.1, "summary": 64, "summary_dropout": 0.2},
        }
    },
    settings={"rate_peak": 3e-3, "weight_decay": 0.02, "batch": 128},
)
_PAIR: dict[str, Any] = {"joint": [512, 512, 256], "once": True, "dropout": 0.1, "hide": 0.02}
_PAIRS: dict[str, Any] = {"rate_peak": 1e-3, "weight_decay": 1e-4, "batch": 1024, "warm_up": 0.05}
_network(
    "affinity",
    "the default for very many pairs of a molecule and a protein: convolutions over the letters of both (DeepDTA)",
    ("protein",),
    images=1_200_000,
    rate=2_000,
    minimum=100_000,
    together="protein",
    params=_PAIR | {"encoders": {"molecule": {"name": "smiles-deep"}, "protein": {"name": "protein-cnn"}}},
    settings=_PAIRS,
)
_network(
    "affinity-graph",
    "the same with the molecule as a graph: messages along bonds (as GraphDTA, here a D-MPNN)",
    ("protein",),
    images=1_200_000,
    rate=1_800,
    minimum=100_000,
    together="protein",
    params=_PAIR
    | {"encoders": {"molecule": {"name": "molecule-graph", "hidden": 128}, "protein": {"name": "protein-cnn"}}},
    settings=_PAIRS,
)
_network(
    "affinity-full",
    "a molecule and a protein by wider networks and ten times the schedule; for a GPU",
    ("protein",),
    images=12_000_000,
    rate=1_500,
    minimum=100_000,
    together="protein",
    params={
        "encoders": {
            "molecule": {"name": "molecule-graph", "hidden": 256, "depth": 4},
            "protein": {"name": "protein-cnn", "embedding": 64, "channels": 192, "kernel": 9, "hide": 0.1},
        },
        "joint": [1024, 1024, 512],
        "once": True,
        "dropout": 0.2,
        "hide": 0.02,
    },
    settings=_PAIRS | {"batch": 512, "rate_peak": 5e-4, "ema": 0.999},
)
_add(
    average_of(
        "affinity-mean",
        [RECIPES["affinity"], RECIPES["affinity-graph"]],
        title="the mean of affinity and affinity-graph, for twice the work",
        baseline="record-trees",
        minimum=100_000,
    )
)
_network(
    "molecule-graph",
    "molecules as graphs: messages along bonds (D-MPNN, as Chemprop), with RDKit's descriptors beside them",
    ("molecule",),
    images=40_000,
    least=40,  # Chemprop shows every molecule 50 times, however many there are
    rate=450,
    baseline="record-trees",
    minimum=100_000,
    params={"encoders": {"molecule": {"name": "molecule-graph"}}},
    settings={"rate_peak": 1e-3, "ema": 0.99},
)
_network(
    "smiles-cnn",
    "molecules as the tokens of their SMILES, read by a convolutional network",
    ("molecule",),
    images=120_000,
    rate=700,
    baseline="record-trees",
    minimum=100_000,
    params={"encoders": {"molecule": {"name": "smiles-cnn"}}},
)
_network(
    "smiles-gru",
    "molecules as the tokens of their SMILES, read in both directions by a recurrent network",
    ("molecule",),
    images=120_000,
    rate=250,
    baseline="record-trees",
    minimum=100_000,
    params={"encoders": {"molecule": {"name": "smiles-gru"}}},
)
_network(
    "molecule-frozen",
    "molecules as a pretrained encoder of SMILES sees them (--weights), under a linear head; each is read once",
    ("molecule",),
    images=40_000,
    rate=20_000,
    once_s=0.03,
    pretrained=True,
    params={"encoders": {"molecule": {"name": "frozen-smiles"}}},
    settings={"weight_decay": 0.1},
)
_network(
    "molecule-lora",
    "a pretrained encoder of SMILES (--weights) fine-tuned through low-rank adapters (LoRA); better on a GPU",
    ("molecule",),
    images=4_000,
    rate=10,
    pretrained=True,
    params={"encoders": {"molecule": {"name": "smiles-lora", "rank": 8}}},
    settings={"rate_peak": 1e-3, "batch": 16, "ema": 0.9},
)
_simple(
    "boosting",
    "the default for tables: gradient-boosted trees; missing values stay missing",
    "record-trees",
    rate=20_000,
)
_simple(
    "forest",
    "a random forest: deep trees on drawn cases and columns, averaged",
    "record-forest",
    rate=300,
    tasks=("binary", "multiclass", "multilabel", "ordinal", "number"),
    baseline="record-linear",
)
_simple(
    "glass-box",
    "an explainable boosting machine: every input's effect is a curve that can be read",
    "record-additive",
    rate=5_000,
    tasks=("binary", "number"),
    inputs=("number", "category"),
)
_simple(
    "linear",
    "logistic, linear or Cox regression: one weight a column",
    "record-linear",
    rate=20_000,
    baseline="record-trees",
)
_simple(
    "treatment-effect",
    "the default for a treatment: doubly robust effects by boosted trees, beside one weight a column; who is it for",
    "effect-trees",
    rate=300,
    tasks=("effect",),
    inputs=("number", "category"),
    baseline="effect-linear",
)
_simple(
    "entities-crf",
    "the default for entities in texts: a linear chain over words, their shapes and neighbours, and listed phrases",
    "tag-crf",
    rate=180,
    tasks=("tags",),
    inputs=("text",),
    baseline="tag-lookup",
    expected="entity F1 .807",
    source="NCBI disease, official test part, benchmarks/ncbi_disease.py",
)
_network(
    "entities-bert",
    "a pretrained encoder of the BERT family that marks words, fine-tuned by LoRA; better with --weights and a GPU",
    ("text",),
    images=20_000,
    rate=5,
    tasks=("tags",),
    architecture="tag-encoder",
    baseline="tag-lookup",
    params={"encoders": {"text": {"name": "text-lora", "rank": 8}}},
    settings={"rate_peak": 1e-3, "batch": 16, "ema": 0.9},
)
_network(
    "smiles-prior",
    "the default for writing molecules: a recurrent network over the letters of their SMILES",
    ("molecule",),
    images=330_000,
    rate=600,
    tasks=("generate",),
    architecture="letters-rnn",
    baseline="letters-ngram",
    params={"hidden": 384, "layers": 1, "embedding": 64, "dropout": 0.1, "syntax": True},
    settings={"rate_peak": 2e-3, "batch": 64, "ema": 0.99, "warm_up": 0.1, "weight_decay": 0.01},
)
_network(
    "case-network",
    "a network over every input of the case: numbers, words, texts, waveforms and histories together",
    (),
    images=60_000,
    rate=2000,
)
_add(
    average_of(
        "molecule-graph-ensemble",
        [RECIPES["molecule-graph"]] * 5,
        title="five graph networks (D-MPNN) from different seeds, averaged",
        baseline="record-trees",
        minimum=100_000,
    )
)
