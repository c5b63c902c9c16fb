"""Signing in at the hospital's provider: a real one on loopback, each refusal beside a twin that is let in."""

import json
import re
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from one_client import http
from provider import CLIENT, SECRET, Provider, provider
from signing import rsa_key
from tiny_package import SMALL, serving, write_package

from medserve.access import oidc
from medserve.access.audit import Ledger
from medserve.access.oidc import Login
from medserve.access.policy import Policy
from medserve.app import build
from medserve.errors import Fault, Usage
from medserve.serving.tls import Tls
from medserve.settings import Settings

RULES = """
second_factor: {amr: [mfa, otp]}
rules:
  - {claim: groups, value: ward-doctors, role: clinician, tenant: clinic-a, models: [tiny]}
  - {claim: groups, value: privacy, role: auditor, tenant: clinic-a, duties: [privacy-officer]}
"""


def _configure(settings, issuer):
    settings.folder()
    secret = settings.home / "oidc-secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    (settings.home / oidc.FILE).write_text(
        f"issuer: {issuer}\nclient_id: {CLIENT}\nclient_secret_file: {secret}\n{RULES}"
    )


@dataclass
class Clinic:
    url: str
    settings: Settings
    provider: Provider

    def leave(self):
        """What the browser has when it arrives at the provider: the address, and our cookie."""
        answer = http.get(f"{self.url}/login")
        assert answer.status_code == 302, answer.text
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/login" in cookie
        return answer.headers["location"], cookie.partition(";")[0]

    def come_back(self, change=lambda url: url, cookie=None):
        location, kept = self.leave()
        back = change(self.provider.sign_in(location))
        return http.get(back, headers={"cookie": kept if cookie is None else cookie})


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    root = tmp_path_factory.mktemp("clinic")
    settings = Settings(home=root / "home")
    with provider() as found:
        _configure(settings, found.url)
        application = build(settings, [write_package(root / "m", settings)], limits=SMALL, threads=1)
        with serving(application) as port:
            yield Clinic(f"http://127.0.0.1:{port}", settings, found)


@pytest.fixture(autouse=True)
def honest(clinic):
    """Whatever a test has told the provider to do ends with it."""
    before = dict(clinic.provider.__dict__)
    yield
    clinic.provider.__dict__.update(before)


def test_the_whole_way(clinic):
    location, _ = clinic.leave()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    assert asked["code_challenge_method"] == "S256" and len(asked["code_challenge"]) == 43
    assert asked["response_type"] == "code" and min(len(asked["state"]), len(asked["nonce"])) >= 43
    answer = clinic.come_back()
    said = answer.json()
    assert (answer.status_code, said["role"], said["tenant"], said["models"]) == (
        200, "clinician", "clinic-a", ["tiny"]
    )  # fmt: skip
    assert said["second_factor"] is False
    cookie = next(v for v in answer.headers.get_list("set-cookie") if v.startswith("medserve_session="))
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie  # plain HTTP, loopback
    mine = {"cookie": cookie.partition(";")[0]}
    assert http.get(f"{clinic.url}/v1/models", headers=mine).status_code == 200
    who = http.get(f"{clinic.url}/v1/session", headers=mine).json()
    again = clinic.come_back().json()
    assert who["principal"] == again["principal"] and re.fullmatch("o-[0-9a-f]{16}", who["principal"])
    event = [event for _, event in Ledger.open(clinic.settings).read() if event.code == "" and event.status == 200][0]
    assert (event.action, event.principal, event.tenant) == ("session.open", who["principal"], "clinic-a")


def test_who_the_person_is_stands_nowhere(clinic):
    clinic.provider.claims = {"sub": "jane.doe@hospital.example", "name": "Jane Doe", "groups": ["ward-doctors"]}
    assert clinic.come_back().status_code == 200
    kept = b"".join(path.read_bytes() for path in clinic.settings.home.glob("medserve.db*"))
    assert b"jane.doe" not in kept and b"Jane Doe" not in kept


def _pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


