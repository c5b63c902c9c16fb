"""Measured values as assays write them: numbers with a unit behind them, and bounds such as ">10" or "<5 uM".

    amount_of("<5 uM", unit="nmol/L")          # Amount(value=5000.0, bound="<")
    amount_of("7.2", unit=None)                # Amount(value=7.2, bound="")

Concentrations are brought to the declared unit; any other unit must be the declared one. A bound is not a value: what
becomes of it is declared (`censored: drop | bound`), never guessed.
"""

import math
import re
from dataclasses import dataclass

_AMOUNT = re.compile(
    r"\s*(<=|>=|<<|>>|[<>≤≥~])?\s*([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµμ%°].*)?"
)
_MOLAR = {"pM": 1e-12, "nM": 1e-9, "uM": 1e-6, "mM": 1e-3, "M": 1.0,
          "pmol/L": 1e-12, "nmol/L": 1e-9, "umol/L": 1e-6, "mmol/L": 1e-3, "mol/L": 1.0}  # fmt: skip
_SIDE = {"<": "<", "<=": "<", "<<": "<", "≤": "<", ">": ">", ">=": ">", ">>": ">", "≥": ">"}
DROP, BOUND = "drop", "bound"


class WrongUnit(ValueError):
    """The cell names a unit that is not the declared one and cannot be brought to it."""


@dataclass(frozen=True, slots=True)
class Amount:
    """bound: "<" where the true value is below, ">" where it is above, "" where it is the value."""

    value: float
    bound: str


def amount_of(cell: str, unit: str | None = None) -> Amount | None:
    """
    Args:
        unit: the declared one, of the value that is wanted.

    Returns: None where the cell is no amount. Raises: WrongUnit.
    """
    found = _AMOUNT.fullmatch(cell)
    if found is None:
        return None
    value = float(found[2].replace(",", "."))
    if not math.isfinite(value):
        return None
    return Amount(value * _factor(found[3], unit), _SIDE.get(found[1] or "", ""))


def is_bound(cell: str) -> bool:
    """Whether a cell is a bound rather than a value."""
    found = _AMOUNT.fullmatch(cell)
    return found is not None and (found[1] or "") in _SIDE


def _factor(said: str | None, unit: str | None) -> float:
    if said is None:
        return 1.0
    here, wanted = _plain(said), None if unit is None else _plain(unit)
    if here == wanted:
        return 1.0
    if here in _MOLAR and wanted in _MOLAR:
        return _MOLAR[here] / _MOLAR[wanted]
    raise WrongUnit(said)


def _plain(unit: str) -> str:
    return unit.strip().replace("µ", "u").replace("μ", "u")
