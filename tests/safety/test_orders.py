"""Nothing is ordered here: what asks for it is refused."""

import pytest

from medserve.errors import Refusal
from medserve.safety.orders import refuse_orders, refuse_orders_in_bundle, refuse_orders_in_query


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


@pytest.mark.parametrize(
    "query", [b"execute=true", b"execute", b"auto_order=1&explain=effect", b"intent=order", b"execute=no&execute=yes"]
)
def test_an_order_in_the_address_is_refused(query):
    """A flag without a value is set."""
    with pytest.raises(Refusal) as error:
        refuse_orders_in_query(query)
    assert error.value.code == "auto-execute"


@pytest.mark.parametrize("query", [b"", b"explain=effect", b"execute=false", b"execute=0", b"intent=proposal", b"\xff"])
def test_another_address_passes(query):
    """Whether anybody would act on it is for its reader to say."""
    refuse_orders_in_query(query)


@pytest.mark.parametrize(
    ("members", "parameters"),
    [
        ({"execute": True}, []),
        ({}, [{"name": "auto-order", "valueBoolean": True}]),
        ({}, [{"name": "options", "part": [{"name": "intent", "valueCode": "order"}]}]),
    ],
)
def test_an_order_in_a_bundle_is_refused(members, parameters):
    """Its own members, and the Parameters in it."""
    with pytest.raises(Refusal) as error:
        refuse_orders_in_bundle(members, parameters)
    assert error.value.code == "auto-execute"
    refuse_orders_in_bundle({"type": "transaction"}, [{"name": "execute", "valueBoolean": False}, {"name": 7}, None])
