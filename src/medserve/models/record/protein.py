"""Proteins: counts of residues and pairs for the simple models; convolutions over the letters for networks.

    FEATURES["protein"](block)                           # length, 20 residues, 400 pairs of neighbours, by name
    ENCODERS["protein-cnn"](block, channels=64)          # three layers over the sequence, the strongest of each kind
    ENCODERS["smiles-deep"](block, channels=32)          # the same over the letters of a SMILES

What stands where in the block is told by `data.fields.protein`.
Source: Ozturk et al., "DeepDTA", Bioinformatics 34:i821 (2018), here with pooling between the layers of the protein, so
that a step costs a sixth of theirs.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.data.fields.molecule import LETTERS as SMILES_LETTERS
from medserve.data.fields.protein import NUMBERS
from medserve.data.proteins.sequence import TWENTY
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES
from medserve.models.record.text import by_length


@FEATURES.register("protein")
class ProteinFeature(nn.Module):
    """The length, how often each of the twenty residues occurs, and how often each follows each.

    Whole numbers, so that every engine computes the same ones. Letters beyond the twenty are in the length alone.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        count = len(TWENTY)
        self.names: Sequence[str] = (
            f"{block.name}: length",
            *(f"{block.name}: {a}" for a in TWENTY),
            *(f"{block.name}: {a}{b}" for a, b in itertools.product(TWENTY, TWENTY)),
        )
        place = torch.full((NUMBERS + 1,), count)
        place[[ord(a) - ord("A") + 1 for a in TWENTY]] = torch.arange(count)
        self.place: Tensor
        self.register_buffer("place", place)

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        count, known = len(TWENTY), torch.isfinite(x[:, 1:])
        which = self.place[torch.where(known, x[:, 1:], 0.0).long().clamp(0, NUMBERS)]
        first, second = which[:, :-1], which[:, 1:]
        both = (first < count) & (second < count)
        pair = torch.where(both, count + 1 + first * count + second, count)
        columns = torch.cat([which, pair], 1)
        found = torch.zeros(x.shape[0], count + 1 + count * count, dtype=x.dtype, device=x.device)
        found = found.scatter_add(1, columns, torch.ones_like(columns, dtype=x.dtype))
        found = torch.cat([x[:, :1], found[:, :count], found[:, count + 1 :]], 1)
        return torch.where(known.any(1, keepdim=True), found, torch.nan)


class Letters(nn.Module):
    """Layers of convolutions over letters, each followed by the strongest of every `pool` places; at the end the
    strongest place of each channel.

    Args:
        vocabulary: the largest number of a letter; 0 is one that is not told. length: places of a row, NaN after the
            last letter. channels: of each layer. hide: share of letters not told while training.
    """

    STRIP = 16  # rows that pass together, those of like length

    def __init__(
        self, vocabulary: int, length: int, embedding: int, channels: Sequence[int], kernel: int, pool: int, hide: float
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary + 1, embedding)
        widths = [embedding, *channels]
        self.layers = nn.ModuleList(
            [nn.Conv1d(a, b, kernel, padding=kernel // 2) for a, b in itertools.pairwise(widths)]
        )
        self.pool, self.hide, self.width = pool, hide, widths[-1]
        self.step = pool ** (len(channels) - 1)  # a whole number of places is left after every layer
        self.length = math.ceil(length / self.step) * self.step

    def forward(self, x: Tensor) -> Tensor:
        return by_length(F.pad(x, (0, self.length - x.shape[1]), value=math.nan), self._read, self.STRIP, self.step)

    def _read(self, x: Tensor) -> Tensor:
        known = torch.isfinite(x)
        ids = torch.where(known, x, 0.0).long().clamp(0, self.table.num_embeddings - 1)
        if self.training and self.hide:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.hide, 0, ids)
        there = known.to(self.table.weight.dtype).unsqueeze(1)
        found = self.table(ids).transpose(1, 2) * there
        for i, layer in enumerate(self.layers):
            found = F.relu(layer(found)) * there
            if i + 1 < len(self.layers) and self.pool > 1:
                found, there = strongest(found, self.pool), strongest(there, self.pool)
        return found.amax(2)


def strongest(x: Tensor, places: int) -> Tensor:
    """(B, C, T) -> (B, C, T / places): the largest of so many neighbours. Exported, max_pool1d wants a fixed T."""
    if torch.compiler.is_exporting():
        return x.reshape(x.shape[0], x.shape[1], -1, places).amax(3)
    return F.max_pool1d(x, places)


@ENCODERS.register("protein-cnn")
class ProteinCnn(Letters):
    """embedding: numbers a residue. channels: of the first two layers; the last has twice as many."""

    def __init__(
        self, block: Block, embedding: int = 32, channels: int = 64, kernel: int = 7, pool: int = 2, hide: float = 0.02
    ) -> None:
        length = int(block.facts["window"])
        super().__init__(NUMBERS, length, embedding, (channels, channels, 2 * channels), kernel, pool, hide)

    def fit(self, x: Tensor) -> None:
        """Nothing to scale."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, 1:])


@ENCODERS.register("smiles-deep")
class SmilesDeep(Letters):
    """Three layers over a SMILES without pooling between them. channels: of the first; it doubles with each layer."""

    def __init__(
        self, block: Block, embedding: int = 32, channels: int = 32, kernel: int = 5, hide: float = 0.02
    ) -> None:
        length = int(block.facts["length"])
        super().__init__(SMILES_LETTERS, length, embedding, (channels, 2 * channels, 4 * channels), kernel, 1, hide)
        self.start = block.size - length

    def fit(self, x: Tensor) -> None:
        """Nothing to scale."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.start :])


DEFAULT_ENCODER["protein"] = "protein-cnn"
