"""Units of measurement, written in UCUM and converted by pint.

    convert(5.0, "mg/dL", "g/L", what="protein")        # 0.05
    convert(5.0, "kg", "cm", what="height")             # Refusal "wrong-unit"

Source: the Unified Code for Units of Measure, ucum.org; parsed by ucumvert.
"""

from functools import cache
from typing import Any

from medserve.errors import Refusal

MOST = 64  # characters of a unit: the grammar costs more than its length
SAME = {"bpm": "/min", "beats/min": "/min", "years": "a", "year": "a", "mmHg": "mm[Hg]", "°C": "Cel", "C": "Cel"}


def convert(value: float, unit: str, wanted: str | None, *, what: str) -> float:
    """`value` in `wanted`.

    Args:
        what: name of the quantity, for the message.

    Raises: Refusal "wrong-unit": not a unit, or one that measures something else.
    """
    if unit == wanted:
        return value
    if len(unit) > MOST:
        why = f"{what}: a unit has at most {MOST} characters; {unit[:16]!r} goes on for more."
        raise Refusal("wrong-unit", why, hint="Write it in UCUM, for instance mg/dL.")
    if wanted is None:
        hint = "Send the bare number, as it stood in the training data."
        raise Refusal("wrong-unit", f"{what} was learned without a unit; {unit!r} cannot be converted.", hint=hint)
    try:
        return float(_factor(SAME.get(unit, unit), SAME.get(wanted, wanted), value))
    except Exception as error:  # three libraries, no common base
        raise Refusal(
            "wrong-unit",
            f"{what}: {unit!r} cannot be converted to {wanted!r}.",
            hint=f"Send it in {wanted} (UCUM).",
        ) from error


@cache
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()


def _factor(unit: str, wanted: str, value: float) -> float:
    registry = _registry()
    return float(registry.Quantity(value, registry.from_ucum(unit)).to(registry.from_ucum(wanted)).magnitude)
