"""Programs that sign in by a key of their own: SMART Backend Services.

    clients = Clients(accounts, sessions)
    row = clients.add("emr bridge", jwks_bytes, role="service", tenant="clinic-a")
    new, scope = clients.grant(form, token_url, event)    # an access token of at most 300 s; raises OAuthError

A client proves that it holds its private key by a signed assertion (RS384 or ES384), used once: its `jti` is kept until
it has expired, through restarts. The token is opaque (see `sessions`), and what it may do is the client's role narrowed
by the scopes asked for.
Source: HL7 SMART App Launch 2.2, "Backend Services" and "Client Authentication: Asymmetric"; RFC 6749, 7521, 7523.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from medserve.access.accounts import Account, Accounts
from medserve.access.audit import Event
from medserve.access.policy import DEFAULT_TENANT, Policy, Principal
from medserve.access.sessions import TOKEN_S, NewSession, Sessions
from medserve.access.tokens import LEEWAY_S, Issuer, public_keys, unverified
from medserve.errors import Denied, MedServeError
from medserve.store.database import used_assertions

ALGORITHMS = ("RS384", "ES384")
ASSERTION_S = 300.0
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MAX_JTI = 256
_SCOPE = re.compile(r"system/\*\.(read|write|\*|c?r?u?d?s?)")
_OLD = {"read": "rs", "write": "c", "*": "crs"}  # SMART 1 words, as far as this service has them
LETTERS = {
    "c": ("cases.create", "batches.create", "models.predict", "models.explain", "safety.review"),
    "r": ("models.read", "cases.read", "batches.read", "packages.read", "jobs.read", "api.read", "session.read"),
    "u": (),
    "d": ("cases.delete", "batches.delete"),
    "s": ("models.list",),
}
SCOPES = ("system/*.rs", "system/*.c", "system/*.crs", "system/*.crds")


class OAuthError(MedServeError):
    """An error of the token endpoint. oauth: its word in RFC 6749, 5.2. who: the client, once it is known."""

    def __init__(self, oauth: str, code: str, message: str, *, who: Principal | None = None) -> None:
        hint = "See the answer of /.well-known/smart-configuration."
        super().__init__(code, message, hint=hint)
        self.oauth, self.who = oauth, who
        self.kind = "access" if oauth in ("invalid_client", "invalid_scope") else "usage"  # type: ignore[misc]
        self.status = 401 if oauth == "invalid_client" else 400  # type: ignore[misc]


class Clients:
    """Registered programs, and what they are given."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._accounts, self._sessions = accounts, sessions

    def add(
        self,
        name: str,
        jwks: bytes,
        *,
        role: str = "service",
        tenant: str = DEFAULT_TENANT,
        duties: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> Account:
        """Raises: BadKeys "jwks-invalid", and those of `Accounts.add`."""
        public_keys(jwks)
        return self._accounts.add("client", name, jwks, role=role, tenant=tenant, duties=duties, models=models)

    def grant(
        self, form: Mapping[str, str], audience: str, event: Callable[[Principal], Event]
    ) -> tuple[NewSession, str]:
        """An access token and its scope.

        Args:
            form: of the request. audience: the token endpoint's own URL.
            event: makes the audit event of handing a token to a principal.

        Raises: OAuthError.
        """
        if form.get("grant_type") != "client_credentials":
            raise OAuthError("unsupported_grant_type", "grant-type", "The only grant here is client_credentials.")
        row = self._authenticate(form, audience)
        scope = form.get("scope", "")
        actions = self._actions(scope, row.principal)
        who = replace(row.principal, actions=actions)
        try:
            with self._accounts.ledger.with_effect(event(who)) as db:
                return self._sessions.issue(db, who, life_s=TOKEN_S, account=row.id), scope
        except Denied as error:  # disabled since
            raise _client(error.code, error.message, row.principal) from None

    def _authenticate(self, form: Mapping[str, str], audience: str) -> Account:
        """Whose assertion this is; it cannot be used again."""
        if form.get("client_assertion_type") != ASSERTION or "client_secret" in form:
            raise _client("assertion-type", f"A client signs in by client_assertion_type {ASSERTION}.")
        token = form.get("client_assertion", "")
        row: Account | None = None
        try:
            row = self._accounts.get("client", unverified(token, "iss"))
            if row is None:
                raise Denied("client-unknown", "No client of this id is registered here.")
            issuer = Issuer(row.id, public_keys(row.secret), ALGORITHMS, audience, longest_s=ASSERTION_S)
            claims = issuer.verify(token)
            if claims.get("sub") != row.id or form.get("client_id", row.id) != row.id:
                raise Denied("token-invalid", "The token is refused: its subject (sub) is not the client.")
            jti = claims.get("jti")
            if not isinstance(jti, str) or not 1 <= len(jti) <= _MAX_JTI:
                raise Denied("token-invalid", "The token is refused: it has no id (jti).")
            if row.disabled_at is not None:
                raise Denied("client-disabled", "This client is disabled.")
            self._use_up(row.id, jti, float(claims["exp"]))
        except Denied as error:
            known = row.principal if row is not None and error.code != "token-invalid" else None
            raise _client(error.code, error.message, known) from None
        return row

    def _use_up(self, client: str, jti: str, ends: float) -> None:
        """Remember an assertion, durably. Raises: Denied "assertion-replayed"."""
        kept = {"client": client, "jti": hashlib.sha256(jti.encode()).digest(), "expires_at": ends + 2 * LEEWAY_S}
        try:
            with self._accounts.engine.begin() as db:
                db.execute(used_assertions.delete().where(used_assertions.c.expires_at < time.time()))
                db.execute(used_assertions.insert().values(kept))
        except sa.exc.IntegrityError:
            raise Denied("assertion-replayed", "The token is refused: it was used before (jti).") from None

    def _actions(self, scope: str, who: Principal) -> tuple[str, ...]:
        try:
            return actions_of(scope, who, self._accounts.policy)
        except ValueError as error:
            raise OAuthError("invalid_scope", "scope-not-allowed", str(error), who=who) from None


def actions_of(scope: str, who: Principal, policy: Policy) -> tuple[str, ...]:
    """What scopes mean for a principal; never more than its role.

    Raises: ValueError: a scope that means nothing here, or more than the role may do.
    """
    granted, found = policy.granted(who.role, who.duties), set[str]()
    for word in scope.split(" "):
        match = _SCOPE.fullmatch(word)
        if match is None or not match[1]:
            raise ValueError(f"The scopes of this service are {', '.join(SCOPES)}.")
        for letter in _OLD.get(match[1], match[1]):
            allowed = granted.intersection(LETTERS[letter])
            if not allowed:
                raise ValueError(f"The scope asks for more than this client may do ({letter}).")
            found |= allowed
    return tuple(sorted(found | (granted & {"session.read"})))


def _client(code: str, message: str, who: Principal | None = None) -> OAuthError:
    return OAuthError("invalid_client", code, message, who=who)
