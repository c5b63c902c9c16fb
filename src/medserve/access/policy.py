"""Who may do what: one function decides, from one file, and what the file does not allow is denied.

    policy = Policy.load(settings)
    decision = policy.decide(principal, "models.predict", Resource("model", "chest"), "treatment")
    decision.allowed, decision.reason

The file is MEDSERVE_HOME/policy.yaml, or the one that MedServe brings. Its digest stands in every audit event.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, Literal

import msgspec
import yaml

from medserve.errors import Usage, neighbours
from medserve.settings import Settings

FILE = "policy.yaml"
MAX_BYTES = 2**20
ACTIONS = ("health.live", "health.ready", "api.read", "metrics.read", "models.list", "models.read", "models.predict",
           "models.explain", "models.load", "models.traffic", "batches.create", "batches.read", "batches.delete",
           "cases.create", "cases.read", "cases.delete", "packages.upload", "packages.read", "packages.publish",
           "jobs.create", "jobs.read", "jobs.cancel", "audit.read", "keys.manage", "patients.erase",
           "patients.identify", "session.open", "session.read", "access.break-glass", "access.review",
           "safety.review")  # fmt: skip
HEALTH = ("health.live", "health.ready")  # all that may be open to everybody
PURPOSES = ("treatment", "research", "operations", "audit")
DEFAULT_TENANT = "default"


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """purposes: the first one is meant where a request says none. requests_per_s: of each principal. compute_s_per_s:
    seconds of a model's work that each principal may use in one second; None: no limit."""

    actions: list[str]
    purposes: list[str]
    requests_per_s: float = 20.0
    compute_s_per_s: float | None = None


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. unlisted: who sees a model that `tenants` does not name."""

    version: int
    roles: dict[str, Role]
    duties: dict[str, list[str]] = {}
    anyone: list[str] = []
    tenants: dict[str, list[str]] = {}
    unlisted: Literal["everybody", "nobody"] = "everybody"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks; `id` may be logged.

    models: names it is limited to; empty: no limit. actions: what its token narrows the role to; empty: the whole role.
    strong: a second factor was shown. session: id of the session or token, "" for a key. glass: id of the broken glass
    that shows it more models now, see `glass`.
    """

    id: str
    name: str
    tenant: str = DEFAULT_TENANT
    role: str = "service"
    duties: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    strong: bool = False
    session: str = ""
    glass: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """kind: "model", "service" ...; name: "" for the whole of a kind."""

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """reason: "" where allowed; "hidden": the resource is to look as if it were not there."""

    allowed: bool
    reason: str = ""


ALLOW = Decision(True)
_MOST_GRANTED = 256  # combinations of a role and duties that are remembered


