"""SMART Backend Services against a real server: each refusal beside a twin that differs in one thing and is taken."""

import base64
import json
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from uuid import uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from one_client import http
from signing import ec_key, jwk, jwks, rsa_key, sign
from tiny_package import SMALL, serving, write_package

from medserve.access.accounts import Accounts
from medserve.access.audit import Ledger
from medserve.access.clients import ASSERTION, Clients
from medserve.access.sessions import Sessions
from medserve.app import build
from medserve.settings import Settings

HOME = "https://medserve.example"
TOKEN = f"{HOME}/oauth/token"


@dataclass
class Site:
    """A running service with three clients: `bridge`, `other`, and `retired`, which is disabled."""

    url: str
    settings: Settings
    ids: dict[str, str]
    keys: dict[str, object]
    accounts: Accounts

    def claims(self, **changes):
        me = self.ids["bridge"]
        said = {"iss": me, "sub": me, "aud": TOKEN, "exp": time.time() + 200, "jti": uuid4().hex}
        return {name: value for name, value in (said | changes).items() if value is not None}

    def form(self, header=None, claims=None, key=None, **changes):
        """header, claims: what differs from an ordinary assertion; None takes a claim away."""
        head = {"alg": "ES384", "kid": "e", "typ": "JWT"} | (header or {})
        head = {name: value for name, value in head.items() if value is not None}
        token = sign(head, self.claims(**(claims or {})), key or self.keys["e"])
        said = {"grant_type": "client_credentials", "scope": "system/*.crs", "client_assertion_type": ASSERTION}
        return {n: v for n, v in (said | {"client_assertion": token} | changes).items() if v is not None}

    def ask(self, form, **more):
        return http.post(f"{self.url}/oauth/token", data=form, **more)

    def good(self):
        answer = self.ask(self.form())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def change(self, statement, *values):
        with closing(sqlite3.connect(self.settings.home / "medserve.db")) as db:
            db.execute(statement, values)
            db.commit()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("smart")
    settings = Settings(home=root / "home", public_url=HOME)
    package = write_package(root / "m", settings)
    accounts = Accounts.open(settings)
    sessions = Sessions.open(settings)
    clients = Clients(accounts, sessions)
    keys = {"e": ec_key(), "r": rsa_key(), "o": ec_key(), "gone": ec_key()}
    ids = {
        "bridge": clients.add("bridge", jwks(jwk(keys["e"], "e"), jwk(keys["r"], "r")), tenant="a").id,
        "other": clients.add("other", jwks(jwk(keys["o"], "o")), tenant="a").id,
        "retired": clients.add("retired", jwks(jwk(keys["gone"], "gone")), tenant="a").id,
    }
    accounts.disable("client", "retired")
    with serving(build(settings, [package], limits=SMALL, threads=1)) as port:
        yield Site(f"http://127.0.0.1:{port}", settings, ids, keys, accounts)
    accounts.close()
    sessions.close()


def _pem(site):
    return site.keys["r"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _jwk_bytes(site):
    return json.dumps(jwk(site.keys["r"], "r")).encode()


def _tampered(site):
    form = site.form()
    head, body, signature = form["client_assertion"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "==")) | {"jti": "another"}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return form | {"client_assertion": f"{head}.{body}.{signature}"}


@dataclass(frozen=True)
class Case:
    """bad, good: make a form; good: the ordinary one, where the other differs from it in one thing."""

    bad: object
    word: str = "invalid_client"
    status: int = 401
    good: object = field(default=lambda site: site.form())


def _retired(site, key="gone"):
    id = site.ids["retired" if key == "gone" else "other"]
    return site.form({"kid": key}, {"iss": id, "sub": id}, site.keys[key])