STRANGER = rsa_key()
SPOILED = {  # (header, claims, key) -> the same with one thing wrong, and a twin with that thing right
    "wrong nonce": (lambda h, c, k: (h, c | {"nonce": "x"}, k), None),
    "no nonce": (lambda h, c, k: (h, {n: v for n, v in c.items() if n != "nonce"}, k), None),
    "wrong issuer": (lambda h, c, k: (h, c | {"iss": "http://127.0.0.1:1"}, k), None),
    "wrong audience": (
        lambda h, c, k: (h, c | {"aud": "another"}, k), lambda h, c, k: (h, c | {"aud": [CLIENT]}, k)),
    "made for another party": (
        lambda h, c, k: (h, c | {"aud": [CLIENT, "another"], "azp": "another"}, k),
        lambda h, c, k: (h, c | {"aud": [CLIENT, "another"], "azp": CLIENT}, k)),
    "expired": (
        lambda h, c, k: (h, c | {"exp": time.time() - 90}, k), lambda h, c, k: (h, c | {"exp": time.time() + 90}, k)),
    "no subject": (lambda h, c, k: (h, c | {"sub": ""}, k), None),
    "alg none": (lambda h, c, k: (h | {"alg": "none"}, c, k), None),
    "HS256 under the public key": (lambda h, c, k: (h | {"alg": "HS256"}, c, _pem(k)), None),
    "an algorithm that was not agreed on": (lambda h, c, k: (h | {"alg": "RS384"}, c, k), None),
    "a stranger's key under a known kid": (lambda h, c, k: (h, c, STRANGER), None),
    "a stranger's key under its own kid": (lambda h, c, k: (h | {"kid": "mine"}, c, STRANGER), None),
    "a key in the header": (lambda h, c, k: (h | {"jku": "http://127.0.0.1:9/"}, c, k), None),
    "an access token": (
        lambda h, c, k: (h | {"typ": "at+jwt"}, c, k), lambda h, c, k: (h | {"typ": "JWT"}, c, k)),
    "not valid yet": (lambda h, c, k: (h, c | {"nbf": time.time() + 90}, k), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_token_that_does_not_hold_opens_nothing(clinic, name):
    bad, good = SPOILED[name]
    honest = clinic.provider.spoil
    clinic.provider.spoil = bad
    refused = clinic.come_back()
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token-invalid"), refused.text
    assert "medserve_session" not in refused.headers.get("set-cookie", "")
    clinic.provider.spoil = good or honest
    assert clinic.come_back().status_code == 200


BACK = {  # the address that the browser comes back to, and its cookie
    "another state": (lambda url: url.replace("state=", "state=x"), None, "login-state"),
    "no state": (lambda url: url.replace("state=", "stat="), None, "login-state"),
    "another browser": (lambda url: url, "", "login-state"),
    "another browser's sign-in": (lambda url: url, "medserve_login=x", "login-state"),
    "another issuer": (lambda url: url.partition("&iss=")[0] + "&iss=http://evil.example", None, "login-refused"),
    "a code that was never given": (lambda url: url.replace("code=", "code=0"), None, "login-refused"),
    "no code": (lambda url: url.replace("code=", "cod="), None, "login-refused"),
    "an error": (lambda url: url + "&error=access_denied", None, "login-refused"),
}


@pytest.mark.parametrize("name", BACK)
def test_coming_back_otherwise_opens_nothing(clinic, name):
    change, cookie, code = BACK[name]
    refused = clinic.come_back(change, cookie)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, code)
    assert clinic.come_back().status_code == 200
    without = clinic.come_back(lambda url: url.partition("&iss=")[0])  # not every provider names itself
    assert without.status_code == 200


def test_a_sign_in_is_finished_once(clinic):
    location, cookie = clinic.leave()
    back = clinic.provider.sign_in(location)
    code = parse_qs(urlsplit(back).query)["code"][0]
    asked = clinic.provider.codes[code]
    assert http.get(back, headers={"cookie": cookie}).status_code == 200
    clinic.provider.codes[code] = asked  # even where the provider would take the code again
    again = http.get(back, headers={"cookie": cookie})
    assert (again.status_code, again.json()["error"]["code"]) == (401, "login-state")
    location, cookie = clinic.leave()  # and a code taken from one sign-in is no use in another, whose proof it lacks
    other = clinic.provider.sign_in(location)
    stolen, _ = clinic.leave()
    theirs = parse_qs(urlsplit(clinic.provider.sign_in(stolen)).query)["code"][0]
    mixed = re.sub("code=[0-9a-f]+", f"code={theirs}", other)
    refused = http.get(mixed, headers={"cookie": cookie})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "login-refused")


def test_the_proof_of_the_code_is_sent(clinic, monkeypatch):
    """A provider that asks for PKCE gives nothing without it."""
    assert clinic.come_back().status_code == 200
    with closing(sqlite3.connect(clinic.settings.home / "medserve.db")) as db:
        location, cookie = clinic.leave()
        db.execute("UPDATE logins SET verifier = ''")
        db.commit()
    refused = http.get(clinic.provider.sign_in(location), headers={"cookie": cookie})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "login-refused")


def test_a_sign_in_takes_ten_minutes_at_most(clinic):
    location, cookie = clinic.leave()
    with closing(sqlite3.connect(clinic.settings.home / "medserve.db")) as db:
        db.execute("UPDATE logins SET expires_at = ?", (time.time() - 1,))
        db.commit()
    refused = http.get(clinic.provider.sign_in(location), headers={"cookie": cookie})
    assert refused.json()["error"]["code"] == "login-state"
    clinic.leave()
    with closing(sqlite3.connect(clinic.settings.home / "medserve.db")) as db:
        assert db.execute("SELECT count(*) FROM logins WHERE expires_at < ?", (time.time(),)).fetchone() == (0,)


@pytest.mark.parametrize(
    ("claims", "found"),
    [({"groups": []}, None), ({}, None), ({"groups": "ward-doctors"}, "clinician"),
     ({"groups": [["ward-doctors"]]}, None), ({"groups": {"ward-doctors": 1}}, None),
     ({"group": ["ward-doctors"]}, None), ({"groups": ["privacy"]}, "auditor"),
     ({"groups": ["privacy", "ward-doctors"]}, "clinician"), ({"role": "administrator"}, None)],
    ids=str,
)  # fmt: skip
def test_nobody_gets_in_without_a_rule(clinic, claims, found):
    clinic.provider.claims = {"sub": "p", **claims}
    answer = clinic.come_back()
    if found:
        assert answer.json()["role"] == found
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "login-nobody")


