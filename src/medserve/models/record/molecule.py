"""Molecules: fragments and descriptors for the simple models; networks over the letters of a SMILES.

    FEATURES["molecule"](block)                          # counts of fragments, descriptors by name
    ENCODERS["smiles-cnn"](block, channels=128)          # windows of letters, the strongest of each kind
    ENCODERS["smiles-gru"](block, hidden=96)             # read in both directions
    ENCODERS["fragments"](block)                         # two layers over counts and descriptors

What stands where in the block is told by its facts, see `data.fields.molecule`.
Sources: Rogers and Hahn 2010 (fragments); Kim, EMNLP 2014 and Cho et al., EMNLP 2014, here over letters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.data.fields.molecule import LETTERS
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES, Standardise
from medserve.models.record.text import TextCnn, TextGru


def _letters(block: Block) -> Block:
    """The part of the block that holds letters, as if it were a text."""
    return Block(block.name, "text", 0, (int(block.facts["length"]),), {"vocabulary": LETTERS})


@FEATURES.register("molecule")
class MoleculeFeature(nn.Module):
    """log(1 + count) of each fragment, and each descriptor as it is."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.bits, descriptors = int(block.facts["bits"]), block.facts["descriptors"]
        self.used = self.bits + len(descriptors)
        fragments = [f"{block.name}: fragment {i}" for i in range(self.bits)]
        self.names: Sequence[str] = (*fragments, *(f"{block.name}: {name}" for name in descriptors))

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : self.bits].log1p(), x[:, self.bits : self.used]], 1)


@ENCODERS.register("fragments")
class Fragments(nn.Module):
    """Counts and descriptors, standardised, through two layers."""

    def __init__(self, block: Block, width: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.columns = MoleculeFeature(block)
        self.scale = Standardise(self.columns.used)
        self.body = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * self.columns.used, width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.GELU(),
        )  # fmt: skip
        self.width = width

    def fit(self, x: Tensor) -> None:
        self.scale.fit(self.columns(x))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(self.scale(self.columns(x)))
        return found


@ENCODERS.register("smiles-cnn")
class SmilesCnn(TextCnn):
    def __init__(self, block: Block, embedding: int = 64, channels: int = 96, dropout: float = 0.2) -> None:
        super().__init__(_letters(block), embedding, channels, dropout, hide=0.02)
        self.start = block.size - int(block.facts["length"])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.start :])


@ENCODERS.register("smiles-gru")
class SmilesGru(TextGru):
    def __init__(self, block: Block, embedding: int = 64, hidden: int = 96, dropout: float = 0.2) -> None:
        super().__init__(_letters(block), embedding, hidden, dropout, hide=0.02)
        self.start = block.size - int(block.facts["length"])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.start :])


DEFAULT_ENCODER["molecule"] = "fragments"
