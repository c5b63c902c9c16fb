"""Breaking the glass: what it opens, for whom and for how long; that it is loud, and reviewed by somebody else."""

import json
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from dataclasses import replace as changed
from io import StringIO
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from one_client import http
from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.audit import Event, Ledger
from medserve.access.keys import KeyRing
from medserve.access.policy import Principal
from medserve.access.sessions import Sessions
from medserve.app import build
from medserve.cli import run
from medserve.serving.logs import make_log
from medserve.settings import Settings

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"
DOCTOR = Principal("o-doctor", "", "a", "clinician", models=("own",), strong=True)
GOOD = {"reason": "emergency-treatment", "models": ["other"], "minutes": 5}


@dataclass
class Ward:
    url: str
    settings: Settings
    sessions: Sessions
    ledger: Ledger
    ring: KeyRing
    log: StringIO

    def session(self, who):
        with self.ledger.with_effect(Event(action="session.open", outcome="allow")) as db:
            return {"authorization": f"Bearer {self.sessions.issue(db, who, life_s=3600).token}"}

    def key(self, **more):
        return {"authorization": f"Bearer {self.ring.create('x', tenant='a', **more).key}"}

    def break_(self, head, **changes):
        return http.post(f"{self.url}/v1/break-glass", headers=head, json=GOOD | changes)

    def predict(self, head, model):
        more = head | {"content-type": "image/png"}
        return http.post(f"{self.url}/v1/models/{model}/predict", headers=more, content=png(ramp())).status_code


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """Three models: `own`, `other`, and `foreign`, which is tenant b's."""
    root = tmp_path_factory.mktemp("ward")
    settings = Settings(home=root / "home")
    settings.folder()
    (settings.home / "policy.yaml").write_text(POLICY.read_text().replace("tenants: {}", "tenants: {foreign: [b]}"))
    folders = [write_package(root / name, settings, spec(name)) for name in ("own", "other", "foreign")]
    ring, sessions, ledger, log = KeyRing.open(settings), Sessions.open(settings), Ledger.open(settings), StringIO()
    application = build(settings, folders, keys=ring, limits=SMALL, threads=1)
    application._log = make_log(log)
    with serving(application) as port:
        yield Ward(f"http://127.0.0.1:{port}", settings, sessions, ledger, ring, log)
    for one in (ring, sessions, ledger):
        one.close()


def test_it_opens_what_was_hidden_in_the_own_tenant_and_nothing_else(ward):
    doctor, before = ward.session(DOCTOR), ward.ledger.count()
    assert [ward.predict(doctor, name) for name in ("own", "other", "foreign")] == [200, 404, 404]
    broken = ward.break_(doctor)
    assert broken.status_code == 201, broken.text
    assert [ward.predict(doctor, name) for name in ("own", "other", "foreign")] == [200, 200, 404]
    events = [event for _, event in ward.ledger.read(after=before)]
    assert [(e.action, e.code, e.outcome) for e in events[3:]] == [
        ("access.break-glass", "emergency-treatment", "allow"), ("models.predict", "break-glass", "allow"),
        ("models.predict", "break-glass", "allow"), ("models.predict", "unknown-model", "deny"),
    ]  # fmt: skip
    loud = [line for line in map(json.loads, ward.log.getvalue().splitlines()) if line["level"] == "warning"][-1]
    assert (loud["route"], loud["key"]) == ("access.break-glass", "o-doctor")
    assert ward.predict(ward.session(DOCTOR), "other") == 404  # of this session alone


