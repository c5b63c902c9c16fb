"""What asks for an order is refused: a person decides, and this service carries nothing out.

    refuse_orders({"patient": ..., "candidates": ..., "execute": True})     # Refusal "auto-execute"

The patient's own resources may tell of orders that were given; so only what the request says of itself is looked at.
"""

from collections.abc import Mapping
from typing import Any

from medserve.errors import Refusal

# As they are written by people and machines, without dashes, underscores and capitals.
FLAGS = frozenset({"execute", "autoexecute", "autoorder", "autoprescribe", "autosubmit", "order", "placeorder", "sign",
                   "autosign", "dispense", "prescribe", "administer", "submit"})  # fmt: skip
ORDERS = frozenset({"order", "originalorder", "reflexorder", "fillerorder", "instanceorder"})  # request-intent of FHIR
_LOOKED_INTO = ("options", "request", "candidates", "parameters")
_MOST_DEEP = 4


def refuse_orders(request: Any) -> None:
    """
    Args:
        request: the body as it was decoded, before its form is checked.

    Raises: Refusal "auto-execute".
    """
    _look(request, 0)


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
        asks = word in FLAGS and value not in (False, None, 0, "", "false", "no")
        if asks or (word == "intent" and isinstance(value, str) and _word(value) in ORDERS):
            raise Refusal(
                "auto-execute",
                f"The request asks for an order ({str(name)[:40]!r}). Nothing is ordered here; a person decides.",
                hint="Leave it out. What is offered is a proposal, for a person to confirm.",
            )
        if word in _LOOKED_INTO:
            _look(value, deep + 1)


def _word(said: Any) -> str:
    return str(said).lower().replace("-", "").replace("_", "").replace(" ", "")