def test_a_second_factor_is_what_the_provider_says(clinic):
    for methods, strong in ((["pwd"], False), (["pwd", "otp"], True), ("mfa", True)):
        clinic.provider.claims = clinic.provider.claims | {"amr": methods}
        assert clinic.come_back().json()["second_factor"] is strong


def test_new_keys_of_the_provider_are_found_and_old_ones_forgotten(clinic, monkeypatch):
    assert clinic.come_back().status_code == 200
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    honest = clinic.provider.keys
    clinic.provider.keys, clinic.provider.current = {"k2": STRANGER}, "k2"
    assert clinic.come_back().status_code == 200
    old = honest["k1"]
    clinic.provider.spoil = lambda h, c, k: (h | {"kid": "k1"}, c, old)
    assert clinic.come_back().status_code == 401
    clinic.provider.spoil = lambda h, c, k: (h, c, k)
    clinic.provider.keys, clinic.provider.current = honest, "k1"
    assert clinic.come_back().status_code == 200


def test_unknown_kids_do_not_make_it_ask_for_keys_again_and_again(clinic):
    assert clinic.come_back().status_code == 200
    clinic.provider.spoil = lambda h, c, k: (h | {"kid": "mine"}, c, STRANGER)
    before = clinic.provider.asked.count("/keys")
    for _ in range(5):
        assert clinic.come_back().status_code == 401
    assert clinic.provider.asked.count("/keys") <= before + 1


@pytest.mark.parametrize(
    "says",
    [{"issuer": "https://another.example"}, {"authorization_endpoint": "http://evil.example/"}, {"jwks_uri": "file:///etc"},
     {"token_endpoint": "http://10.0.0.1/token"}],
    ids=str,
)  # fmt: skip
def test_a_provider_that_points_elsewhere(tmp_path, says):
    settings = Settings(home=tmp_path / "home")
    with provider() as found:
        _configure(settings, found.url)
        found.says = says
        login = Login.open(settings, Policy.load(settings))
        with pytest.raises((Fault, Usage)):
            url, state = login.begin("http://127.0.0.1/login/callback")
            code = parse_qs(urlsplit(found.sign_in(url)).query)["code"][0]
            login.finish(state, code, "http://127.0.0.1/login/callback")
        login.close()


@pytest.mark.parametrize(
    "change",
    [("issuer: http://127", "issuer: http://idp.example#"), ("role: clinician", "role: clinicien"),
     ("models:", "model:"), ("client_id: medserve\n", ""),
     ("tenant: clinic-a", "tenant: A B"), ("second_factor", "algorithms: [HS256]\nx"),
     ("second_factor: {amr: [mfa, otp]}", "algorithms: [none]")],
    ids=str,
)  # fmt: skip
def test_settings_that_stop_the_start(settings, change):
    _configure(settings, "http://127.0.0.1:1")
    login = Login.open(settings, Policy.load(settings))
    login.close()
    path = settings.home / oidc.FILE
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(Usage):
        Login.open(settings, Policy.load(settings))


def test_a_readable_secret_stops_the_start(settings):
    _configure(settings, "http://127.0.0.1:1")
    (settings.home / "oidc-secret").chmod(0o644)
    with pytest.raises(Fault, match="chmod"):
        Login.open(settings, Policy.load(settings))


def test_over_tls_the_cookies_are_secure(tmp_path):
    settings = Settings(home=tmp_path / "home")
    with provider() as found:
        _configure(settings, found.url)
        application = build(settings, [write_package(tmp_path / "m", settings)], threads=1)
        tls = Tls.self_signed(settings, ["127.0.0.1"])
        with serving(application, tls) as port:
            with httpx2.Client(verify=False, base_url=f"https://127.0.0.1:{port}") as browser:
                left = browser.get("/login")
                back = browser.get(found.sign_in(left.headers["location"]))
    assert back.status_code == 200
    cookies = [*left.headers.get_list("set-cookie"), *back.headers.get_list("set-cookie")]
    assert len(cookies) == 3 and all("; Secure" in cookie for cookie in cookies)


def test_without_a_provider_there_is_no_login(tmp_path):
    settings = Settings(home=tmp_path / "home")
    application = build(settings, [write_package(tmp_path / "m", settings)], threads=1)
    with serving(application) as port:
        for path in ("/login", "/login/callback?code=a&state=b"):
            answer = http.get(f"http://127.0.0.1:{port}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "login-not-configured")


def test_a_provider_that_is_away_is_said_so(settings):
    _configure(settings, "http://127.0.0.1:1")
    login = Login.open(settings, Policy.load(settings))
    with pytest.raises(Fault) as caught:
        login.begin("http://127.0.0.1/login/callback")
    assert caught.value.code == "provider-failed" and json.dumps(caught.value.as_dict())
    login.close()
