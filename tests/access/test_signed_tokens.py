"""Signed tokens are believed in one module alone, and it believes little."""

import ast
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from signing import ec, ec_key, jwk, jwks, rsa_key, sign

import medserve
from medserve.access.tokens import BadKeys, Issuer, UnknownKey, public_keys
from medserve.errors import Denied

ROOT = Path(medserve.__file__).parent
JWT_LIBRARIES = {"joserfc", "jwt", "jose", "authlib", "jwcrypto", "python_jwt"}


def test_no_other_module_reads_signed_tokens():
    for path in ROOT.rglob("*.py"):
        names, text = set(), path.read_text()
        if not any(library in text for library in JWT_LIBRARIES):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        found = names & JWT_LIBRARIES
        assert not found or (path == ROOT / "access" / "tokens.py" and found == {"joserfc"}), path


@pytest.fixture(scope="module")
def keys():
    return {"e": ec_key(), "r": rsa_key(), "small": ec_key(ec.SECP256R1())}


@pytest.fixture
def issuer(keys):
    found = public_keys(jwks(jwk(keys["e"], "e"), jwk(keys["r"], "r")))
    return Issuer("us", found, ("RS384", "ES384"), "here", kid_needed=False)


def _claims(**changes):
    return {"iss": "us", "sub": "us", "aud": "here", "exp": time.time() + 60, "jti": "1"} | changes


@pytest.mark.parametrize("audience", ["here", ["here"], ["elsewhere", "here"]])
@pytest.mark.parametrize("name", ["e", "r"])
def test_a_right_token_is_believed(issuer, keys, name, audience):
    header = {"alg": "ES384" if name == "e" else "RS384", "kid": name, "typ": "JWT"}
    assert issuer.verify(sign(header, _claims(aud=audience), keys[name]))["sub"] == "us"


def test_a_token_without_a_kid_is_taken_where_one_key_fits(issuer, keys):
    assert issuer.verify(sign({"alg": "ES384"}, _claims(), keys["e"]))
    two = Issuer("us", issuer.keys + public_keys(jwks(jwk(ec_key(), "e2"))), ("ES384",), "here", kid_needed=False)
    with pytest.raises(Denied, match="not the only one"):
        two.verify(sign({"alg": "ES384"}, _claims(), keys["e"]))


def test_a_key_that_is_not_known_is_told_apart(issuer, keys):
    """So that the keys of a provider are read again, and for nothing else."""
    with pytest.raises(UnknownKey):
        issuer.verify(sign({"alg": "ES384", "kid": "new"}, _claims(), keys["e"]))
    with pytest.raises(Denied) as caught:
        issuer.verify(sign({"alg": "ES384", "kid": "e"}, _claims(), ec_key()))
    assert not isinstance(caught.value, UnknownKey)


@pytest.mark.parametrize(
    "changes",
    [{"exp": None}, {"exp": "soon"}, {"exp": True}, {"exp": float("inf")}, {"exp": 0}, {"nbf": time.time() + 999},
     {"iat": time.time() + 999}, {"iat": "now"}, {"aud": None}, {"aud": []}, {"aud": {"here": 1}}, {"iss": "US"}],
    ids=",".join,
)  # fmt: skip
def test_claims_that_do_not_hold(issuer, keys, changes):
    with pytest.raises(Denied, match="refused"):
        issuer.verify(sign({"alg": "ES384", "kid": "e"}, _claims(**changes), keys["e"]))


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "....", "e30.e30.", "é.é.é", "W10.e30.AA", "x" * 9000])
def test_what_is_no_token(issuer, text):
    with pytest.raises(Denied) as caught:
        issuer.verify(text)
    assert caught.value.code == "token-invalid"


def test_keys_that_cannot_be_registered(keys):
    """Each beside a twin that differs in one thing and is taken."""
    good = jwk(keys["e"], "e")
    assert public_keys(jwks(good, jwk(keys["r"], "r")))
    private = good | {"d": good["x"]}
    short = jwk(rsa_key(1024), "s")
    nameless = {name: value for name, value in good.items() if name != "kid"}
    shared = {"kty": "oct", "kid": "o", "k": "c2VjcmV0"}
    changes = ({"use": "enc"}, {"crv": "P-521"}, {"x": "AAAA"}, {"alg": "HS384"}, {"key_ops": ["sign"]})
    alone = [[good | change] for change in changes]
    for bad in ([good, good], [private], [short], [nameless], [shared], *alone, [], ["no"]):
        with pytest.raises(BadKeys):
            public_keys(jwks(*bad))
    for text in (b"", b"{}", b"[]", b'{"keys": 3}', b"[" * 3000, b'{"keys": []}' + b" " * 300_000):
        with pytest.raises(BadKeys):
            public_keys(text)
    assert [key.kid for key in public_keys(jwks(shared, good, nameless), strict=False)] == ["e", ""]


def test_a_curve_is_not_another_one(keys):
    found = public_keys(jwks(jwk(keys["small"], "s")))
    token = sign({"alg": "ES384", "kid": "s"}, _claims(), keys["small"])
    with pytest.raises(Denied, match="another kind"):
        Issuer("us", found, ("ES384", "ES256"), "here").verify(token)
    good = sign({"alg": "ES256", "kid": "s"}, _claims(), keys["small"])
    assert Issuer("us", found, ("ES384", "ES256"), "here").verify(good)