@dataclass(frozen=True, slots=True)
class Policy:
    """digest: of the file's bytes."""

    said: Said
    digest: str
    _granted: dict[tuple[str, tuple[str, ...]], frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, settings: Settings) -> "Policy":
        """Raises: Usage "policy-invalid", naming the place."""
        own = settings.home / FILE
        raw = own.read_bytes() if own.is_file() else (files("medserve.access") / FILE).read_bytes()
        return cls.parse(raw)

    @classmethod
    def parse(cls, raw: bytes) -> "Policy":
        if len(raw) > MAX_BYTES:
            raise _invalid("the file is larger than 1 MiB")
        try:
            said = msgspec.convert(_Strict(raw).get_single_data(), Said)
        except (yaml.YAMLError, msgspec.ValidationError, RecursionError, ValueError) as error:
            raise _invalid(str(error).splitlines()[0]) from error
        if said.version != 1:
            raise _invalid(f"version {said.version}; this MedServe reads version 1")
        for name, role in said.roles.items():
            _known("action", role.actions, ACTIONS, name)
            _known("purpose", role.purposes, PURPOSES, name)
            if not role.purposes or not (math.isfinite(role.requests_per_s) and role.requests_per_s > 0):
                raise _invalid(f"role {name} needs a purpose and a positive requests_per_s")
            if role.compute_s_per_s is not None and not 0 < role.compute_s_per_s < math.inf:
                raise _invalid(f"role {name}: compute_s_per_s is a positive number")
        for name, actions in said.duties.items():
            _known("action", actions, ACTIONS, name)
        _known("action", said.anyone, HEALTH, "anyone")
        return cls(said, hashlib.sha256(raw).hexdigest())

    def check_models(self, served: Iterable[str]) -> list[str]:
        """Names under `tenants` that are not served here; they may be published later.

        Raises: Usage "policy-model": one of them looks like a slip of the pen, which would leave that model open.
        """
        known = set(served)
        strange = sorted(set(self.said.tenants) - known)
        for name in strange if self.said.unlisted == "everybody" else ():
            meant = get_close_matches(name, known - set(self.said.tenants), n=1, cutoff=0.7)
            if meant:
                raise Usage(
                    "policy-model",
                    f"{FILE}: tenants names {name!r}, which is not served here; {meant[0]!r} is, and is open to all.",
                    hint=f"Write {meant[0]}, or give it a line of its own.",
                )
        return strange

    def decide(self, principal: Principal | None, action: str, resource: Resource, purpose: str = "") -> Decision:
        """Whether it may be done. principal: None for one who has not said who he is."""
        if action in self.said.anyone:
            return ALLOW
        if principal is None:
            return Decision(False, "unidentified")
        role = self.said.roles.get(principal.role)
        if role is None:
            return Decision(False, "role-unknown")
        if resource.kind == "model" and resource.name and not self.sees(principal, resource.name):
            return Decision(False, "hidden")
        if action not in self.granted(principal.role, principal.duties):
            return Decision(False, "action-not-allowed")
        if principal.actions and action not in principal.actions:
            return Decision(False, "scope-not-allowed")
        if purpose and purpose not in role.purposes:
            return Decision(False, "purpose-not-allowed")
        return ALLOW

    def granted(self, role: str, duties: tuple[str, ...]) -> frozenset[str]:
        """All actions of a role with its duties."""
        actions = self._granted.get((role, duties))
        if actions is None:
            found = self.said.roles.get(role)
            own = frozenset(found.actions) if found else frozenset()
            actions = own.union(*(self.said.duties.get(duty, ()) for duty in duties))
            if len(self._granted) < _MOST_GRANTED:
                self._granted[role, duties] = actions
        return actions

    def sees(self, principal: Principal, model: str) -> bool:
        """Whether the model exists for this principal."""
        tenants = self.said.tenants.get(model)
        own = self.said.unlisted == "everybody" if tenants is None else principal.tenant in tenants
        return own and (not principal.models or model in principal.models)

    def purpose(self, principal: Principal, said: str) -> str:
        """What is meant: as said, else the role's first."""
        role = self.said.roles.get(principal.role)
        return said or (role.purposes[0] if role else "")

    def check_grant(self, role: str, duties: tuple[str, ...]) -> None:
        """Raises: Usage "role-unknown", "duty-unknown"."""
        if role not in self.said.roles:
            raise Usage("role-unknown", f"No role {role!r} ({neighbours(role, self.said.roles)}).")
        for duty in duties:
            if duty not in self.said.duties:
                raise Usage("duty-unknown", f"No duty {duty!r} ({neighbours(duty, self.said.duties)}).")


class _Strict(yaml.SafeLoader):
    """A key that stands twice would be taken once, silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise _invalid(f"{twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)


def _known(what: str, given: list[str], known: tuple[str, ...], where: str) -> None:
    for word in given:
        if word not in known:
            raise _invalid(f"{where}: no {what} {word!r} ({neighbours(word, known)})")


def _invalid(what: str) -> Usage:
    return Usage("policy-invalid", f"{FILE}: {what}.", hint="The file that MedServe brings shows every key.")


def as_dict(principal: Principal) -> dict[str, Any]:
    """For lists and logs."""
    return {
        "tenant": principal.tenant, "role": principal.role, "duties": list(principal.duties),
        "models": list(principal.models),
    }  # fmt: skip
