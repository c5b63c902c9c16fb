"""Rounds of short blocks in mirrored order; the datum is a ratio inside a round.

    rounds = play(["bare", "ours", "peer"], block, rounds=8)     # bare ours peer | peer ours bare
    ratio(rounds, "ours", "peer", "per_s")                       # {"median", "low", "high", "rounds", "clean"}

What disturbs the machine for seconds disturbs neighbours alike. A round in which the machine beneath took more than
2 %, or somebody else more than 5 %, is not clean; where fewer than three are clean, all of them count, and it is said.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MOST_STEAL, MOST_FOREIGN, FEWEST = 0.02, 0.05, 3
Block = dict[str, Any]
Round = dict[str, list[Block]]


def play(names: Sequence[str], block: Callable[[str], Block], *, rounds: int,
         tell: Callable[[str], None] = lambda text: None) -> list[Round]:  # fmt: skip
    found = []
    for number in range(rounds):
        order = list(names) if number % 2 == 0 else [*names[1:], names[0]]  # another one begins
        blocks: Round = {name: [] for name in names}
        for name in [*order, *reversed(order)]:
            one = block(name)
            blocks[name].append(one)
            tell(f"round {number + 1}/{rounds} {name}: " + ", ".join(f"{k} {_short(v)}" for k, v in one.items()))
        found.append(blocks)
    return found


def clean(one: Round) -> bool:
    """Whether nobody else was at work in it."""
    blocks = [block for some in one.values() for block in some]
    return all(b.get("steal", 0) <= MOST_STEAL and b.get("foreign", 0) <= MOST_FOREIGN for b in blocks)


def chosen(rounds: Sequence[Round]) -> tuple[list[Round], bool]:
    """The clean rounds; all of them, and False, where too few are clean."""
    good = [one for one in rounds if clean(one)]
    return (good, True) if len(good) >= FEWEST else (list(rounds), False)


def values(rounds: Sequence[Round], name: str, what: str) -> list[float]:
    """The mean of each round's two blocks."""
    return [float(np.mean([block[what] for block in one[name]])) for one in rounds]


def ratio(rounds: Sequence[Round], ours: str, other: str, what: str) -> dict[str, Any]:
    used, quiet = chosen(rounds)
    ratios = np.array(values(used, ours, what)) / np.array(values(used, other, what))
    return interval(ratios) | {"rounds": len(used), "clean": quiet}


def level(rounds: Sequence[Round], name: str, what: str) -> dict[str, Any]:
    used, quiet = chosen(rounds)
    return interval(np.array(values(used, name, what))) | {"rounds": len(used), "clean": quiet}


def interval(found: np.ndarray, draws: int = 4000) -> dict[str, float]:
    """Median and the 95 % bootstrap interval of it."""
    rng = np.random.default_rng(11)
    medians = np.median(rng.choice(found, (draws, len(found))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return {"median": _round(np.median(found)), "low": _round(low), "high": _round(high)}


def _round(value: float) -> float:
    return float(f"{float(value):.4g}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