def test_without_models_it_opens_the_tenant_and_nothing_else(ward):
    doctor = ward.session(DOCTOR)
    assert ward.break_(doctor, models=[]).status_code == 201
    assert [ward.predict(doctor, name) for name in ("own", "other", "foreign")] == [200, 200, 404]
    assert http.get(f"{ward.url}/v1/session", headers=doctor).json()["models"] == []


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [({"reason": "curious"}, 400, "break-glass-reason"), ({"minutes": 61}, 400, "break-glass-minutes"),
     ({"minutes": 0}, 400, "break-glass-minutes"), ({"models": ["foreign"]}, 404, "unknown-model"),
     ({"models": ["absent"]}, 404, "unknown-model"), ({"note": "Jane Doe"}, 400, "json-invalid")],
    ids=str,
)  # fmt: skip
def test_what_does_not_break_it(ward, changes, status, code):
    doctor = ward.session(DOCTOR)
    refused = ward.break_(doctor, **changes)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert ward.predict(doctor, "other") == 404
    assert ward.break_(doctor).status_code == 201


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [(changed(DOCTOR, strong=False), 403, "second-factor-missing"), (changed(DOCTOR, role="service"), 403,
     "action-not-allowed"), (changed(DOCTOR, models=()), 400, "break-glass-not-needed"),
     (changed(DOCTOR, actions=("models.list",)), 403, "scope-not-allowed")],
    ids=lambda value: getattr(value, "role", value),
)  # fmt: skip
def test_who_does_not_break_it(ward, who, status, code):
    refused = ward.break_(ward.session(who))
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    key = ward.break_(ward.key(role="clinician", models=["own"]))
    assert (key.status_code, key.json()["error"]["code"]) == (403, "second-factor-missing")
    assert ward.break_(ward.session(DOCTOR)).status_code == 201


def test_it_ends_by_itself(ward):
    doctor = ward.session(DOCTOR)
    id = ward.break_(doctor, minutes=1).json()["id"]
    assert ward.predict(doctor, "other") == 200
    with closing(sqlite3.connect(ward.settings.home / "medserve.db")) as db:
        db.execute("UPDATE broken_glass SET until = ? WHERE id = ?", (time.time(), id))
        db.commit()
    time.sleep(0.6)
    assert ward.predict(doctor, "other") == 404
    again = ward.break_(doctor, minutes=0.03)  # 1.8 s, told exactly
    assert again.status_code == 201 and ward.predict(doctor, "other") == 200
    time.sleep(1.9)
    assert ward.predict(doctor, "other") == 404


def _listed(ward, capsys, id, *more):
    assert run(["audit", "review", "--json", "--home", str(ward.settings.home), *more]) == 0
    return id in [row["id"] for row in json.loads(capsys.readouterr().out)["broken"]]


def test_it_is_reviewed_by_somebody_else_of_the_tenant(ward, capsys):
    officer = ward.key(role="auditor", duties=["privacy-officer"])
    breaker = changed(DOCTOR, id="o-both", duties=("privacy-officer",))
    self_ = ward.session(breaker)
    id = ward.break_(self_).json()["id"]
    foreign = {"authorization": f"Bearer {ward.ring.create('x', tenant='b', duties=['privacy-officer']).key}"}

    def review(head, which=id):
        answer = http.post(f"{ward.url}/v1/break-glass/{which}/review", headers=head)
        return answer.status_code, answer.json()["error"]["code"] if answer.status_code >= 400 else ""

    rows = http.get(f"{ward.url}/v1/break-glass", headers=officer).json()["broken"]
    assert rows[0]["id"] == id and rows[0]["reviewed_at"] is None and "session" not in rows[0]
    assert http.get(f"{ward.url}/v1/break-glass", headers=foreign).json() == {"broken": []}
    assert review(self_) == (403, "review-own")
    assert review(foreign) == review(foreign, "g-000000000000") == (404, "unknown-break-glass")
    assert review(ward.key(role="auditor")) == (403, "action-not-allowed")
    assert _listed(ward, capsys, id)
    assert review(officer) == (204, "")
    assert not _listed(ward, capsys, id) and _listed(ward, capsys, id, "--everything")
    assert review(officer) == (400, "review-done")
    rows = http.get(f"{ward.url}/v1/break-glass", headers=officer).json()["broken"]
    assert rows[0]["reviewed_by"].startswith("k-")
