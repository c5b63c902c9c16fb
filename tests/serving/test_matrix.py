"""Every address x every principal, against a table written by hand; and every request stands in the audit log."""

import json
import re
import socket
import sqlite3
import sys
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "access"))

from one_client import http
from signing import ec_key, sign
from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.accounts import Accounts
from medserve.access.audit import Event, Ledger
from medserve.access.clients import actions_of
from medserve.access.glass import Glass
from medserve.access.keys import KeyRing, new_key
from medserve.access.policy import Policy, Principal
from medserve.access.sessions import Sessions
from medserve.app import build
from medserve.serving.gate import asked_of
from medserve.serving.routes import ROUTES
from medserve.settings import Settings
from medserve.store.database import database

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"
DEFAULT = Policy.parse(POLICY.read_bytes())
ADDRESSES = {
    "live": ("GET", "/v2/health/live"),
    "ready": ("GET", "/v2/health/ready"),
    "api": ("GET", "/openapi.json"),
    "list": ("GET", "/v1/models"),
    "page": ("GET", "/v1/models/open"),
    "own page": ("GET", "/v1/models/owned"),
    "predict": ("POST", "/v1/models/open/predict"),
    "version": ("POST", "/v1/models/open/versions/1/predict"),
    "explain": ("POST", "/v1/models/open/predict?explain=occlusion"),
    "own predict": ("POST", "/v1/models/owned/predict"),
    "nowhere": ("GET", "/v1/secrets"),
}
# live ready api list page own-page predict version explain own-predict nowhere; `owned` belongs to tenant b
TABLE = {
    "anonymous": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "malformed": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "unknown": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "expired": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "revoked": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "clinician a": (200, 200, 200, 200, 200, 404, 200, 200, 200, 404, 404),
    "clinician b": (200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 404),
    "data-scientist a": (200, 200, 200, 200, 200, 404, 403, 403, 403, 404, 404),
    "ml-engineer b": (200, 200, 200, 200, 200, 200, 403, 403, 403, 403, 404),
    "auditor a": (200, 200, 200, 403, 403, 404, 403, 403, 403, 404, 404),
    "auditor b": (200, 200, 200, 403, 403, 403, 403, 403, 403, 403, 404),
    "administrator b": (200, 200, 200, 200, 200, 200, 403, 403, 403, 403, 404),
    "service a": (200, 200, 200, 200, 200, 404, 200, 200, 200, 404, 404),
    "service b": (200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 404),
    "limited": (200, 200, 200, 200, 404, 200, 404, 404, 404, 200, 404),
    "clinician a for research": (200, 200, 403, 403, 403, 404, 403, 403, 403, 404, 404),
    "privacy officer": (200, 200, 200, 200, 200, 404, 200, 200, 200, 404, 404),
    "wrong audience": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "expired token": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "disabled client": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "disabled person": (200, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401),
    "another site's cookie": (200, 200, 200, 200, 200, 200, 403, 403, 403, 403, 404),
    "client a": (200, 200, 200, 200, 200, 404, 200, 200, 200, 404, 404),
    "person b": (200, 200, 200, 200, 200, 200, 403, 403, 403, 403, 404),
    "signed-in clinician a": (200, 200, 200, 200, 200, 404, 200, 200, 200, 404, 404),
    "break-glass b": (200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 404),
}
ALIKE = {  # where a further block names no status for one of these, it is that of the other
    "wrong audience": "unknown",
    "expired token": "expired",
    "disabled client": "revoked",
    "disabled person": "revoked",
    "client a": "service a",
    "person b": "administrator b",
    "signed-in clinician a": "clinician a",
    "break-glass b": "clinician b",
}
CLINICIAN = Principal("o-1", "", "a", "clinician", strong=True)
SESSIONS = {  # who signs in anew for every address: one of them ends the session
    "client a": Principal("c-1", "x", "a", actions=actions_of("system/*.crs", Principal("c-1", "x"), DEFAULT)),
    "person b": Principal("p-1", "x", "b", "administrator", strong=True),
    "signed-in clinician a": CLINICIAN,
    "break-glass b": Principal("o-2", "", "b", "clinician", models=("owned",), strong=True),
}


