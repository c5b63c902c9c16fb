"""What writes molecules: the probability of each letter of a SMILES given those before it.

    net = MODELS["letters-rnn"](channels=F, size=(), outputs=1, blocks=[...], hidden=512, layers=1)
    net(record).logits                       # (B, 1): mean log-probability of the molecule's letters and of its end
    logits, state = net.step(letter, state)  # (B, V): of the next letter; state: net.start(B) before the first
    MODELS["letters-ngram"](...)             # shares of letters after the last few, the simple model beside it

Letters are numbered 1 to V - 2 in the order of the field's alphabet; 0 begins and ends a molecule, V - 1 is every
letter that training never saw. `step` is exported as the package's step graph: sampling needs no training framework.
With `syntax` the network is told what is open (branches, a bracket, rings), and what cannot come next is barred.

Sources: Segler, Kogej, Tyrchan and Waller, ACS Cent Sci 4:120 (2018) (recurrent networks over SMILES);
Witten and Bell, IEEE Trans Inf Theory 37:1085 (1991) (interpolated shares).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.data.fields.molecule import LETTERS
from medserve.models.nets import MODELS, Features
from medserve.models.record import as_blocks, take_block
from medserve.models.record.syntax import BAR, Syntax
from medserve.types import Samples

END = 0
PIECES = 4  # of a training batch, by length: short molecules do not wait for long ones


class Letters(nn.Module):
    """Records to numbers of letters. vocabulary: end, the alphabet, and one for every other letter."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        alphabet = str(block.facts["alphabet"])
        self.vocabulary = len(alphabet) + 2
        self.index: Tensor
        index = torch.full((LETTERS + 1,), self.vocabulary - 1, dtype=torch.int64)
        for number, letter in enumerate(alphabet, 1):
            index[ord(letter)] = number
        self.register_buffer("index", index, persistent=False)

    def forward(self, record: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) float32 with NaN -> (B, L) int64, 0 beyond the last letter; and (B,) how many letters."""
        x = take_block(record, self.block)
        known = torch.isfinite(x)
        ids = self.index[torch.where(known, x, 0.0).long().clamp(0, LETTERS)]
        return torch.where(known, ids, END), known.sum(1)


def mean_of(each: Tensor, count: Tensor) -> Tensor:
    """(B, L + 1) log-probabilities -> (B, 1) their mean over the letters and the end."""
    places = torch.arange(each.shape[1], device=each.device)
    inside = places.unsqueeze(0) <= count.unsqueeze(1)
    return (torch.where(inside, each, 0.0).sum(1) / (count + 1)).unsqueeze(1)


class LettersRnn(nn.Module):
    """Long short-term memory over letters. syntax: what is open is read beside each letter, what cannot come barred."""

    def __init__(
        self, block: Block, hidden: int, layers: int, embedding: int, dropout: float, syntax: bool = False
    ) -> None:
        super().__init__()
        self.letters = Letters(block)
        self.hidden, self.layers = hidden, layers
        self.embed = nn.Embedding(self.letters.vocabulary, embedding)
        self.syntax = Syntax(str(block.facts["alphabet"])) if syntax else None
        told = embedding + (self.syntax.width if self.syntax else 0)
        self.rnn = nn.LSTM(told, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, self.letters.vocabulary)

    @property
    def vocabulary(self) -> int:
        return self.letters.vocabulary

    @property
    def state_size(self) -> int:
        return 2 * self.layers * self.hidden + (self.syntax.size if self.syntax else 0)

    def fit(self, train: Samples) -> None:
        """Nothing is scaled."""

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        ids, count = self.letters(record)
        if not self.training or len(ids) < 2 * PIECES:
            each, last = self.log_probs(ids)
            return Features(mean_of(each, count), last, None)
        order = torch.argsort(count)
        found, ends = [], []
        for rows in order.chunk(PIECES):
            each, last = self.log_probs(ids[rows, : int(count[rows].max())])
            found.append(mean_of(each, count[rows]))
            ends.append(last)
        back = torch.argsort(order)
        return Features(torch.cat(found)[back], torch.cat(ends)[back], None)

    def log_probs(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) -> (B, L + 1) log-probability of each letter and of the end; (B, hidden) the mean of what was read."""
        given = F.pad(ids, (1, 0), value=END)
        x, open_ = self.drop(self.embed(given)), None
        if self.syntax is not None:
            open_ = self.syntax.read(given)
            x = torch.cat([x, self.syntax.told(open_)], 2)
        read, _ = self.rnn(x)
        log = F.log_softmax(self._barred(self.out(self.drop(read)), open_), 2)
        wanted = F.pad(ids, (0, 1), value=END)
        return log.gather(2, wanted.unsqueeze(2)).squeeze(2), read.mean(1)

    def start(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.state_size)

    def step(self, letter: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """letter: (B,) int64; state: (B, S). The same arithmetic as the library's, cell by cell, so that it exports."""
        x, open_, told = self.embed(letter), None, 2 * self.layers * self.hidden
        if self.syntax is not None:
            open_ = self.syntax.after(letter, state[:, told:])
            x = torch.cat([x, self.syntax.told(open_)], 1)
        parts = list(state[:, :told].chunk(2 * self.layers, 1))
        for layer in range(self.layers):
            h, c = parts[2 * layer], parts[2 * layer + 1]
            names = (f"{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            w_x, w_h, b_x, b_h = (getattr(self.rnn, name) for name in names)
            i, f, g, o = (F.linear(x, w_x, b_x) + F.linear(h, w_h, b_h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * torch.tanh(c)
            parts[2 * layer], parts[2 * layer + 1] = x, c
        return self._barred(self.out(x), open_), torch.cat(parts if open_ is None else [*parts, open_], 1)

    def _barred(self, logits: Tensor, open_: Tensor | None) -> Tensor:
        return logits if self.syntax is None or open_ is None else logits - BAR * self.syntax.barred(open_)


class LettersNgram(nn.Module):
    """Shares of each letter after the last `order - 1`. buffer `log`: (V ** (order - 1), V) log-probabilities."""

    def __init__(self, block: Block, order: int) -> None:
        super().__init__()
        self.letters = Letters(block)
        self.order = order
        v = self.letters.vocabulary
        self.log: Tensor
        self.register_buffer("log", torch.full((v ** (order - 1), v), -float(torch.tensor(float(v)).log())))

    @property
    def vocabulary(self) -> int:
        return self.letters.vocabulary

    @property
    def state_size(self) -> int:
        return self.order - 2

    def contexts(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L + 1) row of `log` for each letter and the end."""
        back = self.order - 1
        whole = F.pad(ids, (back, 0), value=END)
        row = torch.zeros_like(whole[:, : ids.shape[1] + 1])
        for k in range(back):
            row = row * self.vocabulary + whole[:, k : k + ids.shape[1] + 1]
        return row

    def forward(self, record: Tensor) -> Features:
        ids, count = self.letters(record)
        wanted = F.pad(ids, (0, 1), value=END)
        each = self.log[self.contexts(ids), wanted]
        mean = mean_of(each, count)
        return Features(mean, mean, None)

    def start(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.state_size)

    def step(self, letter: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """state: (B, order - 2) the letters before, as numbers."""
        last = torch.cat([state.long(), letter.unsqueeze(1)], 1)
        row = torch.zeros_like(letter)
        for k in range(self.order - 1):
            row = row * self.vocabulary + last[:, k]
        return self.log[row], last[:, 1:].float()


@MODELS.register("letters-rnn")
def letters_rnn(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    hidden: int = 512,
    layers: int = 1,
    embedding: int = 64,
    dropout: float = 0.1,
    syntax: bool = False,
) -> nn.Module:
    (block,) = as_blocks(blocks)
    return LettersRnn(block, hidden, layers, embedding, dropout, syntax)


@MODELS.register("letters-ngram")
def letters_ngram(
    channels: int, size: tuple[int, ...], outputs: int, blocks: Sequence[Any] = (), order: int = 4
) -> nn.Module:
    (block,) = as_blocks(blocks)
    return LettersNgram(block, order)
