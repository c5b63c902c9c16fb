"""People who sign in at the hospital's own provider: OpenID Connect, authorization code with PKCE.

    login = Login.open(settings)                       # None without MEDSERVE_HOME/oidc.yaml
    url, state = login.begin(callback)                 # send the browser there; keep `state` in its cookie
    who = login.finish(state, code, callback)          # Principal; raises Denied "login-..."

    issuer: https://login.hospital.example/realms/main
    client_id: medserve
    client_secret_file: /etc/medserve/oidc-secret      # 0600; absent: PKCE alone
    second_factor: {amr: [mfa, otp, hwk]}              # claims that say a second factor was shown
    rules:                                             # the first that fits; nobody else gets in
      - {claim: groups, value: ward-doctors, role: clinician, tenant: clinic-a, models: [chest]}

A state is used once, expires, and belongs to the browser that began. Nonce, issuer, audience, algorithm and signature
of the ID token are checked (`tokens`). The provider's keys are read again when it signs with a new one.
Source: OpenID Connect Core 1.0; RFC 7636 (PKCE), 9207 (iss in the answer).
"""

import base64
import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec
import sqlalchemy as sa
import yaml

from medserve.access.keys import TENANT, load_pepper
from medserve.access.policy import DEFAULT_TENANT, Policy, Principal
from medserve.access.tokens import ALGORITHMS, Issuer, PublicKey, UnknownKey, public_keys
from medserve.errors import Denied, Fault, Usage
from medserve.settings import Settings
from medserve.store.database import database, logins