class Headers(dict):
    """By principal; those of SESSIONS are made when they are asked for."""

    def __init__(self, keys, settings):
        super().__init__({name: {"authorization": f"Bearer {key}"} if key else {} for name, key in keys.items()})
        self.ledger, self.sessions = Ledger.open(settings), Sessions.open(settings)
        self.glass, self.accounts = Glass(database(settings)), Accounts.open(settings)

    def open(self, who, **more):
        with self.ledger.with_effect(Event(action="session.open", outcome="allow")) as db:
            return self.sessions.issue(db, who, **({"life_s": 300} | more))

    def __missing__(self, name):
        new = self.open(SESSIONS[name])
        if name == "break-glass b":
            with self.ledger.with_effect(Event(action="access.break-glass", outcome="allow")) as db:
                self.glass.break_for(db, new.principal, reason="disaster", models=[], minutes=1)
        return {"authorization": f"Bearer {new.token}"}

    def disabled(self, kind):
        row = self.accounts.add(kind, "gone", b"{}", role="service")
        token = self.open(row.principal, account=row.id).token
        self.accounts.disable(kind, row.id)
        return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """Two models, one of them of tenant b alone; a key for each principal; (url, headers by principal, settings)."""
    root = tmp_path_factory.mktemp("matrix")
    settings = Settings(home=root / "home")
    settings.folder()
    own = POLICY.read_text().replace("tenants: {}", "tenants: {owned: [b]}").replace("per_s: 5", "per_s: 500")
    (settings.home / "policy.yaml").write_text(own.replace("per_s: 20", "per_s: 500"))
    folders = [write_package(root / name, settings, spec(name)) for name in ("open", "owned")]
    ring = KeyRing.open(settings)
    keys = {"anonymous": "", "malformed": "msk_1", "unknown": new_key()}
    keys["expired"] = ring.create("e", days=1e-9).key
    revoked = ring.create("r")
    ring.revoke(revoked.row.id)
    keys["revoked"] = revoked.key
    for name in TABLE:
        role, _, tenant = name.partition(" ")
        if tenant in ("a", "b") and name not in SESSIONS:
            keys[name] = ring.create("x", role=role, tenant=tenant).key
    keys["limited"] = ring.create("l", tenant="b", models=["owned"]).key
    keys["clinician a for research"] = keys["clinician a"]
    keys["privacy officer"] = ring.create("p", role="clinician", tenant="a", duties=["privacy-officer"]).key
    headers = Headers(keys, settings)
    signer = ec_key()
    claims = {"iss": "c-1", "sub": "c-1", "aud": "https://elsewhere.example", "exp": time.time() + 60, "jti": "1"}
    token = sign({"alg": "ES384", "kid": "e"}, claims, signer)
    headers["wrong audience"] = {"authorization": f"Bearer {token}"}
    headers["expired token"] = {"authorization": f"Bearer {headers.open(CLINICIAN, life_s=0).token}"}
    headers |= {f"disabled {kind}": headers.disabled(kind) for kind in ("client", "person")}
    boss = headers.open(Principal("p-2", "x", "b", "administrator", strong=True), life_s=3600)
    evil = {"cookie": f"medserve_session={boss.token}", "origin": "https://evil.example"}
    headers["another site's cookie"] = evil
    headers["clinician a for research"] |= {"x-purpose": "research"}
    with serving(build(settings, folders, keys=ring, limits=SMALL, threads=1)) as port:
        yield f"http://127.0.0.1:{port}", headers, settings
    ring.close()


def _ask(url, headers, address):
    """address: method, path and, where it is no picture, the body as JSON."""
    method, path, *body = address
    if body:
        return http.request(method, url + path, headers=headers, json=body[0])
    more = {"content": png(ramp()), "headers": headers | {"content-type": "image/png"}} if method == "POST" else {}
    return http.request(method, url + path, **({"headers": headers} | more))


def _row(block, who):
    """A block's statuses for a principal, also where it does not name him."""
    if who not in block.TABLE and who == "another site's cookie":  # an administrator's, and it changes nothing
        allowed = zip(block.ADDRESSES.values(), block.TABLE["administrator b"], strict=True)
        return tuple(status if method == "GET" else 403 for (method, *_), status in allowed)
    return block.TABLE[who if who in block.TABLE else ALIKE[who]]


