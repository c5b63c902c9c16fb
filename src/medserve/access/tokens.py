"""Signed tokens of others (JWT): the one place where a signature is believed, and the only one that imports joserfc.

    keys   = public_keys(jwks_bytes)                        # BadKeys: nothing but public keys, each with its own kid
    issuer = Issuer("client c-1", keys, ("RS384", "ES384"), audience=url, types=("JWT",), kid_needed=True)
    claims = issuer.verify(token)                           # Denied "token-invalid"

What a token says of itself is never trusted before its signature is: the algorithms are those of the issuer (none with
a shared secret, none without a signature), the key is one registered beforehand and of the kind that the algorithm
takes, and a header that carries or points to a key, or asks for an extension, is refused.
"""

import base64
import binascii
import math
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from medserve.errors import Denied, Usage

ALGORITHMS = {  # kty, curve
    "RS256": ("RSA", ""), "RS384": ("RSA", ""), "PS256": ("RSA", ""), "PS384": ("RSA", ""),
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"),
}  # fmt: skip
MAX_BYTES = 8192  # of a token
MAX_JWKS_BYTES = 256 * 1024
LEEWAY_S = 30.0  # between two clocks; never added to the longest life
LEAST_RSA_BITS = 2048
_HEADER = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})  # thumbprints are ignored; anything else is refused
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class BadKeys(Usage):
    """A set of keys that cannot be used."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """kid: "" where the set names none. algorithm: the only one it is for, or ""."""

    kid: str
    kind: str
    curve: str
    algorithm: str
    key: Any


def public_keys(raw: bytes, *, strict: bool = True) -> tuple[PublicKey, ...]:
    """Of a JWK Set (RFC 7517).

    Args:
        strict: every key must be usable, with a kid of its own; else what cannot be used is left out.

    Raises: BadKeys "jwks-invalid", saying which key and why.
    """
    try:
        if len(raw) > MAX_JWKS_BYTES:
            raise ValueError(f"more than {MAX_JWKS_BYTES} bytes")
        given = msgspec.json.decode(raw)["keys"]
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise ValueError("its keys are not a list of objects")
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad("This is not a JWK Set: " + (str(error) or "no keys") + ".") from None
    keys: list[PublicKey] = []
    for at, one in enumerate(given):
        why, key = _public_key(one)
        if key is not None and strict and not key.kid:
            why = "it has no kid"
        if key is not None and strict and any(key.kid == other.kid for other in keys):
            why = "its kid stands twice"
        if why and strict:
            raise _bad(f"Key {at + 1} cannot be used: {why}.")
        if key is not None and not why:
            keys.append(key)
    if not keys:
        raise _bad("There is no usable key.")
    return tuple(keys)


def _public_key(one: dict[str, Any]) -> tuple[str, PublicKey | None]:
    """Why not, or the key."""
    kind, curve = one.get("kty"), one.get("crv", "")
    kid, algorithm = one.get("kid", ""), one.get("alg", "")
    if _PRIVATE & set(one):
        return "it is private or shared; give the public part alone", None
    if not isinstance(kid, str) or len(kid) > 256:
        return "its kid is not a short text", None
    if one.get("use", "sig") != "sig" or "verify" not in one.get("key_ops", ["verify"]):
        return "it is not for signatures", None
    if algorithm and algorithm not in ALGORITHMS:
        return f"it is for {algorithm!r}", None
    try:
        if kind == "RSA":
            if len(one["n"]) * 6 < LEAST_RSA_BITS:
                return f"fewer than {LEAST_RSA_BITS} bits", None
            key: Any = RSAKey.import_key({name: one[name] for name in ("kty", "n", "e")})
            if key.raw_value.key_size < LEAST_RSA_BITS:
                return f"fewer than {LEAST_RSA_BITS} bits", None
            return "", PublicKey(kid, kind, "", algorithm, key)
        if kind == "EC" and curve in ("P-256", "P-384"):
            return "", PublicKey(
                kid, kind, curve, algorithm, ECKey.import_key({n: one[n] for n in ("kty", "crv", "x", "y")})
            )
    except (JoseError, ValueError, KeyError, TypeError):
        return "it is broken", None
    return "neither RSA nor an elliptic curve P-256 or P-384", None


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whom to believe, and how.

    Args:
        name: the exact `iss`.
        algorithms: names of ALGORITHMS.
        audience: what `aud` must be, or hold.
        types: allowed `typ` headers; "" where the header may be absent.
        longest_s: how far ahead `exp` may lie.
        kid_needed: False: a token without a kid is taken where exactly one key fits its algorithm.
    """

    name: str
    keys: tuple[PublicKey, ...]
    algorithms: tuple[str, ...]
    audience: str
    types: tuple[str, ...] = ("JWT", "")
    longest_s: float = 300.0
    kid_needed: bool = True

    def verify(self, token: str, *, now: float | None = None) -> dict[str, Any]:
        """The claims of a token that this issuer signed for us, now.

        Raises: Denied "token-invalid"; the message names what was wrong, never a value of the token. UnknownKey where
            the kid is not among the keys.
        """
        header = header_of(token)
        key = self._key(header)
        registry = JWSRegistry(algorithms=[header["alg"]])
        registry.max_header_length, registry.max_payload_length = MAX_BYTES, MAX_BYTES
        try:
            signed = jws.deserialize_compact(token, key.key, registry=registry)
            claims = msgspec.json.decode(signed.payload or b"")
        except (JoseError, ValueError, TypeError, RecursionError):
            raise _invalid("its signature does not hold") from None
        if not isinstance(claims, dict):
            raise _invalid("its claims are no object")
        self._check(claims, time.time() if now is None else now)
        return claims

    def _key(self, header: dict[str, Any]) -> PublicKey:
        algorithm, kid = header.get("alg"), header.get("kid", "")
        if algorithm not in self.algorithms or algorithm not in ALGORITHMS:
            raise _invalid(f"its algorithm is not one of {', '.join(self.algorithms)}")
        kinds = {kind.lower() for kind in self.types}
        if str(header.get("typ", "")).lower() not in kinds:
            raise _invalid("it is a token of another type")
        if not isinstance(kid, str) or (not kid and self.kid_needed):
            raise _invalid("it names no key (kid)")
        named = [key for key in self.keys if key.kid == kid] if kid else list(self.keys)
        if not named:
            raise UnknownKey("token-invalid", "The token is refused: its key (kid) is not known here.")
        fitting = [
            key for key in named if (key.kind, key.curve) == ALGORITHMS[algorithm] and key.algorithm in ("", algorithm)
        ]
        if not fitting:
            raise _invalid("its key is of another kind than its algorithm")
        if len(fitting) != 1 or (kid and len(named) != 1):
            raise _invalid("its key is not the only one of that name")
        return fitting[0]

    def _check(self, claims: dict[str, Any], now: float) -> None:
        if claims.get("iss") != self.name:
            raise _invalid("its issuer (iss) is another one")
        audience = claims.get("aud")
        if self.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _invalid("it is meant for another service (aud)")
        ends = _seconds(claims, "exp")
        if ends is None:
            raise _invalid("it has no end (exp)")
        if ends <= now - LEEWAY_S:
            raise _invalid("it has expired (exp)")
        if ends > now + self.longest_s:
            raise _invalid(f"it ends (exp) more than {self.longest_s:g} s from now")
        for name in ("nbf", "iat"):
            if (_seconds(claims, name) or 0.0) > now + LEEWAY_S:
                raise _invalid(f"it is not valid yet ({name})")


