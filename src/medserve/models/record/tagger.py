"""Marking the words of a text: scores of every word's tags, from tables looked up inside the graph.

    net = MODELS["tag-crf"](channels=F, size=(), outputs=width, blocks=[...], attributes=80_000, phrases=400)
    net = MODELS["tag-lookup"](...)                      # listed phrases alone, the simple model beside it
    net(record).logits                                   # (B, width): see `OutputSpec`; decoded by questions.tags

The record says of each word its attributes and the phrases that begin at it (`data.fields.words`); what a model knows
of them, the list of phrases, the weights, the scores of one tag after another, are buffers that
`training.tagging` fills. No word stands in them: a row belongs to a digest.

Sources: Lafferty, McCallum and Pereira, ICML 2001; Ratinov and Roth, CoNLL 2009 (lists).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.data.text.features import LONGEST_PHRASE, SLOTS
from medserve.models.nets import MODELS, Features
from medserve.models.record import as_blocks, take_block

PLACES = 2**18  # of the table in which a phrase is looked up; its whole digest is compared there
STEPS = (-2, -1, 1, 2)  # neighbours whose marks a word sees


def tags_of(width: int, words: int) -> int:
    """K, from width = K * (words + K)."""
    tags = round((-words + (words * words + 4 * width) ** 0.5) / 2)
    assert tags * (words + tags) == width, "the logits do not fit the words of the record"
    return tags


def joined(emissions: Tensor, known: Tensor, transitions: Tensor) -> Features:
    """What a tagger gives: (B, T, K) scores, 0 beyond the last word, and behind them the (K, K) of one tag after
    another. The embedding is the mean score of each tag."""
    scores = torch.where(known.unsqueeze(2), emissions, 0.0)
    after = transitions.flatten().unsqueeze(0).expand(scores.shape[0], -1)
    mean = scores.sum(1) / known.sum(1, keepdim=True).clamp_min(1)
    return Features(torch.cat([scores.flatten(1), after], 1), mean, None)


class Marks(nn.Module):
    """Listed phrases where they stand. forward: (B, T, 8) digests with NaN -> (B, T) tags as numbers, int64.

    The longest phrase that begins at a word counts; words that an earlier one covers go on with it.
    """

    def __init__(self, phrases: int) -> None:
        super().__init__()
        self.keys: Tensor
        self.names: Tensor
        self.place: Tensor
        self.register_buffer("keys", torch.full((phrases + 1,), -1, dtype=torch.int64))  # row 0: none
        self.register_buffer("names", torch.zeros(phrases + 1, dtype=torch.int64))  # 1 + the name's number
        self.register_buffer("place", torch.zeros(PLACES, dtype=torch.int32))

    def fill(self, listed: Mapping[int, int]) -> None:
        """listed: digest -> number of the name. Of two in one place of the table, the first stays."""
        self.place.zero_()
        for row, (key, name) in enumerate(sorted(listed.items()), 1):
            self.keys[row], self.names[row] = key, name + 1
            if not self.place[key % PLACES]:
                self.place[key % PLACES] = row

    def forward(self, phrases: Tensor) -> Tensor:
        key = torch.where(torch.isfinite(phrases), phrases, -2.0).long()
        row = self.place[key.clamp_min(0) % PLACES].long()
        name = torch.where(self.keys[row] == key, self.names[row], 0)  # (B, T, 8)
        longest, which = torch.zeros_like(name[..., 0]), torch.zeros_like(name[..., 0])
        for k in range(LONGEST_PHRASE):
            there = name[..., k] > 0
            longest, which = torch.where(there, k + 1, longest), torch.where(there, name[..., k], which)
        marks = torch.where(which > 0, 2 * which - 1, 0)
        for back in range(1, LONGEST_PHRASE):
            before, reach = shift(which, -back, 0), shift(longest, -back, 0)
            marks = torch.where(reach > back, 2 * before, marks)
        return marks


def shift(x: Tensor, step: int, beyond: int) -> Tensor:
    """(B, T): at each word what stands `step` words on; `beyond` where there is no word."""
    if step < 0:
        return F.pad(x, (-step, 0), value=beyond)[:, :step]
    return F.pad(x, (0, step), value=beyond)[:, step:]


class TagLookup(nn.Module):
    """Every word by its mark alone: how often each tag stood, in training, at words marked so. buffers: `shares`."""

    def __init__(self, block: Block, tags: int, phrases: int) -> None:
        super().__init__()
        self.block, self.tags = block, tags
        self.attributes = int(block.facts["attributes"])
        self.marks = Marks(phrases)
        self.shares: Tensor
        self.between: Tensor
        self.register_buffer("shares", torch.zeros(tags, tags))
        self.register_buffer("between", torch.zeros(tags, tags))

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        x = take_block(record, self.block)
        marks = self.marks(x[..., self.attributes :])
        return joined(self.shares[marks], torch.isfinite(x[..., self.attributes]), self.between)


class TagCrf(nn.Module):
    """A linear chain over words: weights of attributes and of marks, and of one tag after another."""

    def __init__(self, block: Block, tags: int, attributes: int, phrases: int) -> None:
        super().__init__()
        self.block, self.tags = block, tags
        self.attributes = int(block.facts["attributes"])
        self.marks = Marks(phrases)
        self.slot: Tensor
        self.weight: Tensor
        self.listed: Tensor
        self.between: Tensor
        self.register_buffer("slot", torch.zeros(SLOTS, dtype=torch.int32))  # row of `weight`; row 0 is nothing
        self.register_buffer("weight", torch.zeros(attributes + 1, tags))
        self.register_buffer("listed", torch.zeros(self.list_rows, tags))
        self.register_buffer("between", torch.zeros(tags, tags))

    @property
    def list_rows(self) -> int:
        """Own mark, marks of four neighbours, and pairs of marks with the word before and the word after."""
        k = self.tags
        return k + len(STEPS) * (k + 1) + 2 * k * (k + 1)

    def list_ids(self, phrases: Tensor) -> Tensor:
        """(B, T, 8) -> (B, T, 7) rows of `listed`, int64."""
        marks, k = self.marks(phrases), self.tags
        near = {step: shift(marks, step, k) for step in STEPS}
        found = [marks]
        found += [near[step] + k + i * (k + 1) for i, step in enumerate(STEPS)]
        start = k + len(STEPS) * (k + 1)
        found += [start + near[-1] * k + marks, start + k * (k + 1) + near[1] * k + marks]
        return torch.stack(found, 2)

    def fill(self, weights: Mapping[int, Sequence[float]], listed: Mapping[int, Sequence[float]]) -> None:
        """weights: slot -> (K,) of every attribute kept. listed: row -> (K,)."""
        for row, (key, values) in enumerate(sorted(weights.items()), 1):
            self.slot[key] = row
            self.weight[row] = torch.as_tensor(values)
        for row, values in listed.items():
            self.listed[row] = torch.as_tensor(values)

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        x = take_block(record, self.block)
        said = x[..., : self.attributes]
        known = torch.isfinite(said)
        rows = torch.where(known, self.slot[torch.where(known, said, 0.0).long()].long(), 0)
        scores = F.embedding(rows, self.weight).sum(2)
        scores = scores + F.embedding(self.list_ids(x[..., self.attributes :]), self.listed).sum(2)
        return joined(scores, known[..., 0], self.between)


@MODELS.register("tag-crf")
def tag_crf(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    attributes: int = 0,
    phrases: int = 0,
) -> nn.Module:
    """attributes, phrases: how many are kept."""
    (block,) = as_blocks(blocks)
    return TagCrf(block, tags_of(outputs, block.shape[0]), attributes, phrases)


@MODELS.register("tag-lookup")
def tag_lookup(
    channels: int, size: tuple[int, ...], outputs: int, blocks: Sequence[Any] = (), phrases: int = 0
) -> nn.Module:
    """phrases: how many are listed."""
    (block,) = as_blocks(blocks)
    return TagLookup(block, tags_of(outputs, block.shape[0]), phrases)