@pytest.mark.parametrize("who", TABLE)
def test_every_address_for_every_principal(door, who):
    """Further blocks of addresses stand in files of their own, `matrix_*.py`: ADDRESSES and TABLE in the same form, and
    a status for every principal of this one."""
    url, headers, settings = door
    for name in sorted(path.stem for path in Path(__file__).parent.glob("matrix_*.py")):
        block = import_module(name)
        answers = [_ask(url, headers[who], block.ADDRESSES[address]) for address in block.ADDRESSES]
        found = dict(zip(block.ADDRESSES, [a.status_code for a in answers], strict=True))
        assert found == dict(zip(block.ADDRESSES, _row(block, who), strict=True)), name
    mine = headers[who]
    before = Ledger.open(settings).count()
    answers = [_ask(url, mine, ADDRESSES[address]) for address in ADDRESSES]
    assert dict(zip(ADDRESSES, [a.status_code for a in answers], strict=True)) == dict(
        zip(ADDRESSES, TABLE[who], strict=True)
    )
    events = [event for _, event in Ledger.open(settings).read(after=before)]
    answers = answers[2:]  # probes of health are no events
    assert [(e.trace, e.status) for e in events] == [(a.headers["x-trace-id"], a.status_code) for a in answers]
    assert [e.outcome == "deny" for e in events] == [a.status_code >= 400 for a in answers]


@pytest.mark.parametrize("query", ["explain=occlusion", "%65xplain=occlusion", "explain=occlusion&x=1", "x"])
def test_an_explanation_is_never_asked_for_by_another_spelling(door, query):
    """Whoever may predict and not explain is denied whatever the query says."""
    url, headers, settings = door
    key = {"authorization": headers["auditor a"]["authorization"], "content-type": "image/png"}
    before = Ledger.open(settings).count()
    assert httpx2.post(f"{url}/v1/models/open/predict?{query}", headers=key, content=png(ramp())).status_code == 403
    (event,) = [event for _, event in Ledger.open(settings).read(after=before)]
    assert (event.action, event.outcome) == ("models.explain", "deny")


@pytest.mark.parametrize(
    "path", ["/v1/models/open/", "/v1//models", "/v1/models/open%2Fpredict/", "/docs", "/V1/models"]
)
def test_another_spelling_of_an_address_is_no_address(door, path):
    url, headers, _ = door
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        answer = httpx2.request(method, url + path, headers=headers["clinician a"])
        assert answer.status_code == 404, (method, answer.status_code)


def test_who_leaves_before_the_answer_is_written_down_too(door):
    url, headers, settings = door
    before = Ledger.open(settings).count()
    port = int(url.rpartition(":")[2])
    head = "POST /v1/models/open/predict HTTP/1.1\r\nhost: x\r\n"
    head += f"authorization: {headers['service a']['authorization']}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode() + b"content-type: image/png\r\ncontent-length: 1000\r\n\r\nabc")
        time.sleep(0.2)
    for _ in range(50):
        found = [event for _, event in Ledger.open(settings).read(after=before)]
        if found:
            break
        time.sleep(0.1)
    assert [(e.action, e.status, e.resource) for e in found] == [("models.predict", 499, "open")]


def test_what_a_client_says_is_not_in_the_log(door):
    url, headers, settings = door
    more = {"x-purpose": "Mrs Doe of ward 7"}
    assert httpx2.get(f"{url}/v1/models/Jane-Doe", headers=headers["clinician a"] | more).status_code in (403, 404)
    with closing(sqlite3.connect(settings.home / "medserve.db")) as db:
        bodies = b"".join(row[0] for row in db.execute("SELECT body FROM audit_events"))
    assert b"Doe" not in bodies


