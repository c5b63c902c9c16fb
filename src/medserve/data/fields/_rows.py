"""The plain JSON of a record of numbers and categories, `{"inputs": {name: value}}`, straight from its bytes.

    decode = row_decoder(records.fields)
    decode(b'{"inputs": {"age": 63, "sex": "F"}}')         # what `Records` makes of it, or None

A reader of bytes, not a second way to read a value: it knows numbers in the field's own unit and range, for which
`Number.parse` changes nothing; each category goes through its own field. Whatever else a body may say (a unit, a number
as text, an unknown name, nonsense) gives None, and `Records` reads it or says what is wrong with it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from medserve.data.fields.number import LARGEST, Number
from medserve.errors import Refusal
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.data.fields import Field

Scalar = str | int | float | bool | None


def row_decoder(fields: "Sequence[Field]") -> Callable[[bytes], Array | None]:
    """fields: numbers and categories alone. Returns: bytes -> (F,) float32, or None."""
    inputs = msgspec.defstruct(
        "Inputs",
        [(f"at{i}", _type(one), msgspec.field(default=None, name=one.name)) for i, one in enumerate(fields)],
        forbid_unknown_fields=True,
    )
    body = msgspec.defstruct("Body", [("inputs", inputs)], forbid_unknown_fields=True)
    read, values = msgspec.json.Decoder(body).decode, msgspec.structs.astuple
    words: list[tuple[int, Any]] = [(i, one) for i, one in enumerate(fields) if not isinstance(one, Number)]

    def decode(data: bytes) -> Array | None:
        try:
            row: Any = values(read(data).inputs)  # type: ignore[attr-defined]
            if words:
                row = list(row)
                for i, field in words:
                    value = field.parse(row[i])
                    field.check(value)
                    row[i] = field.place(value)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError, Refusal):
            return None
        return np.array(row, np.float32)  # None is NaN

    return decode


def _type(field: "Field") -> Any:
    if not isinstance(field, Number):
        return Scalar
    low = -LARGEST if field.low is None else max(field.low, -LARGEST)
    high = LARGEST if field.high is None else min(field.high, LARGEST)
    return Annotated[float, msgspec.Meta(ge=low, le=high)] | None
