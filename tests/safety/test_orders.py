"""Nothing is ordered here: what asks for it is refused."""

import pytest

from medserve.errors import Refusal
from medserve.safety.orders import refuse_orders


@pytest.mark.parametrize(
    "said",
    [
        {"execute": True}, {"auto_order": 1}, {"autoOrder": "yes"}, {"auto-execute": True}, {"intent": "order"},
        {"intent": "original-order"}, {"candidates": [{"drug": "x", "execute": True}]}, {"options": {"sign": True}},
        {"candidates": [{"drug": "x", "intent": "instance-order"}]}, [{"dispense": {"when": "now"}}],
    ],
)  # fmt: skip
def test_an_order_is_refused(said):
    """Whatever the spelling, at the top or beside a candidate."""
    with pytest.raises(Refusal) as error:
        refuse_orders(said)
    assert (error.value.code, error.value.status) == ("auto-execute", 422) and error.value.hint


@pytest.mark.parametrize(
    "said",
    [{"patient": {}, "candidates": [{"drug": "x"}]}, {"execute": False}, {"intent": "proposal"}, {}, None, "order",
     {"patient": {"intent": "order"}}],
)  # fmt: skip
def test_a_proposal_passes(said):
    """So do the orders that were given to a patient before."""
    refuse_orders(said)
