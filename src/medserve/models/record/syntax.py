"""What a SMILES has open after each of its letters: branches, a bracket atom, rings.

    syntax = Syntax(alphabet)
    open_ = syntax.read(ids)                 # (B, L) letters -> (B, L, W): after each of them
    open_ = syntax.after(letter, open_)      # (B,), (B, W) -> (B, W): the same, one letter at a time
    logits = logits - BAR * syntax.barred(open_)

A network that is told this need not count by itself, and what cannot come next in any SMILES (an end while a ring is
open, a branch closed that was never opened) is barred. It follows from the letters alone and knows no chemistry.
Letters are numbered as in `models.record.letters`; columns of W: open branches; open brackets; one for each ring
number, 1 while it is open; and where the alphabet holds "%", how many digits of a ring number are still to come, and
the last letter's digit.

Source: Weininger, J Chem Inf Comput Sci 28:31 (1988); OpenSMILES 1.0, sections 3.1 (brackets) and 3.4 (rings).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAR = 30.0  # taken from the logarithm: one in 10^13, and still finite where a strange text is scored
INSIDE = "()[%="  # what no bracket atom holds


class Syntax(nn.Module):
    """alphabet: letters 1 to V - 2; 0 is the end, V - 1 stands for every other letter and is never barred."""

    def __init__(self, alphabet: str) -> None:
        super().__init__()
        self.long = "%" in alphabet  # ring numbers of two digits
        self.rings = 100 if self.long else 10
        self.width = 2 + self.rings + 2 * self.long
        letters = ["", *alphabet, ""]

        def table(found: list[float]) -> Tensor:
            return torch.tensor(found)

        def mark(chosen: str) -> Tensor:
            return table([float(bool(c) and c in chosen) for c in letters])

        self.branch: Tensor
        self.bracket: Tensor
        self.digit: Tensor
        self.percent: Tensor
        self.bars: Tensor
        known, end = table([1.0] * (len(letters) - 1) + [0.0]), table([1.0] + [0.0] * (len(letters) - 1))
        digits = mark("0123456789")
        tables = {
            "branch": mark("(") - mark(")"),
            "bracket": mark("[") - mark("]"),
            "digit": table([float(c) if c and c in "0123456789" else -1.0 for c in letters]),
            "percent": mark("%"),
            # each row: what is barred while its condition of `barred` holds
            "bars": torch.stack([mark(INSIDE), mark("]"), mark(")"), known - digits, end]),
        }
        for name, value in tables.items():
            self.register_buffer(name, value, persistent=False)

    def read(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, W) float32 after each letter, from nothing."""
        brackets = self.bracket[ids].cumsum(1)
        wait, tens = self._number(ids) if self.long else (torch.zeros_like(brackets), torch.zeros_like(brackets))
        before = F.pad(wait, (1, 0))[:, :-1], F.pad(tens, (1, 0))[:, :-1]
        rings = torch.remainder(self._turned(ids, brackets, *before).cumsum(1), 2.0)
        told = torch.cat([self.branch[ids].cumsum(1).unsqueeze(2), brackets.unsqueeze(2), rings], 2)
        return torch.cat([told, wait.unsqueeze(2), tens.unsqueeze(2)], 2) if self.long else told

    def after(self, letter: Tensor, before: Tensor) -> Tensor:
        """letter: (B,) int64; before: (B, W), zeros at the start -> (B, W)."""
        brackets = before[:, 1] + self.bracket[letter]
        wait, tens = (before[:, -2], before[:, -1]) if self.long else (0 * brackets, 0 * brackets)
        rings, turned = before[:, 2 : 2 + self.rings], self._turned(letter, brackets, wait, tens)
        branches = before[:, 0] + self.branch[letter]
        told = torch.cat([branches.unsqueeze(1), brackets.unsqueeze(1), rings + turned - 2 * rings * turned], 1)
        if not self.long:
            return told
        left = torch.where(self.percent[letter] > 0, 2.0, (wait == 2).float())
        return torch.cat([told, left.unsqueeze(1), self.digit[letter].clamp(min=0).unsqueeze(1)], 1)

    def barred(self, open_: Tensor) -> Tensor:
        """(..., W) -> (..., V), 1 for a letter that cannot come next, else 0."""
        branches, inside = open_[..., 0] > 0, open_[..., 1] > 0
        waiting = open_[..., -2] > 0 if self.long else torch.zeros_like(inside)
        rings = (open_[..., 2 : 2 + self.rings] > 0).any(-1)
        holds = torch.stack([inside, ~inside, ~branches, waiting, branches | inside | rings | waiting], -1)
        return (holds.to(open_.dtype) @ self.bars).clamp(max=1.0)

    def _number(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) digits of a ring number still to come after each letter, and that letter's own digit."""
        percent = self.percent[ids]
        left = torch.where(percent > 0, 2.0, F.pad(percent, (1, 0))[:, :-1])
        return left, self.digit[ids].clamp(min=0)

    def _turned(self, ids: Tensor, brackets: Tensor, wait: Tensor, tens: Tensor) -> Tensor:
        """(..., R): 1 for the ring that a letter opens or closes, no digit in brackets. wait, tens: before it."""
        digit = self.digit[ids]
        number = torch.where(wait == 1, 10 * tens + digit, digit)
        turns = (digit >= 0) & (brackets <= 0) & (wait != 2)
        every = torch.arange(self.rings, device=ids.device, dtype=digit.dtype)
        return ((number.unsqueeze(-1) == every) & turns.unsqueeze(-1)).to(digit.dtype)
