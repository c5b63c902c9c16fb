"""Searching for molecules that score well, with a fixed number of molecules that may be scored.

    book = Book(objectives, oracles, screenings, budget=4000)
    book.spend(["CCO", ...])            # scores what is new, as long as the budget lasts
    book.best(100)                      # the best so far

Every different molecule that an oracle sees costs one. Controlled substances are never scored, never learned from and
never kept. A scaffold that has brought `CROWD` good molecules brings nothing more to what is learned.

Source: Blaschke et al., J Cheminform 12:68 (2020) (memory of scaffolds).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medserve.data.molecules.scaffolds import scaffold
from medserve.evaluation.intervals import Interval
from medserve.road.generate import Screenings
from medserve.road.oracles import Oracle, joined
from medserve.types import Array

CROWD, GOOD = 25, 0.5  # molecules of a scaffold, and the score from which they count
DRAWS = 2000


class Book:
    """Every molecule scored so far: standard form -> (score, each objective's)."""

    def __init__(self, oracles: Sequence[Oracle], screenings: Screenings, budget: int) -> None:
        self.oracles, self.screenings, self.budget = tuple(oracles), screenings, budget
        self.found: dict[str, tuple[float, tuple[float, ...]]] = {}
        self.crowd: Counter[str] = Counter()
        self.drawn = self.valid = 0

    @property
    def left(self) -> int:
        return max(0, self.budget - len(self.found))

    def spend(self, texts: Sequence[str]) -> Array:
        """(N,) what each text is worth to learning: its score, 0 where it is no molecule or is of a scaffold that has
        had its turn, NaN where it is barred. Texts beyond the budget are worth 0."""
        forms = [self.screenings.standard(text) for text in texts]
        self.drawn, self.valid = self.drawn + len(texts), self.valid + sum(form is not None for form in forms)
        fresh = list(dict.fromkeys(form for form in forms if form is not None and form not in self.found))
        barred = {form for form in fresh if not self.screenings.allowed(form)}
        fresh = [form for form in fresh if form not in barred][: self.left]
        if fresh:
            each = np.stack([oracle.score(fresh) for oracle in self.oracles])
            for form, score, row in zip(fresh, joined(list(each)), each.T, strict=True):
                self.add(form, float(score), tuple(float(v) for v in row))
        return np.array([np.nan if form in barred else self._worth(form) for form in forms])

    def add(self, smiles: str, score: float, each: tuple[float, ...]) -> None:
        self.found[smiles] = (score, each)
        if score >= GOOD:
            self.crowd[scaffold(smiles)] += 1

    def best(self, count: int) -> list[tuple[str, float]]:
        ranked = sorted(self.found.items(), key=lambda item: (-item[1][0], item[0]))[:count]
        return [(smiles, score) for smiles, (score, _) in ranked]

    def replay(self, count: int, random: np.random.Generator) -> list[tuple[str, float]]:
        """Some of the best hundred whose scaffold has not had its turn, the better the likelier."""
        pool = [(s, v) for s, v in self.best(100) if self.crowd[scaffold(s)] <= CROWD]
        weight = np.array([v for _, v in pool])
        if not len(pool) or not weight.sum() > 0:
            return []
        rows = random.choice(len(pool), min(count, len(pool)), replace=False, p=weight / weight.sum())
        return [pool[i] for i in rows]

    def as_state(self) -> dict[str, Any]:
        rows = [[smiles, score, list(each)] for smiles, (score, each) in self.found.items()]
        barred = dict(self.screenings.barred)
        return {"found": rows, "drawn": self.drawn, "valid": self.valid, "barred": barred}

    def restore(self, state: dict[str, Any]) -> None:
        for smiles, score, each in state["found"]:
            self.add(smiles, score, tuple(each))
        self.drawn, self.valid = state["drawn"], state["valid"]
        self.screenings.barred = Counter(state["barred"])

    def _worth(self, form: str | None) -> float:
        if form is None or form not in self.found:
            return 0.0
        score = self.found[form][0]
        return 0.0 if score >= GOOD and self.crowd[scaffold(form)] > CROWD else score


def gap_of(ours: Array, judged: Array, usual: Array) -> dict[str, Any]:
    """How much more the oracle that was optimised thinks of the best molecules than the judge does.

    Args:
        ours, judged: (N,) of the best molecules. usual: (M,) oracle minus judge of molecules that nothing optimised.

    Returns: {"gap", "usual", "sd", "alarm"}; alarm where the gap exceeds the usual one by more than one sd.
    """
    gap, mean, sd = float((ours - judged).mean()), float(usual.mean()), float(usual.std()) or 1.0
    return {"gap": gap, "usual": mean, "sd": sd, "alarm": gap - mean > sd}


def paired(ours: Array, theirs: Array, *, seed: int = 0) -> Interval:
    """Mean difference of two ranked lists, the first to the first and so on; bootstrap of the pairs, 95 %."""
    n = min(len(ours), len(theirs))
    gaps = ours[:n] - theirs[:n]
    draws = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    low, high = np.quantile(gaps[draws].mean(1), [0.025, 0.975])
    return {"value": float(gaps.mean()), "low": float(low), "high": float(high)}
