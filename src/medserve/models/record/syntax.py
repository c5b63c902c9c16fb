"""What a SMILES has open after each of its letters: branches, a bracket atom, rings and how far round they are.

    syntax = Syntax(alphabet)
    state = syntax.read(ids)                 # (B, L) letters -> (B, L, S): after each of them
    state = syntax.after(letter, state)      # (B,), (B, S) -> (B, S): the same, one letter at a time
    told = syntax.told(state)                # (..., W): what a network reads of it
    logits = logits - BAR * syntax.barred(state)

A network that is told this need not count by itself, and what cannot come next in any SMILES (an end while a ring is
open, a branch closed that was never opened) is barred. It follows from the letters alone and knows no chemistry.
Letters are numbered as in `models.record.letters`.

Source: Weininger, J Chem Inf Comput Sci 28:31 (1988); OpenSMILES 1.0, sections 3.1 (brackets) and 3.4 (rings).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAR = 30.0  # taken from the logarithm: one in 10^13, and still finite where a strange text is scored
INSIDE = "()[%="  # what no bracket atom holds
ATOMS = "BCNOPSFIbcnops*"  # outside of brackets, where the second letter of Br and Cl is none; a bracket atom is one
DIGITS = "0123456789"
LEVELS = 8  # of branches in branches whose atoms are counted apart; deeper ones count with the last
LARGEST = 8  # atoms round a ring that are told apart; more are told as so many


class Syntax(nn.Module):
    """alphabet: letters 1 to V - 2; 0 is the end, V - 1 stands for every other letter and is never barred.

    Columns of the state S: open branches; open brackets; each ring number, 1 while it is open; on the way from the
    first atom to the last, the atoms at each level of branches; their sum where each one-digit ring was last opened or
    closed; and where the alphabet holds "%", how many digits of a ring number are still to come, and the last letter's
    digit. Columns of W: the first three, and for each open one-digit ring a 1 for every atom round it so far.
    """

    def __init__(self, alphabet: str) -> None:
        super().__init__()
        self.long = "%" in alphabet  # ring numbers of two digits
        self.rings = 100 if self.long else 10
        self.size = 2 + self.rings + LEVELS + 10 + 2 * self.long
        self.width = 2 + self.rings + 10 * LARGEST
        letters = ["", *alphabet, ""]

        def mark(chosen: str) -> Tensor:
            return torch.tensor([float(bool(c) and c in chosen) for c in letters])

        self.branch: Tensor
        self.bracket: Tensor
        self.digit: Tensor
        self.percent: Tensor
        self.atom: Tensor
        self.bars: Tensor
        known = torch.tensor([1.0] * (len(letters) - 1) + [0.0])
        end = torch.tensor([1.0] + [0.0] * (len(letters) - 1))
        tables = {
            "branch": mark("(") - mark(")"),
            "bracket": mark("[") - mark("]"),
            "digit": torch.tensor([float(c) if c and c in DIGITS else -1.0 for c in letters]),
            "percent": mark("%"),
            "atom": mark(ATOMS),
            # each row: what is barred while its condition of `barred` holds
            "bars": torch.stack([mark(INSIDE), mark("]"), mark(")"), known - mark(DIGITS), end]),
        }
        for name, value in tables.items():
            self.register_buffer(name, value, persistent=False)

    def read(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, S) float32 after each letter, from nothing."""
        branches, brackets = self.branch[ids].cumsum(1), self.bracket[ids].cumsum(1)
        percent, digit = self.percent[ids], self.digit[ids].clamp(min=0)
        wait = torch.where(percent > 0, 2.0, _before(percent))
        turned = self._turned(ids, brackets, _before(wait), _before(digit))
        here = _at(branches)
        count = (here * self._atoms(ids, brackets).unsqueeze(2)).cumsum(1)
        level = torch.arange(LEVELS, device=ids.device)
        left = branches.clamp(max=LEVELS - 1.0).unsqueeze(2) < level  # a branch that is left is no part of the way
        way = count - _latest(torch.where(left, count, 0.0))
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device, dtype=way.dtype)
        last = _latest(turned[..., :10] * places.unsqueeze(1))
        far = F.pad(way.sum(2), (1, 0)).unsqueeze(2).expand(-1, -1, 10).gather(1, last.long())
        rings = torch.remainder(turned.cumsum(1), 2.0)
        found = [branches.unsqueeze(2), brackets.unsqueeze(2), rings, way, far]
        return torch.cat(found + [wait.unsqueeze(2), digit.unsqueeze(2)] * self.long, 2)

    def after(self, letter: Tensor, before: Tensor) -> Tensor:
        """letter: (B,) int64; before: (B, S), zeros at the start -> (B, S)."""
        branches, brackets, rings, way, far, wait, digit = self._parts(before)
        branches, brackets = branches + self.branch[letter], brackets + self.bracket[letter]
        turned = self._turned(letter, brackets, wait, digit)
        level = torch.arange(LEVELS, device=letter.device)
        left = branches.clamp(max=LEVELS - 1.0).unsqueeze(1) < level
        way = torch.where(left, 0.0, way) + _at(branches) * self._atoms(letter, brackets).unsqueeze(1)
        far = torch.where(turned[:, :10] > 0, way.sum(1, keepdim=True), far)
        rings = rings + turned - 2 * rings * turned
        wait = torch.where(self.percent[letter] > 0, 2.0, (wait == 2).to(before.dtype))
        digit = self.digit[letter].clamp(min=0)
        found = [branches.unsqueeze(1), brackets.unsqueeze(1), rings, way, far]
        return torch.cat(found + [wait.unsqueeze(1), digit.unsqueeze(1)] * self.long, 1)

    def told(self, state: Tensor) -> Tensor:
        """(..., S) -> (..., W)."""
        _, _, rings, way, far, _, _ = self._parts(state)
        round_ = way.sum(-1, keepdim=True) - far + 1
        sizes = torch.arange(1, LARGEST + 1, device=state.device, dtype=state.dtype)
        each = (round_.unsqueeze(-1) >= sizes).to(state.dtype) * rings[..., :10].unsqueeze(-1)
        return torch.cat([state[..., : 2 + self.rings], each.flatten(-2)], -1)

    def barred(self, state: Tensor) -> Tensor:
        """(..., S) -> (..., V), 1 for a letter that cannot come next, else 0."""
        branches, brackets, rings, _, _, wait, _ = self._parts(state)
        inside, waiting = brackets > 0, wait > 0
        open_ = (branches > 0) | inside | (rings > 0).any(-1) | waiting
        holds = torch.stack([inside, ~inside, branches <= 0, waiting, open_], -1)
        return (holds.to(state.dtype) @ self.bars).clamp(max=1.0)

    def _parts(self, state: Tensor) -> tuple[Tensor, ...]:
        """Branches, brackets (...,); rings (..., R); way (..., LEVELS); far (..., 10); wait, digit (...,)."""
        way = 2 + self.rings
        wait, digit = (state[..., -2], state[..., -1]) if self.long else (0 * state[..., 0], 0 * state[..., 0])
        rings, ways, far = state[..., 2:way], state[..., way : way + LEVELS], state[..., way + LEVELS :][..., :10]
        return state[..., 0], state[..., 1], rings, ways, far, wait, digit

    def _atoms(self, ids: Tensor, brackets: Tensor) -> Tensor:
        """(...,): 1 for a letter that makes an atom."""
        return torch.where(brackets > 0, 0.0, self.atom[ids]) + (self.bracket[ids] < 0).to(brackets.dtype)

    def _turned(self, ids: Tensor, brackets: Tensor, wait: Tensor, tens: Tensor) -> Tensor:
        """(..., R): 1 for the ring that a letter opens or closes, no digit in brackets. wait, tens: before it."""
        digit = self.digit[ids]
        number = torch.where(wait == 1, 10 * tens + digit, digit)
        turns = (digit >= 0) & (brackets <= 0) & (wait != 2)
        every = torch.arange(self.rings, device=ids.device, dtype=digit.dtype)
        return ((number.unsqueeze(-1) == every) & turns.unsqueeze(-1)).to(digit.dtype)


def _at(branches: Tensor) -> Tensor:
    """(...,) -> (..., LEVELS): 1 at the level of so many branches."""
    every = torch.arange(LEVELS, device=branches.device, dtype=branches.dtype)
    return (branches.clamp(max=LEVELS - 1.0).unsqueeze(-1) == every).to(branches.dtype)


def _before(each: Tensor) -> Tensor:
    """(B, L): what stood one place earlier; 0 at the first."""
    return F.pad(each, (1, 0))[:, :-1]


def _latest(each: Tensor) -> Tensor:
    """(B, L, K), at least 0: the largest so far, by doubling steps, which every engine has."""
    step, long = 1, each.shape[1]
    while step < long:
        each = torch.maximum(each, F.pad(each, (0, 0, step, 0))[:, :long])
        step *= 2
    return each
