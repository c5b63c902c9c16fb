"""What asks for an order is refused: a person decides, and this service carries nothing out.

    refuse_orders({"patient": ..., "candidates": ..., "execute": True})     # Refusal "auto-execute"
    refuse_orders_in_query(b"execute=true")                                 # the same

The patient's own resources may tell of orders that were given; so only what the request says of itself is looked at.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from medserve.errors import Refusal

# As they are written by people and machines, without dashes, underscores and capitals.
FLAGS = frozenset({"execute", "autoexecute", "autoorder", "autoprescribe", "autosubmit", "order", "placeorder", "sign",
                   "autosign", "dispense", "prescribe", "administer", "submit"})  # fmt: skip
ORDERS = frozenset({"order", "originalorder", "reflexorder", "fillerorder", "instanceorder"})  # request-intent of FHIR
_LOOKED_INTO = ("options", "request", "candidates", "parameters")
_MOST_DEEP = 4
_MOST_FIELDS = 100  # of a query
_NO = frozenset({"", "false", "no", "0", "off"})


def refuse_orders(request: Any) -> None:
    """
    Args:
        request: the body as it was decoded, before its form is checked.

    Raises: Refusal "auto-execute".
    """
    _look(request, 0)


def refuse_orders_in_query(query: bytes) -> None:
    """Of the address; a flag that has no value (`?execute`) is set.

    Raises: Refusal "auto-execute".
    """
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return  # whoever reads the query refuses it
    refuse_orders([{name: value or True} for name, values in given.items() for value in values])


def refuse_orders_in_bundle(members: Mapping[str, Any], parameters: Iterable[Any]) -> None:
    """What a FHIR Bundle says of itself: its own members, and the Parameters in it, which are no facts of a patient.

    Args:
        members: of the Bundle, without its entries.
        parameters: each `parameter` of its Parameters, decoded.

    Raises: Refusal "auto-execute".
    """
    refuse_orders(members)
    for one in parameters:
        if isinstance(one, Mapping) and isinstance(name := one.get("name"), str):
            refuse_orders([{name: value} for key, value in one.items() if key.startswith("value")])
            refuse_orders_in_bundle({}, one["part"] if isinstance(one.get("part"), list) else ())


def _look(said: Any, deep: int) -> None:
    if deep > _MOST_DEEP:
        return
    if isinstance(said, list):
        for one in said:
            _look(one, deep + 1)
    if not isinstance(said, Mapping):
        return
    for name, value in said.items():
        word = _word(name)
        if (word in FLAGS and _is_set(value)) or (
            word == "intent" and isinstance(value, str) and _word(value) in ORDERS
        ):
            raise Refusal(
                "auto-execute",
                f"The request asks for an order ({str(name)[:40]!r}). Nothing is ordered here; a person decides.",
                hint="Leave it out. What is offered is a proposal, for a person to confirm.",
            )
        if word in _LOOKED_INTO:
            _look(value, deep + 1)


def _is_set(value: Any) -> bool:
    return value.strip().lower() not in _NO if isinstance(value, str) else value not in (False, None, 0)


def _word(said: Any) -> str:
    return str(said).lower().replace("-", "").replace("_", "").replace(" ", "")
