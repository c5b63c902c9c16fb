"""What a request asks to do, whether it may, and how much of it.

    asked = asked_of("POST", "/v1/models/chest/predict", explain=True)      # Asked(["models.predict", ...], ...)
    gate.check(principal, asked, purpose)                                   # Denied, NotFound, or Quota

Every address of the service is named here; one that is not named is denied to everybody.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from medserve.access.policy import Policy, Principal, Resource
from medserve.errors import Busy, Denied, NotFound

PLAIN = {
    "/v2/health/live": "health.live",
    "/v2/health/ready": "health.ready",
    "/openapi.json": "api.read",
    "/v1/models": "models.list",
}
BURST_S = 2.0  # a principal may use this many seconds of its rate at once
_MOST_BUCKETS = 10_000


class Forbidden(Denied):
    """Known, and not allowed."""

    status = 403


class Quota(Busy):
    """More requests than this principal may make."""

    status = 429


@dataclass(frozen=True, slots=True)
class Asked:
    """actions: all of them must be allowed. An unknown address asks for none."""

    actions: tuple[str, ...]
    resource: Resource

    @property
    def named(self) -> str:
        return self.actions[-1] if self.actions else "unknown"


def asked_of(path: str, *, explain: bool = False) -> Asked:
    """Of an address of this service."""
    if path in PLAIN:
        return Asked((PLAIN[path],), Resource("service"))
    steps = path.split("/")
    if steps[:3] == ["", "v1", "models"] and "" not in steps[3:]:
        model = Resource("model", steps[3])
        if len(steps) == 4:
            return Asked(("models.read",), model)
        if steps[-1] == "predict" and (len(steps) == 5 or (len(steps) == 7 and steps[4] == "versions")):
            return Asked(("models.predict", "models.explain") if explain else ("models.predict",), model)
    return Asked((), Resource("service"))


class Gate:
    """Policy and quota of one process; not for several threads."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._buckets: dict[str, tuple[float, float]] = {}  # principal -> tokens, when

    def check(self, principal: Principal, asked: Asked, purpose: str, known: Sequence[str]) -> None:
        """
        Args:
            purpose: as the request says it; "": the role's first.
            known: names of all models here.

        Raises: Forbidden "action-not-allowed" ..., NotFound for a model of another tenant, Quota "quota-requests".
        """
        self._spend(principal)
        name = asked.resource.name
        if asked.resource.kind == "model" and name not in self.visible(principal, known):
            raise self.not_here(principal, name, known)  # before anything that would tell hidden from absent
        for action in asked.actions:
            decision = self.policy.decide(principal, action, asked.resource, purpose)
            if not decision.allowed:
                raise Forbidden(
                    decision.reason,
                    f"The role {principal.role} may not do this ({action})."
                    if decision.reason != "purpose-not-allowed"
                    else f"The role {principal.role} may not act for this purpose.",
                    hint="Ask whoever keeps the policy of this service.",
                )

    def not_here(self, principal: Principal, name: str, known: Sequence[str]) -> NotFound:
        """The same words for a model that is hidden and for one that does not exist."""
        return NotFound("model", name, self.visible(principal, known), hint="List them with GET /v1/models.")

    def visible(self, principal: Principal, known: Sequence[str]) -> list[str]:
        return [name for name in known if self.policy.sees(principal, name)]

    def _spend(self, principal: Principal) -> None:
        """One request out of the principal's bucket."""
        role = self.policy.said.roles.get(principal.role)
        rate = role.requests_per_s if role else 1.0
        most, now = max(1.0, rate * BURST_S), time.monotonic()
        tokens, at = self._buckets.get(principal.id, (most, now))
        tokens = min(most, tokens + (now - at) * rate)
        if tokens < 1:
            raise Quota(
                "quota-requests",
                f"More than {rate:g} requests a second.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=(1 - tokens) / rate,
            )
        if principal.id not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.clear()
        self._buckets[principal.id] = (tokens - 1, now)