@pytest.mark.parametrize("who", [name for name in TABLE if name.endswith(" a") or " for " in name])
def test_a_hidden_model_looks_like_one_that_does_not_exist(door, who):
    """For whoever asks, in whatever way: also where the role or the purpose would not allow it."""
    url, headers, _ = door

    def told(method, path):
        more = headers[who] | {"content-type": "image/png"}
        answer = httpx2.request(method, url + path, headers=more, content=png(ramp()) if method == "POST" else None)
        body = answer.json()
        body.pop("trace")
        return answer.status_code, json.dumps(body).replace("owned", "NAME").replace("wound", "NAME")

    for method, path in (
        ("POST", "/v1/models/owned/predict"),
        ("GET", "/v1/models/owned"),
        ("POST", "/v1/models/owned/versions/1/predict?explain=cam"),
        ("PUT", "/v1/models/owned"),
        ("GET", "/v2/models/owned/versions/1"),
        ("GET", "/v2/models/owned/ready"),
        ("POST", "/v2/models/owned/versions/7/infer"),
        ("POST", "/v2/repository/models/owned/load"),
        ("POST", "/v2/repository/models/owned/unload"),
    ):
        found = told(method, path)
        assert found[0] == 404 and found == told(method, path.replace("owned", "wound"))
    listed = httpx2.get(url + "/v1/models", headers=headers[who])
    assert "owned" not in listed.text
    assert "owned" not in httpx2.get(url + "/openapi.json", headers=headers[who]).text
    assert "owned" not in httpx2.post(url + "/v2/repository/index", headers=headers[who]).text


def _all(routes):
    """Those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else _all(inner.routes)


def test_the_table_of_addresses_is_that_of_the_service(tmp_path):
    """A new address without a line in the table, or a line without an address, fails here."""
    settings = Settings(home=tmp_path / "home")
    application = build(settings, [write_package(tmp_path / "m", settings)], threads=1)
    routes = _all(application._control.routes)
    served = {(method, route.path) for route in routes for method in route.methods - {"HEAD"}}
    planned = {
        (r.method, r.template) for r in ROUTES if r.action != "models.predict"
    }  # those are not the control plane's
    assert served == planned
    for route in ROUTES:
        path = re.sub(r"{\w+}", "tiny", route.template)
        assert asked_of(route.method, path).actions == (route.action,)
    application.recorder.close()
    application.registry.close()


def test_more_requests_than_the_role_may_make_are_turned_away(tmp_path):
    settings = Settings(home=tmp_path / "home")
    settings.folder()
    (settings.home / "policy.yaml").write_text(POLICY.read_text().replace("per_s: 2000", "per_s: 2"))
    ring = KeyRing.open(settings)
    key = {"authorization": f"Bearer {ring.create('x').key}"}
    with serving(build(settings, [write_package(tmp_path / "m", settings)], keys=ring, threads=1)) as port:
        url = f"http://127.0.0.1:{port}/v1/models"
        answers = [httpx2.get(url, headers=key) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        refused = next(a for a in (httpx2.get(url, headers=key) for _ in range(40)) if a.status_code != 200)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "quota-requests"
        time.sleep(0.6)
        assert httpx2.get(url, headers=key).status_code == 200
    ring.close()


def test_without_an_audit_there_is_no_answer(tmp_path):
    """The table is gone, as on a broken disk: nothing is answered, a prediction least; then it works again."""
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    key = {"authorization": f"Bearer {ring.create('x').key}", "content-type": "image/png"}
    with serving(build(settings, [write_package(tmp_path / "m", settings)], keys=ring, threads=1)) as port:
        url = f"http://127.0.0.1:{port}"
        database = settings.home / "medserve.db"

        def change(statement):
            with closing(sqlite3.connect(database)) as db:
                db.execute(statement)
                db.commit()

        assert httpx2.post(f"{url}/v1/models/tiny/predict", headers=key, content=png(ramp())).status_code == 200
        change("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(FAIL, 'disk'); END")
        for path in ("/v1/models/tiny/predict", "/v1/models/none/predict"):
            refused = httpx2.post(url + path, headers=key, content=png(ramp()))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit-unwritable")
            assert "probability" not in refused.text
        assert httpx2.get(f"{url}/v1/models", headers=key).status_code == 503
        change("DROP TRIGGER broken")
        assert httpx2.post(f"{url}/v1/models/tiny/predict", headers=key, content=png(ramp())).status_code == 200
    assert Ledger.open(settings).verify().sound
    ring.close()