NOW = time.time
CASES = {
    "ends more than 300 s ahead": Case(
        lambda s: s.form(claims={"exp": NOW() + 330}), good=lambda s: s.form(claims={"exp": NOW() + 290})
    ),
    "expired": Case(lambda s: s.form(claims={"exp": NOW() - 90})),
    "no end": Case(lambda s: s.form(claims={"exp": None})),
    "no jti": Case(lambda s: s.form(claims={"jti": None})),
    "meant for another service": Case(lambda s: s.form(claims={"aud": "https://elsewhere.example/oauth/token"})),
    "meant for the service, not its token endpoint": Case(lambda s: s.form(claims={"aud": HOME})),
    "iss is not sub": Case(lambda s: s.form(claims={"sub": s.ids["other"]})),
    "client_id of another": Case(
        lambda s: s.form(client_id=s.ids["other"]), good=lambda s: s.form(client_id=s.ids["bridge"])
    ),
    "unknown client": Case(lambda s: s.form(claims={"iss": "c-0", "sub": "c-0"})),
    "unknown kid": Case(lambda s: s.form({"kid": "e2"})),
    "no kid": Case(lambda s: s.form({"kid": None})),
    "kty of the kid is not that of the algorithm": Case(
        lambda s: s.form({"alg": "RS384", "kid": "e"}, key=s.keys["r"]),
        good=lambda s: s.form({"alg": "RS384", "kid": "r"}, key=s.keys["r"]),
    ),
    "signed by another client's key": Case(lambda s: s.form(key=s.keys["o"])),
    "changed after signing": Case(_tampered),
    "jku": Case(lambda s: s.form({"jku": "http://127.0.0.1:9/jwks"})),
    "embedded jwk": Case(lambda s: s.form({"jwk": jwk(s.keys["o"], "e")}, key=s.keys["o"])),
    "x5u": Case(lambda s: s.form({"x5u": "http://127.0.0.1:9/x"})),
    "x5c": Case(lambda s: s.form({"x5c": ["MIIB"]})),
    "alg none": Case(lambda s: s.form({"alg": "none"})),
    "HS256 under the public key as PEM": Case(lambda s: s.form({"alg": "HS256", "kid": "r"}, key=_pem(s))),
    "HS384 under the public key as JWK": Case(lambda s: s.form({"alg": "HS384", "kid": "r"}, key=_jwk_bytes(s))),
    "RS256, which is not of the profile": Case(
        lambda s: s.form({"alg": "RS256", "kid": "r"}, key=s.keys["r"]),
        good=lambda s: s.form({"alg": "RS384", "kid": "r"}, key=s.keys["r"]),
    ),
    "unknown crit": Case(lambda s: s.form({"crit": ["exp2"], "exp2": 1})),
    "unencoded payload (b64)": Case(lambda s: s.form({"crit": ["b64"], "b64": False})),
    "token of another type": Case(lambda s: s.form({"typ": "at+jwt"})),
    "header of 9 KB": Case(lambda s: s.form({"x5t": "x" * 9000}), good=lambda s: s.form({"x5t": "x" * 9})),
    "header of 100 KB": Case(lambda s: s.form({"x5t": "x" * 100_000}), "invalid_request", 413),
    "not valid yet (nbf)": Case(
        lambda s: s.form(claims={"nbf": NOW() + 120}), good=lambda s: s.form(claims={"nbf": NOW() - 1})
    ),
    "made in the future (iat)": Case(lambda s: s.form(claims={"iat": NOW() + 120})),
    "disabled client": Case(_retired, good=lambda s: _retired(s, "o")),
    "scope wider than the role": Case(lambda s: s.form(scope="system/*.crus"), "invalid_scope", 400),
    "scope of a patient": Case(lambda s: s.form(scope="patient/*.rs"), "invalid_scope", 400),
    "no scope": Case(lambda s: s.form(scope=None), "invalid_scope", 400),
    "offline access": Case(
        lambda s: s.form(scope="system/*.rs offline_access"), "invalid_scope", 400,
        good=lambda s: s.form(scope="system/*.rs system/*.read"),
    ),
    "refresh token asked for": Case(
        lambda s: s.form(grant_type="refresh_token", refresh_token="x"), "unsupported_grant_type", 400
    ),
    "assertion of another kind": Case(lambda s: s.form(client_assertion_type="urn:x")),
    "no assertion": Case(lambda s: s.form(client_assertion=None)),
    "a shared secret beside it": Case(lambda s: s.form(client_secret="x")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refusals_of_the_token_endpoint(site, name):
    case = CASES[name]
    refused = site.ask(case.bad(site))
    body = refused.json()
    assert (refused.status_code, body["error"]) == (case.status, case.word), body
    assert body["code"] and body["error_description"] and body["trace"] == refused.headers["x-trace-id"]
    assert "access_token" not in refused.text and refused.headers["cache-control"] == "no-store"
    taken = site.ask(case.good(site))
    assert taken.status_code == 200, taken.text
    assert taken.json()["expires_in"] <= 300 and "refresh_token" not in taken.json()


def test_an_assertion_is_used_once(site):
    form = site.form()
    assert site.ask(form).status_code == 200
    for _ in range(2):
        again = site.ask(form)
        assert (again.status_code, again.json()["code"]) == (401, "assertion-replayed")
    jti = uuid4().hex  # of two clients it may be the same
    other = {"iss": site.ids["other"], "sub": site.ids["other"], "jti": jti}
    assert site.ask(site.form(claims={"jti": jti})).status_code == 200
    assert site.ask(site.form({"kid": "o"}, other, site.keys["o"])).status_code == 200


def test_an_assertion_is_used_once_also_across_a_restart(tmp_path):
    settings = Settings(home=tmp_path / "home", public_url=HOME)
    package = write_package(tmp_path / "m", settings)
    accounts, sessions, key = Accounts.open(settings), Sessions.open(settings), ec_key()
    id = Clients(accounts, sessions).add("bridge", jwks(jwk(key, "e"))).id
    codes = []
    for start in range(2):
        with serving(build(settings, [package], limits=SMALL, threads=1)) as port:
            site = Site(f"http://127.0.0.1:{port}", settings, {"bridge": id}, {"e": key}, accounts)
            form = form if start else site.form()  # noqa: F821
            codes += [site.ask(form).status_code, site.ask(site.form()).status_code]
    assert codes == [200, 200, 401, 200]
    site.change("UPDATE used_assertions SET expires_at = 1")  # nothing is kept for ever
    with serving(build(settings, [package], limits=SMALL, threads=1)) as port:
        assert changed(site, url=f"http://127.0.0.1:{port}").good()
    with closing(sqlite3.connect(settings.home / "medserve.db")) as db:
        assert db.execute("SELECT count(*) FROM used_assertions").fetchone() == (1,)
    accounts.close()
    sessions.close()


def _reads(site, token):
    return http.get(f"{site.url}/v1/models", headers={"authorization": f"Bearer {token}"})


def test_a_token_ends_after_its_time_and_names_its_client(site):
    old, new = site.good()["access_token"], site.good()["access_token"]
    who = http.get(f"{site.url}/v1/session", headers={"authorization": f"Bearer {old}"}).json()
    with closing(sqlite3.connect(site.settings.home / "medserve.db")) as db:
        (life,) = db.execute("SELECT max(expires_at - created_at) FROM sessions").fetchone()
    assert life <= 300
    site.change("UPDATE sessions SET expires_at = ? WHERE id = ?", time.time() - 1, who["session"])
    time.sleep(0.6)
    ended = _reads(site, old)
    assert (ended.status_code, ended.json()["error"]["code"]) == (401, "session-expired")
    assert _reads(site, new).status_code == 200
    events = [event for _, event in Ledger.open(site.settings).read()]
    told = next(event for event in events if event.trace == ended.headers["x-trace-id"])
    assert (told.principal, told.tenant, told.outcome) == (site.ids["bridge"], "a", "deny")


def test_disabling_a_client_ends_its_tokens_within_a_second(site):
    clients, key = Clients(site.accounts, Sessions.open(site.settings)), ec_key()
    id = clients.add(f"short {uuid4().hex}", jwks(jwk(key, "e")), tenant="a").id
    form = site.form(claims={"iss": id, "sub": id}, key=key)
    token, twin = site.ask(form).json()["access_token"], site.good()["access_token"]
    assert _reads(site, token).status_code == 200
    site.accounts.disable("client", id)
    time.sleep(1.0)
    assert _reads(site, token).status_code == 401
    assert _reads(site, twin).status_code == 200


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [("system/*.rs", (200, 200, 403)), ("system/*.read", (200, 200, 403)), ("system/*.c", (403, 403, 200)),
     ("system/*.crs", (200, 200, 200)), ("system/*.crds", (200, 200, 200)), ("system/*.*", (200, 200, 200)),
     ("system/*.c system/*.s", (200, 403, 200))],
)  # fmt: skip
def test_scopes_narrow_the_role(site, scope, statuses):
    from tiny_package import png, ramp

    token = {"authorization": f"Bearer {site.ask(site.form(scope=scope)).json()['access_token']}"}
    found = [http.get(site.url + path, headers=token).status_code for path in ("/v1/models", "/v1/models/tiny")]
    media = token | {"content-type": "image/png"}
    found.append(http.post(f"{site.url}/v1/models/tiny/predict", headers=media, content=png(ramp())).status_code)
    assert tuple(found) == statuses


def test_the_form_itself(site):
    """Twice the same word, another media type, JSON, the query, a method, a second way to sign in."""
    form = site.form()
    url = f"{site.url}/oauth/token"
    text = "&".join(f"{name}={value}" for name, value in form.items()).replace("+", "%2B")
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for bad in (
        http.post(url, content=text + "&scope=system/*.rs", headers=kind),
        http.post(url, content=text, headers={"content-type": "text/plain"}),
        http.post(url, json=form),
        http.post(url + "?scope=system/*.rs", data=form),
        http.post(url, data=form, headers={"authorization": "Basic YTpi"}),
        http.post(url, content=b"\xff", headers=kind),
        http.post(url, content="&".join(f"a{i}=1" for i in range(99)), headers=kind),
    ):
        assert (bad.status_code, bad.json()["error"]) == (400, "invalid_request")
    assert http.get(url).status_code == 405
    assert http.post(url, content=text, headers=kind).status_code == 200


def test_where_and_how_is_said_to_everybody(site):
    said = http.get(f"{site.url}/.well-known/smart-configuration", headers={"host": "evil.example"}).json()
    assert said["token_endpoint"] == TOKEN
    assert said["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]


def test_nothing_of_a_token_is_kept_readable(site):
    token = site.good()["access_token"]
    form = site.form()
    site.ask(form)
    _reads(site, token)
    kept = b"".join(path.read_bytes() for path in site.settings.home.rglob("*") if path.is_file())
    assert token.encode() not in kept and form["client_assertion"].encode() not in kept


def test_how_many_refusals():
    """Beside those of the table: replay, replay after a restart, the token's end, and disabling it. 24 are wanted."""
    assert len(CASES) + 4 == 42
