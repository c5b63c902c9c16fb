"""What a request asks to do, whether it may, and how much of it.

asked = asked_of("POST", "/v1/models/chest/predict", explain=True)      # Asked(["models.predict", ...], ...)
gate.check(principal, asked, purpose, known)                            # Denied, NotFound, or Quota
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medserve.access.policy import Policy, Principal, Resource
from medserve.errors import Busy, Denied, NotFound
from medserve.serving.routes import route_of

BURST_S = 2.0  # a principal may use this many seconds of its rate at once
COMPUTE_BURST_S = 10.0  # and of its share of computing
ASK_KEEPER = "Ask whoever keeps the policy of this service."
_MOST_BUCKETS = 10_000


class Forbidden(Denied):
    """Known, and not allowed."""

    status = 403


class Quota(Busy):
    """More requests than this principal may make."""

    status = 429


@dataclass(frozen=True, slots=True)
class Asked:
    """actions: all of them must be allowed; an unknown address asks for none. open: its handler decides who may."""

    actions: tuple[str, ...]
    resource: Resource
    open: bool = False

    @property
    def named(self) -> str:
        return self.actions[-1] if self.actions else "unknown"


@lru_cache(maxsize=1024)
def asked_of(method: str, path: str, *, explain: bool = False) -> Asked:
    """Of an address of this service."""
    match = route_of(method, path)
    if match is None:
        return Asked((), Resource("service"))
    resource = Resource("model", match.named) if match.kind == "model" else Resource("service")
    action = match.route.action
    more = explain and action == "models.predict"
    return Asked((action, "models.explain") if more else (action,), resource, open=match.route.open)


class Buckets:
    """Token buckets by name: `rate` flows in a second, up to `most`."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, float]] = {}  # tokens, when

    def _now(self, name: str, rate: float, most: float) -> tuple[float, float]:
        now = time.monotonic()
        tokens, at = self._held.get(name, (most, now))
        return min(most, tokens + (now - at) * rate), now

    def wait(self, name: str, rate: float, most: float, least: float = 0.0) -> float:
        """Seconds until it holds `least`; 0.0 where it does."""
        tokens, _ = self._now(name, rate, most)
        return max(0.0, (least - tokens) / rate)

    def take(self, name: str, rate: float, most: float) -> float:
        """One token; or, where there is none, the seconds until there is."""
        wait = self.wait(name, rate, most, 1.0)
        if not wait:
            self.charge(name, rate, most, 1.0)
        return wait

    def charge(self, name: str, rate: float, most: float, amount: float) -> None:
        """Take what was used, also below zero."""
        tokens, now = self._now(name, rate, most)
        if name not in self._held and len(self._held) >= _MOST_BUCKETS:
            self._held.clear()
        self._held[name] = (min(most, tokens - amount), now)


