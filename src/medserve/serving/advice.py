"""What a request for advice on medicines asks beside the prediction: a review by the rules of safety, and its answer
as FHIR.

    check_review(gate, caller, data, media)       # who sends a patient's facts asks for a review: Forbidden
    if speaks_fhir(scope, media): body = rendered(data, answer, spec)
"""

import datetime
from typing import Any

import msgspec

from medserve.access.policy import Principal, Resource
from medserve.models.spec import ModelSpec
from medserve.runtime.reviewed import FHIR, JSON
from medserve.serving.fhir import as_fhir, subject_of
from medserve.serving.gate import Forbidden, Gate
from medserve.serving.wire import Scope, encode, header

FHIR_TYPE = FHIR.encode()
ACTION = "safety.review"


class _Head(msgspec.Struct):
    """Enough of a body to see that it holds facts about a patient."""

    resourceType: str = ""
    inputs: msgspec.Raw = msgspec.Raw()
    patient: msgspec.Raw = msgspec.Raw()


_head = msgspec.json.Decoder(_Head)


def asks_review(data: bytes, media: str) -> bool:
    """Whether a body holds facts for the rules of safety."""
    if media not in (JSON, FHIR):
        return False
    try:
        said = _head.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False  # it is refused where it is read
    return bool(said.resourceType) or bool(bytes(said.inputs) and bytes(said.patient) not in (b"", b"null"))


def check_review(gate: Gate, caller: Principal, data: bytes, media: str, purpose: str = "") -> None:
    """Raises: Forbidden: he may ask the model, and not the rules."""
    if not asks_review(data, media):
        return
    decision = gate.policy.decide(caller, ACTION, Resource("service"), purpose)
    if not decision.allowed:
        raise Forbidden(
            decision.reason, f"The role {caller.role} may not do this ({ACTION}).",
            hint="Facts about a patient are sent for a review: whoever keeps the policy has to allow it.",
        )  # fmt: skip


def speaks_fhir(scope: Scope, media: str) -> bool:
    """Whether the answer is wanted as FHIR: it is accepted by name, or a Bundle was sent and nothing is said."""
    accepted = [one.partition(";")[0].strip() for one in header(scope, b"accept").lower().split(",")]
    return FHIR in accepted or (media == FHIR and JSON not in accepted)


def rendered(data: bytes, answer: dict[str, Any], spec: ModelSpec) -> bytes:
    """The answer as a Bundle. data: what was asked, which may name its patient."""
    return encode(as_fhir(answer, spec, subject=subject_of(data), at=datetime.datetime.now(datetime.UTC)))