FILE = "oidc.yaml"
PENDING_S = 600.0  # between leaving for the provider and coming back
MAX_BYTES = 256 * 1024  # of an answer of the provider
KEYS_S, AGAIN_S = 600.0, 10.0  # keys are read again after so long; for an unknown kid, not oftener than this
TIMEOUT_S = 5.0


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who has `value` in `claim` (a text, or a list of texts) is a principal of this kind."""

    claim: str
    value: str
    role: str
    tenant: str = DEFAULT_TENANT
    duties: list[str] = []
    models: list[str] = []


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    issuer: str
    client_id: str
    rules: list[Rule]
    client_secret_file: str = ""
    algorithms: tuple[str, ...] = ("RS256",)
    scope: str = "openid"
    second_factor: dict[str, list[str]] = {}


class ProviderFault(Fault):
    """The provider cannot be reached, or answers what it must not."""

    status = 502


@dataclass(slots=True)
class _Known:
    """What the provider says of itself."""

    at: float
    found: dict[str, Any]
    keys: tuple[PublicKey, ...] = ()
    keys_at: float = 0.0


class Login:
    """The way to the provider and back. Safe to use from several threads."""

    def __init__(self, provider: Provider, secret: str, engine: sa.Engine, pepper: bytes) -> None:
        self.provider, self._secret, self._engine = provider, secret, engine
        self._pepper = hmac.digest(pepper, b"medserve logins", "sha256")
        self._http = httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False)
        self._lock = threading.Lock()
        self._known: _Known | None = None

    @classmethod
    def open(cls, settings: Settings, policy: Policy) -> "Login | None":
        """Raises: Usage "oidc-invalid", naming the place; Fault "key-exposed"."""
        path = settings.home / FILE
        if not path.is_file():
            return None
        try:
            provider = msgspec.convert(yaml.safe_load(path.read_bytes()), Provider)
        except (yaml.YAMLError, msgspec.ValidationError, RecursionError, ValueError) as error:
            raise _bad(str(error).splitlines()[0]) from None
        _safe_url(provider.issuer)
        for name in provider.algorithms:
            if name not in ALGORITHMS:
                raise _bad(f"no algorithm {name!r} (known: {', '.join(ALGORITHMS)})")
        if not provider.algorithms or "openid" not in provider.scope.split():
            raise _bad("it needs an algorithm, and openid among the scope")
        for rule in provider.rules:
            policy.check_grant(rule.role, tuple(rule.duties))
            if not TENANT.fullmatch(rule.tenant) or not rule.value:
                raise _bad("a rule has a value, and a tenant of a-z, 0-9, - and _")
        secret = _secret(Path(provider.client_secret_file)) if provider.client_secret_file else ""
        return cls(provider, secret, database(settings), load_pepper(settings))

    def close(self) -> None:
        self._http.close()
        self._engine.dispose()

    def begin(self, callback: str) -> tuple[str, str]:
        """Where to send the browser, and the state that it has to bring back."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = self._endpoint("authorization_endpoint")
        now = time.time()
        with self._engine.begin() as db:
            db.execute(logins.delete().where(logins.c.expires_at < now))
            db.execute(
                logins.insert().values(
                    state=self._hash(state), nonce=nonce, verifier=verifier, expires_at=now + PENDING_S
                )
            )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "client_id": self.provider.client_id, "redirect_uri": callback,
            "scope": self.provider.scope, "state": state, "nonce": nonce, "code_challenge": challenge,
            "code_challenge_method": "S256",
        }  # fmt: skip
        return f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}", state

    def finish(self, state: str, code: str, callback: str, issuer: str = "") -> Principal:
        """Who came back.

        Args:
            issuer: as the answer names it (RFC 9207); "" where it does not.

        Raises: Denied "login-state", "login-refused", "login-nobody", "token-invalid"; ProviderFault.
        """
        nonce, verifier = self._pending(state)
        if issuer and issuer != self.provider.issuer:
            raise Denied("login-refused", "The answer is of another provider (iss).")
        claims = self._claims(self._exchange(code, verifier, callback))
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise Denied("token-invalid", "The token is refused: it belongs to another sign-in (nonce).")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self.provider.client_id:
            raise Denied("token-invalid", "The token is refused: it was made for another party (azp).")
        return self._principal(claims)

    def _pending(self, state: str) -> tuple[str, str]:
        """Nonce and verifier of a sign-in that began here; it cannot be finished twice."""
        where = logins.c.state == self._hash(state)
        with self._engine.begin() as db:
            row = db.execute(sa.select(logins).where(where)).one_or_none()
            taken = db.execute(logins.delete().where(where)).rowcount
        if row is None or taken != 1 or row.expires_at <= time.time():
            raise Denied("login-state", "This sign-in did not begin here, or took too long.", hint="Begin at /login.")
        return row.nonce, row.verifier

    def _exchange(self, code: str, verifier: str, callback: str) -> str:
        """The ID token for a code."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": callback, "code_verifier": verifier,
                "client_id": self.provider.client_id}  # fmt: skip
        more: dict[str, Any] = {}
        if self._secret and "client_secret_basic" in self._about().get(
            "token_endpoint_auth_methods_supported", ["client_secret_basic"]
        ):
            more["auth"] = (self.provider.client_id, self._secret)
        elif self._secret:
            form["client_secret"] = self._secret
        status, found = self._ask("POST", self._endpoint("token_endpoint"), data=form, **more)
        token = found.get("id_token")
        if status != 200 or not isinstance(token, str):
            raise Denied("login-refused", "The provider does not take this code.", hint="Begin again at /login.")
        return token

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return self._issuer(fresh=False).verify(token)
        except UnknownKey:
            return self._issuer(fresh=True).verify(token)

    def _issuer(self, *, fresh: bool) -> Issuer:
        said = self.provider
        return Issuer(
            said.issuer, self._keys(fresh), tuple(said.algorithms), said.client_id,
            types=("JWT", ""), longest_s=86400.0, kid_needed=False,
        )  # fmt: skip

    def _keys(self, fresh: bool) -> tuple[PublicKey, ...]:
        self._about()
        with self._lock:
            known, now = self._known, time.monotonic()
            assert known is not None
            age = now - known.keys_at
            if not known.keys or age > KEYS_S or (fresh and age > AGAIN_S):
                _, found = self._ask("GET", _safe_url(str(known.found.get("jwks_uri", ""))))
                known.keys, known.keys_at = public_keys(msgspec.json.encode(found), strict=False), now
            return known.keys

    def _about(self) -> dict[str, Any]:
        """The provider's own description, an hour old at most."""
        with self._lock:
            if self._known is None or time.monotonic() - self._known.at > 3600:
                issuer = self.provider.issuer.rstrip("/")
                status, found = self._ask("GET", f"{issuer}/.well-known/openid-configuration")
                if status != 200 or found.get("issuer") != self.provider.issuer:
                    raise _fault("It describes itself as another issuer.")
                self._known = _Known(time.monotonic(), found)
            return self._known.found

    def _endpoint(self, name: str) -> str:
        return _safe_url(str(self._about().get(name, "")))

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer, bounded in bytes."""
        try:
            with self._http.stream(method, url, headers={"accept": "application/json"}, **more) as answer:
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise _fault("Its answer is too long.")
                found = msgspec.json.decode(body)
        except (httpx2.HTTPError, ValueError, RecursionError) as error:
            raise _fault(f"{type(error).__name__}.") from None
        if not isinstance(found, dict):
            raise _fault("Its answer is no JSON object.")
        return answer.status_code, found

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """By the first rule that fits. The subject stands nowhere: its keyed hash is the id."""
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise Denied("token-invalid", "The token is refused: it has no subject (sub).")
        said = self.provider
        digest = hmac.digest(self._pepper, f"{said.issuer}\0{subject}".encode(), "sha256").hex()
        strong = any(set(_texts(claims.get(name))) & set(values) for name, values in said.second_factor.items())
        for rule in said.rules:
            if rule.value in _texts(claims.get(rule.claim)):
                return Principal(f"o-{digest[:16]}", "", rule.tenant, rule.role, tuple(rule.duties),
                                 tuple(rule.models), strong=strong)  # fmt: skip
        raise Denied(
            "login-nobody",
            "You are known to the provider, but not to this service.",
            hint=f"Whoever runs it adds a rule to {FILE}.",
        )

    def _hash(self, state: str) -> bytes:
        return hmac.digest(self._pepper, state.encode(), "sha256")


def _texts(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _safe_url(url: str) -> str:
    """https, or this machine. Raises: Usage "oidc-invalid"."""
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.fragment:
        raise _bad(f"{url!r} is no address")
    try:
        here = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise _bad(f"{url!r} is not https")
    return url


def _secret(path: Path) -> str:
    try:
        mode, secret = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise _bad(f"{path} cannot be read") from None
    if mode & 0o077:
        raise Fault("key-exposed", f"{path} can be read by others.", hint=f"Run: chmod 600 {path}")
    if not secret:
        raise _bad(f"{path} is empty")
    return secret


def _bad(what: str) -> Usage:
    return Usage("oidc-invalid", f"{FILE}: {what}.", hint="docs/identity.md shows one.")


def _fault(what: str) -> ProviderFault:
    return ProviderFault("provider-failed", f"The sign-in provider failed. {what}", hint="Try again in a moment.")
