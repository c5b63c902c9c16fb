"""What the first lines of a request for a prediction say: which model, what beside the answer, and by whose key.

parse_target("/v1/models/chest/versions/2/predict")      # Target("chest", "2"); None: no prediction is asked for
explain_method(scope)                                    # "cam", of ?explain=cam
bearer("Bearer msk_...")                                 # "msk_..."
"""

from typing import NamedTuple
from urllib.parse import parse_qs

from medserve.errors import Usage
from medserve.safety.orders import refuse_orders_in_query
from medserve.serving.wire import Scope

_PREDICTIONS = {("", "v1", "models", "predict"), ("", "v2", "models", "infer")}


class Target(NamedTuple):
    """A prediction's address."""

    model: str
    version: str | None


def bearer(said: str) -> str:
    """The key or token of an Authorization header, "" where it holds none."""
    scheme, _, shown = said.partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def parse_target(path: str) -> Target | None:
    """`/v1/models/NAME/predict`, `/v1/models/NAME/versions/V/predict`, or `/v2/.../infer`; None for any other path."""
    steps = path.split("/")
    if (*steps[:3], steps[-1]) not in _PREDICTIONS or "" in steps[3:]:
        return None
    if len(steps) == 5:
        return Target(steps[3], None)
    if len(steps) == 7 and steps[4] == "versions":
        return Target(steps[3], steps[5])
    return None


def explain_method(scope: Scope) -> str | None:
    """The explanation that a request for a prediction asks for; None: none.

    Raises: Usage "query-invalid": a parameter that no one would act on; Refusal "auto-execute".
    """
    query = scope.get("query_string", b"")
    if not query:
        return None
    refuse_orders_in_query(query)
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        given = {"": []}
    if set(given) != {"explain"} or len(given["explain"]) != 1 or len(given["explain"][0]) > 64:
        raise Usage("query-invalid", "The address takes one parameter: explain.", hint="For instance ?explain=cam")
    return given["explain"][0]