class UnknownKey(Denied):
    """The kid is not among the keys; the issuer may have new ones."""


def header_of(token: str) -> dict[str, Any]:
    """The header of a token, unverified, with nothing in it that we would not look at.

    Raises: Denied "token-invalid".
    """
    if len(token) > MAX_BYTES:
        raise _invalid(f"it is longer than {MAX_BYTES} characters")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise _invalid("it is not a signed token (three parts)")
    header = _object(parts[0])
    if not isinstance(header, dict):
        raise _invalid("its header is no object")
    for name in ("jwk", "jku", "x5u", "x5c"):
        if name in header:
            raise _invalid(f"its header brings or points to a key ({name})")
    if "crit" in header:
        raise _invalid("its header asks for an extension (crit)")
    if set(header) - _HEADER:
        raise _invalid(f"its header says more than {', '.join(sorted(_HEADER))}")
    return header


def unverified(token: str, claim: str) -> str:
    """One text of the claims, only to find whose keys to look at; "" where it is missing.

    Raises: Denied "token-invalid".
    """
    header_of(token)
    claims = _object(token.split(".")[1])
    value = claims.get(claim) if isinstance(claims, dict) else None
    return value if isinstance(value, str) else ""


def _object(part: str) -> Any:
    try:
        return msgspec.json.decode(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid("it is not base64url of JSON") from None


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    """A time of the claims. Raises: Denied where it is no number."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(f"{name} is not a number of seconds")
    return float(value)


def _invalid(why: str) -> Denied:
    return Denied("token-invalid", f"The token is refused: {why}.")


def _bad(what: str) -> BadKeys:
    return BadKeys("jwks-invalid", what, hint="A file {'keys': [...]} of public RSA or elliptic-curve keys, with kid.")
