"""Text: TF-IDF for the simple models, and small networks over word ids.

    FEATURES["text"](block)                              # weights of words and of pairs of neighbours, named
    ENCODERS["text-cnn"](block, channels=64)             # windows of 3, 4 and 5 words, the strongest of each kind
    ENCODERS["text-gru"](block, hidden=64)               # read in both directions

Word ids come from `data.fields.text`: 0 unknown, 1 to V known, NaN after the last word. Everything, the pairs of words
included, is looked up inside the graph.

Sources: Salton and Buckley, Inf Process Manag 1988 (TF-IDF); Kim, EMNLP 2014 (convolutions); Cho et al., EMNLP 2014
(recurrent units).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES
from medserve.types import Array

COLUMNS = 4000  # words and pairs kept
SEEN = 3  # training texts behind every column
TERTILES_FROM = 11  # different values of a numeric target, from which it is cut in three
_PRIME = 2**31 - 1  # larger than any pair's key: 20,000 words give 400 million
_SLOTS = 8  # places of each lookup table a column


@FEATURES.register("text")
class TextFeature(nn.Module):
    """TF-IDF of words and pairs of neighbouring words: (1 + ln tf) * idf, rows of length 1.

    idf = ln((1 + N) / (1 + df)) + 1 over the N training texts. A text of unknown words is a row of zeros; a missing
    text is NaN. Columns are those that most training texts hold, or, by `select="chi2"`, those whose presence depends
    most on the target.

    Args:
        columns: at most; a small vocabulary gives fewer.
    """

    def __init__(self, block: Block, columns: int = COLUMNS, select: str = "frequency") -> None:
        super().__init__()
        self.block, self.select = block, select
        self.vocabulary = int(block.facts["vocabulary"])
        self.columns = max(1, min(columns, 5 * self.vocabulary))
        slots = _SLOTS * self.columns + 1
        self.keys: Tensor
        self.idf: Tensor
        self.word: Tensor
        self.pairs: Tensor
        self.where: Tensor
        self.hash: Tensor
        # A column's key: the word's id, or (first id) * (V + 1) + (second id) for a pair; -1: column not used.
        self.register_buffer("keys", torch.full((self.columns,), -1, dtype=torch.int64))
        self.register_buffer("idf", torch.zeros(self.columns))
        self.register_buffer("word", torch.full((self.vocabulary + 1,), self.columns, dtype=torch.int64))
        # Two hash tables, a pair in either: its key, and its column.
        self.register_buffer("pairs", torch.full((2, slots), -1, dtype=torch.int64))
        self.register_buffer("where", torch.full((2, slots), self.columns, dtype=torch.int64))
        self.register_buffer("hash", torch.ones(2, dtype=torch.int64))

    @property
    def names(self) -> Sequence[str]:
        words = self.block.facts.get("words") or []
        first = 0 if self.block.facts.get("tokenizer") == "wordpiece" else 1

        def word(i: int) -> str:
            return str(words[i - first]) if first <= i < len(words) + first else f"#{i}"

        base = self.vocabulary + 1
        found = []
        for column, key in enumerate(self.keys.tolist()):
            if key < 0:
                said = f"(column {column} not used)"
            elif key < base:
                said = f"'{word(key)}'"
            else:
                said = f"'{word(key // base)} {word(key % base)}'"
            found.append(f"{self.block.name}: {said}")
        return tuple(found)

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """x: (N, length). targets: (N,) or (N, K) with NaN where unknown, used by `select="chi2"` alone."""
        rows, keys = _terms(x.numpy(), self.vocabulary)
        terms, term, count = np.unique(keys, return_inverse=True, return_counts=True)
        rank = count.astype(float)
        if self.select == "chi2" and targets is not None:
            rank = _dependence(rows, term, count, targets.numpy(), len(x))
        rank = np.where(count >= SEEN, rank, -1.0)
        # Ties by key: the same columns whatever the sort.
        order = np.lexsort((terms, -rank))[: self.columns]
        order = np.sort(order[rank[order] >= 0])
        kept, used = terms[order], int(torch.isfinite(x).any(1).sum())
        self.keys.fill_(-1)
        self.keys[: len(kept)] = torch.from_numpy(kept)
        self.idf.zero_()
        self.idf[: len(kept)] = torch.from_numpy(np.log((1 + used) / (1 + count[order])) + 1).float()
        self._index(kept)

    def _index(self, kept: Array) -> None:
        single = kept <= self.vocabulary
        self.word.fill_(self.columns)
        self.word[torch.from_numpy(kept[single])] = torch.from_numpy(np.flatnonzero(single))
        columns = np.flatnonzero(~single)
        slots, random = self.pairs.shape[1], np.random.default_rng(0)
        while True:  # nearly always once: a pair is lost only where both of its places are taken
            multiplier = random.integers(1, 2**31 - 1, 2)
            table, column = np.full((2, slots), -1, np.int64), np.full((2, slots), self.columns, np.int64)
            places = (kept[columns][None] * multiplier[:, None]) % _PRIME % slots
            for i, (first, second) in enumerate(places.T):
                side, place = (0, first) if table[0, first] < 0 else (1, second)
                if table[side, place] >= 0:
                    break
                table[side, place], column[side, place] = kept[columns[i]], columns[i]
            else:
                break
        self.hash.copy_(torch.from_numpy(multiplier))
        self.pairs.copy_(torch.from_numpy(table))
        self.where.copy_(torch.from_numpy(column))

    def forward(self, x: Tensor) -> Tensor:
        known = torch.isfinite(x)
        ids = torch.where(known, x, 0.0).long().clamp(0, self.vocabulary)
        key = ids[:, :-1] * (self.vocabulary + 1) + ids[:, 1:]
        slots = self.pairs.shape[1]
        pair = torch.full_like(key, self.columns)
        for side in (0, 1):
            place = key * self.hash[side] % _PRIME % slots
            pair = torch.where(self.pairs[side][place] == key, self.where[side][place], pair)
        columns = torch.cat([self.word[ids], pair], 1)
        count = torch.zeros(x.shape[0], self.columns + 1, dtype=x.dtype, device=x.device)
        count = count.scatter_add(1, columns, torch.ones_like(columns, dtype=x.dtype))[:, :-1]
        weight = torch.where(count > 0, 1 + count.clamp_min(1).log(), 0.0) * self.idf
        weight = weight / weight.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        return torch.where(known.any(1, keepdim=True), weight, torch.nan)


def _terms(x: Array, vocabulary: int) -> tuple[Array, Array]:
    """(row, key) of every different word and pair of known words in each text."""
    ids = np.where(np.isfinite(x), x, 0).astype(np.int64)
    base = vocabulary + 1
    first, second = ids[:, :-1], ids[:, 1:]
    pair = np.where((first > 0) & (second > 0), first * base + second, 0)
    every = np.concatenate([ids, pair], 1)
    every.sort(1)
    fresh = np.concatenate([np.ones((len(every), 1), bool), every[:, 1:] != every[:, :-1]], 1) & (every > 0)
    rows, at = np.nonzero(fresh)
    return rows, every[rows, at]


def _dependence(rows: Array, term: Array, count: Array, targets: Array, cases: int) -> Array:
    """Pearson's chi-square of each term's presence with the target, the largest over several targets."""
    best = np.zeros(len(count))
    for y in targets.reshape(cases, -1).T:
        known = np.isfinite(y)
        levels = np.unique(y[known])
        if len(levels) >= TERTILES_FROM:
            y = np.where(known, np.digitize(y, np.quantile(y[known], (1 / 3, 2 / 3))), np.nan)
            levels = np.unique(y[known])
        total = int(known.sum())
        within = np.bincount(term[known[rows]], minlength=len(count)).astype(float)  # cases that hold the term
        chi = np.zeros(len(count))
        for level in levels:
            of_level = y == level
            seen = np.bincount(term[of_level[rows]], minlength=len(count))
            for held, expected in (
                (seen, within * of_level.sum() / total),
                (of_level.sum() - seen, (total - within) * of_level.sum() / total),
            ):
                chi += np.where(expected > 0, (held - expected) ** 2 / np.maximum(expected, 1e-9), 0.0)
        best = np.maximum(best, chi)
    return best


def by_length(x: Tensor, read: Callable[[Tensor], Tensor], strip: int | None = None, step: int = 1) -> Tensor:
    """`read` of texts without the empty places that they share, which change nothing but the time it takes.

    Args:
        x: (B, T) ids with NaN after the last word. strip: texts read together, those of like length; None: all.
        step: places are left out by whole numbers of it.
    """
    if torch.compiler.is_exporting() or strip is None or len(x) <= strip:
        return read(to_longest(x, step))
    order = torch.isfinite(x).sum(1).argsort(stable=True)
    found = torch.cat([read(to_longest(x[part], step)) for part in order.split(strip)])
    return found[order.argsort()]


def to_longest(x: Tensor, step: int = 1) -> Tensor:
    """(B, T) or (B, T, F) -> (B, longest) or (B, longest, F): without the places, NaN, after the longest row.

    At least one is left, and a whole number of `step`. An exported graph finds them for each batch that it is given.
    """
    there = torch.isfinite(x if x.ndim == 2 else x[..., 0])
    count = there.sum(1).amax(0)
    steps = torch.div(count + step - 1, step, rounding_mode="floor").clamp_min(1).item()
    torch._check(steps >= 1)
    torch._check(steps * step <= x.shape[1])
    return x[:, : steps * step]


class WordEmbedding(nn.Module):
    """(B, T) ids with NaN -> (B, T, E) vectors, zero after the last word, and the (B, T) mask of words.

    hide: share of words that are taken for unknown while training, so that no single word decides.
    """

    def __init__(self, vocabulary: int, width: int, hide: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary + 1, width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.hide = hide

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.isfinite(x)
        ids = torch.where(known, x, 0.0).long().clamp(0, self.table.num_embeddings - 1)
        if self.training and self.hide:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.hide, 0, ids)
        return self.table(ids) * known.unsqueeze(2).to(x.dtype), known


@ENCODERS.register("text-cnn")
class TextCnn(nn.Module):
    """The strongest answer of every filter over windows of 3, 4 and 5 words.

    Args:
        embedding: numbers a word. channels: filters a window width. hide: see `WordEmbedding`.
    """

    WIDTHS = (3, 4, 5)
    STRIP = 16  # texts that pass together; smaller tensors stay in the processor's cache

    def __init__(
        self, block: Block, embedding: int = 96, channels: int = 64, dropout: float = 0.2, hide: float = 0.1
    ) -> None:
        super().__init__()
        self.words = WordEmbedding(int(block.facts["vocabulary"]), embedding, hide)
        self.windows = nn.ModuleList([nn.Conv1d(embedding, channels, w) for w in self.WIDTHS])
        self.dropout = nn.Dropout(dropout)
        self.width = channels * len(self.WIDTHS)

    def fit(self, x: Tensor) -> None:
        """Nothing to scale."""

    def forward(self, x: Tensor) -> Tensor:
        return by_length(x, self._read, self.STRIP)

    def _read(self, x: Tensor) -> Tensor:
        vectors, known = self.words(x)
        vectors = self.dropout(vectors).transpose(1, 2)
        mask = known.to(x.dtype).unsqueeze(1)
        found = []
        for window in self.windows:
            reach = int(window.kernel_size[0]) - 1  # type: ignore[index]
            answer = window(F.pad(vectors, (0, reach)))  # a window may hang over the end, not begin after it
            found.append(F.relu((answer * mask).amax(2)))
        return torch.cat(found, 1)


@ENCODERS.register("text-gru")
class TextGru(nn.Module):
    """Two recurrent readings, from the first word on and from the last one back, each by mean and maximum over words.

    The backward reading starts at the text's own last word, so that the empty places after it change nothing.
    """

    def __init__(
        self, block: Block, embedding: int = 96, hidden: int = 64, dropout: float = 0.2, hide: float = 0.1
    ) -> None:
        super().__init__()
        self.words = WordEmbedding(int(block.facts["vocabulary"]), embedding, hide)
        self.dropout = nn.Dropout(dropout)
        self.forth = nn.GRU(embedding, hidden, batch_first=True)
        self.back = nn.GRU(embedding, hidden, batch_first=True)
        self.width = 4 * hidden

    def fit(self, x: Tensor) -> None:
        """Nothing to scale."""

    def forward(self, x: Tensor) -> Tensor:
        return by_length(x, self._read)

    def _read(self, x: Tensor) -> Tensor:
        vectors, known = self.words(x)
        vectors = self.dropout(vectors)
        count = known.sum(1, keepdim=True)
        turned = (count - 1 - torch.arange(x.shape[1], device=x.device)).clamp_min(0)  # the same words, last one first
        reverse = vectors.gather(1, turned.unsqueeze(2).expand(-1, -1, vectors.shape[2]))
        mask = known.unsqueeze(2)
        found = []
        for read in (recur(self.forth, vectors, count), recur(self.back, reverse, count)):
            found.append((read * mask.to(x.dtype)).sum(1) / count.clamp_min(1).to(x.dtype))
            found.append(torch.where(mask, read, -1.0).amax(1))
        return torch.cat(found, 1)


def recur(net: nn.GRU, x: Tensor, count: Tensor) -> Tensor:
    """States of one layer in one direction. x: (B, T, E). count: (B, 1) places of a row; after them stands any number.

    An exported graph holds ONNX's own operator, told where each row ends; its gates stand in another order.
    """
    if not torch.compiler.is_exporting():
        return net(x)[0]  # type: ignore[no-any-return]

    own = dict(net.named_parameters())

    def gates(name: str) -> Tensor:
        reset, update, new = own[f"{name}_l0"].chunk(3)
        return torch.cat([update, reset, new]).unsqueeze(0)

    biases = torch.cat([gates("bias_ih"), gates("bias_hh")], 1)
    states = torch.onnx.ops.symbolic(
        "GRU",
        (x.transpose(0, 1), gates("weight_ih"), gates("weight_hh"), biases, count[:, 0].int()),
        {"hidden_size": net.hidden_size, "linear_before_reset": 1},
        dtype=x.dtype,
        shape=(x.shape[1], 1, x.shape[0], net.hidden_size),
    )
    return states[:, 0].transpose(0, 1)


DEFAULT_ENCODER["text"] = "text-cnn"

from medserve.models.record import sentence  # noqa: E402, F401  registers the pretrained encoders