class Gate:
    """Policy and quota of one process; not for several threads. tenant_of: whose a model is alone, None for nobody's;
    the policy may hide such a model from more of them, and never shows it to others."""

    def __init__(self, policy: Policy, tenant_of: Callable[[str], str | None] = lambda name: None) -> None:
        self.policy, self._tenant_of = policy, tenant_of
        self._requests, self._compute = Buckets(), Buckets()  # by principal

    def check(self, principal: Principal, asked: Asked, purpose: str, known: Sequence[str]) -> None:
        """
        Args:
            purpose: as the request says it; "": the role's first.
            known: names of all models here.

        Raises: Forbidden "action-not-allowed" ..., NotFound for a model of another tenant, Quota "quota-requests",
            "quota-compute".
        """
        self._spend(principal, asked)
        name = asked.resource.name
        if asked.resource.kind == "model" and not self._shows(principal, name, known):
            raise self.not_here(principal, name, known)  # before anything that would tell hidden from absent
        for action in asked.actions:
            decision = self.policy.decide(principal, action, asked.resource, purpose)
            if not decision.allowed:
                raise self._forbidden(principal, action, decision.reason)

    def _forbidden(self, principal: Principal, action: str, reason: str) -> Forbidden:
        if reason != "purpose-not-allowed":
            return Forbidden(reason, f"The role {principal.role} may not do this ({action}).", hint=ASK_KEEPER)
        allowed = ", ".join(self.policy.said.roles[principal.role].purposes)
        said = f"The role {principal.role} may not act for this purpose (allowed: {allowed})."
        return Forbidden(reason, said, hint="Name one of these in X-Purpose, or leave it out for the first.")

    def permits(self, principal: Principal, asked: Asked, purpose: str, known: Sequence[str]) -> bool:
        """Whether `check` would let him do this to a model, quota apart; so as long as policy and models are these."""
        return self._shows(principal, asked.resource.name, known) and all(
            self.policy.decide(principal, one, asked.resource, purpose).allowed for one in asked.actions
        )

    def has_room(self, principal: Principal) -> bool:
        """Whether his quota allows one more prediction now. Spends nothing; who goes on takes his token with `take`."""
        role = self.policy.said.roles.get(principal.role)
        if role is None:
            return False
        rate = role.requests_per_s
        return not self._requests.wait(principal.id, rate, _burst(rate), 1.0) and not self.compute_wait(principal)

    def take(self, principal: Principal, tokens: float = 1.0) -> None:
        """Of the requests that it may make; below zero they come back."""
        role = self.policy.said.roles.get(principal.role)
        rate = role.requests_per_s if role else 1.0
        self._requests.charge(principal.id, rate, _burst(rate), tokens)

    def not_here(self, principal: Principal, name: str, known: Sequence[str]) -> NotFound:
        """The same words for a model that is hidden and for one that does not exist."""
        return NotFound("model", name, self.visible(principal, known), hint="List them with GET /v1/models.")

    def visible(self, principal: Principal, known: Sequence[str]) -> list[str]:
        return [name for name in known if self.policy.sees(principal, name) and self._own(principal, name)]

    def _shows(self, principal: Principal, name: str, known: Sequence[str]) -> bool:
        return name in known and self.policy.sees(principal, name) and self._own(principal, name)

    def _own(self, principal: Principal, name: str) -> bool:
        return self._tenant_of(name) in (None, principal.tenant)

    def _spend(self, principal: Principal, asked: Asked) -> None:
        """One request out of the principal's bucket; for a prediction, none while its share of computing is used up."""
        role = self.policy.said.roles.get(principal.role)
        rate = role.requests_per_s if role else 1.0
        wait = self._requests.take(principal.id, rate, _burst(rate))
        if wait:
            raise Quota(
                "quota-requests",
                f"More than {rate:g} requests a second.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=wait,
            )
        share = role.compute_s_per_s if role else None
        if share is None or "models.predict" not in asked.actions:
            return
        if wait := self._compute.wait(principal.id, share, share * COMPUTE_BURST_S, least=1e-9):
            raise Quota(
                "quota-compute",
                f"More than {share:g} s of computing a second.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=wait,
            )

    def compute_wait(self, principal: Principal) -> float:
        """Seconds until its share of computing allows more; 0.0 where it does."""
        role = self.policy.said.roles.get(principal.role)
        share = role.compute_s_per_s if role else None
        if share is None:
            return 0.0
        return self._compute.wait(principal.id, share, share * COMPUTE_BURST_S, least=1e-9)

    def charge(self, principal: Principal, compute_s: float, *, more: int = 0) -> None:
        """What an answer has cost, once it is known. more: cases beyond the first, each as much as a request."""
        role = self.policy.said.roles.get(principal.role)
        if more:
            self.take(principal, more)
        if role is not None and role.compute_s_per_s is not None:
            share = role.compute_s_per_s
            self._compute.charge(principal.id, share, share * COMPUTE_BURST_S, compute_s)


def _burst(rate: float) -> float:
    """Requests that may come at once."""
    return max(1.0, rate * BURST_S)
