"""Keys and signed tokens made by hand, also wrong ones: so that what verifies them is not what made them."""

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384()}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP384R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The public part."""
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e), **more}
    size = (key.curve.key_size + 7) // 8
    return {"kty": "EC", "kid": kid, "crv": f"P-{key.curve.key_size}", "x": number(numbers.x, size),
            "y": number(numbers.y, size), **more}  # fmt: skip


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def sign(header: dict[str, Any], claims: dict[str, Any], key: Any) -> str:
    """By the algorithm that the header names; key: bytes for a shared secret."""
    said = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{said}.{b64(_signature(header['alg'], said.encode(), key))}"


def _signature(algorithm: str, said: bytes, key: Any) -> bytes:
    if algorithm == "none":
        return b""
    kind, bits = algorithm[:2], algorithm[2:]
    if kind == "HS":
        return hmac.digest(key, said, getattr(hashlib, f"sha{bits}"))
    if kind == "RS":
        return key.sign(said, padding.PKCS1v15(), HASHES[bits])
    r, s = decode_dss_signature(key.sign(said, ec.ECDSA(HASHES[bits])))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")
