"""People with an account here: password and code, lockout, sessions; over HTTP against a real server."""

import base64
import json
import sqlite3
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from argon2 import PasswordHasher
from one_client import http
from tiny_package import SMALL, serving, write_package

from medserve.access import people as people_module
from medserve.access.audit import Event, Ledger
from medserve.access.identity import Identity
from medserve.access.keys import KeyRing
from medserve.access.people import FREE, STEP_S, Delayed, People, code_at
from medserve.access.policy import Principal
from medserve.access.sessions import Sessions
from medserve.app import build
from medserve.cli import run as run_verb
from medserve.errors import Denied, Usage
from medserve.settings import Settings

WORD = "a sentence will do"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """argon2 as it is, of less memory: most of these tests are not about its cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people_module, "_HASHER", PasswordHasher(time_cost=1, memory_cost=256, parallelism=1))
        yield


@pytest.fixture
def people(settings):
    people = People.open(settings)
    yield people
    people.accounts.close()


def _key(new):
    return base64.b32decode(new.secret)


def _code(new, at=None):
    return code_at(_key(new), int((time.time() if at is None else at) // STEP_S))


def _fails(people, *said, **more):
    with pytest.raises(Denied) as caught:
        people.sign_in(*said, **more)
    assert caught.value.code == "sign-in-failed"
    return str(caught.value)


def test_codes_are_those_of_the_standard():
    """RFC 6238, appendix B, SHA-1, the last six of its eight digits."""
    for at, code in ((59, "94287082"), (1111111109, "07081804"), (2000000000, "69279037")):
        assert code_at(b"12345678901234567890", at // STEP_S) == code[-6:]


def test_what_an_authenticator_app_gets(people):
    new = people.add("ward 7", password=WORD)
    said = urlsplit(new.uri)
    assert (said.scheme, said.netloc) == ("otpauth", "totp")
    assert parse_qs(said.query)["secret"] == [new.secret] and new.account.role == "administrator"


def test_both_are_needed_and_a_code_counts_once(people):
    new = people.add("desk", password=WORD)
    _fails(people, "desk", WORD, "000000" if _code(new) != "000000" else "111111")
    _fails(people, "desk", WORD + "x", _code(new))
    now = time.time()
    assert people.sign_in("desk", WORD, _code(new, now), now=now).id == new.account.id
    _fails(people, "desk", WORD, _code(new, now), now=now)  # the same again
    _fails(people, "desk", WORD, _code(new, now - 30), now=now)  # nor an older one
    assert people.sign_in("desk", WORD, _code(new, now + 30), now=now + 30)


@pytest.mark.parametrize(("steps", "taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_clock_may_be_half_a_minute_off(people, steps, taken):
    new, now = people.add("desk", password=WORD), time.time()
    code = _code(new, now + steps * STEP_S)
    if taken:
        assert people.sign_in("desk", WORD, code, now=now)
    else:
        _fails(people, "desk", WORD, code, now=now)


def test_failures_make_wait_longer_and_longer_and_outlive_the_process(people, settings):
    new, now = people.add("desk", password=WORD), time.time()
    waits = []
    for _ in range(10):
        with pytest.raises((Denied, Delayed)) as caught:
            people.sign_in("desk", "wrong wrong wrong", "000000", now=now)
        if isinstance(caught.value, Delayed):
            waits.append(round(caught.value.retry_after_s))
            now += caught.value.retry_after_s
    assert waits == [1, 2, 4]  # between the 5th, 6th, 7th and 8th attempt
    with pytest.raises(Denied):
        people.sign_in("desk", "wrong wrong wrong", "000000", now=now + 9)
    again = People.open(settings)
    with pytest.raises(Delayed):  # the right password does not help, nor does a restart
        again.sign_in("desk", WORD, _code(new, now + 9), now=now + 9)
    assert again.sign_in("desk", WORD, _code(new, now + 9999), now=now + 9999)
    assert again.sign_in("desk", WORD, _code(new, now + 10999), now=now + 10999)  # forgiven
    again.accounts.close()


def test_a_hundred_guesses_at_once_are_not_one(people):
    people.add("desk", password=WORD)
    found = []

    def guess():
        try:
            people.sign_in("desk", "wrong wrong wrong", "000000")
        except (Denied, Delayed) as error:
            found.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(Denied) <= FREE + 2 and len(found) == 20


def test_an_unknown_name_looks_like_a_wrong_password(settings, monkeypatch):
    monkeypatch.setattr(people_module, "_HASHER", PasswordHasher())  # as it is served
    people = People.open(settings)
    people.add("desk", password=WORD)
    now, told, spent = time.time(), {}, {}
    for name in ("desk", "nobody"):
        words, times = [], []
        for _ in range(FREE + 1):
            began = time.perf_counter()
            try:
                people.sign_in(name, "wrong wrong wrong", "000000", now=now)
            except (Denied, Delayed) as error:
                words.append(str(error))
            times.append(time.perf_counter() - began)
        told[name], spent[name] = words, sorted(times[:FREE])[FREE // 2]
    assert told["desk"] == told["nobody"]
    assert 0.4 < spent["desk"] / spent["nobody"] < 2.5  # both hash; a machine under load swings
    assert min(spent.values()) > 0.01
    people.accounts.close()


def test_a_secret_of_one_account_is_no_use_in_another(people, settings):
    """Whoever can write the database, but has not the pepper, gains nothing by copying a row's secret."""
    people.add("boss", password=WORD)
    mine = people.add("mine", password=WORD)
    with closing(sqlite3.connect(settings.home / "medserve.db")) as db:
        (secret,) = db.execute("SELECT secret FROM accounts WHERE name = 'mine'").fetchone()
        db.execute("UPDATE accounts SET secret = ? WHERE name = 'boss'", (secret,))
        db.commit()
    _fails(people, "boss", WORD, _code(mine))
    assert people.sign_in("mine", WORD, _code(mine))


def test_nothing_of_a_secret_stands_in_the_database(people, settings):
    new = people.add("desk", password=WORD)
    kept = b"".join(path.read_bytes() for path in settings.home.glob("medserve.db*"))
    for secret in (WORD.encode(), new.secret.encode(), _key(new)):
        assert secret not in kept


def test_accounts_that_cannot_be(people):
    people.add("desk", password=WORD)
    for name, word, code in (("desk", WORD, "account-taken"), ("x", "short", "password-short"),
                             ("", WORD, "account-name"), ("a\n", WORD, "account-name")):  # fmt: skip
        with pytest.raises(Usage) as caught:
            people.add(name, password=word)
        assert caught.value.code == code
    assert people.add("desk 2", password=WORD)


def test_reset_gives_other_secrets_and_ends_a_lockout(people):
    old = people.add("desk", password=WORD)
    for _ in range(FREE + 1):
        with pytest.raises((Denied, Delayed)):
            people.sign_in("desk", "wrong wrong wrong", "000000")
    people.accounts.disable("person", "desk")
    new = people.reset("desk")
    _fails(people, "desk", WORD, _code(old))
    assert people.sign_in("desk", new.password, _code(new))


@dataclass
class Desk:
    url: str
    settings: Settings
    people: People
    name: str = "desk"

    def ask(self, said, **more):
        return http.post(f"{self.url}/v1/session", json=said, **more)

    def signed_in(self, **more):
        new = self.people.add(f"desk {time.monotonic_ns()}", password=WORD, **more)
        answer = self.ask({"name": new.account.name, "password": WORD, "code": _code(new)})
        assert answer.status_code == 201, answer.text
        return new, answer.json()

    def who(self, token):
        return http.get(f"{self.url}/v1/session", headers={"authorization": f"Bearer {token}"})

    def change(self, statement, *values):
        with closing(sqlite3.connect(self.settings.home / "medserve.db")) as db:
            db.execute(statement, values)
            db.commit()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    root = tmp_path_factory.mktemp("desk")
    settings = Settings(home=root / "home")
    people = People.open(settings)
    application = build(settings, [write_package(root / "m", settings)], limits=SMALL, threads=1)
    with serving(application) as port:
        yield Desk(f"http://127.0.0.1:{port}", settings, people)
    people.accounts.close()


def test_a_session_from_its_beginning_to_its_end(desk):
    new, said = desk.signed_in(tenant="a")
    assert (said["expires_in"], said["idle_s"], said["second_factor"]) == (8 * 3600, 15 * 60, True)
    me = desk.who(said["token"]).json()
    assert (me["principal"], me["tenant"], me["role"]) == (new.account.id, "a", "administrator")
    head = {"authorization": f"Bearer {said['token']}"}
    assert http.delete(f"{desk.url}/v1/session", headers=head).status_code == 204
    ended = desk.who(said["token"])
    assert (ended.status_code, ended.json()["error"]["code"]) == (401, "session-ended")
    events = [event for _, event in Ledger.open(desk.settings).read() if event.principal == new.account.id]
    assert [(e.action, e.outcome, e.code) for e in events] == [
        ("session.open", "allow", ""), ("session.read", "allow", ""), ("session.read", "allow", "ended"),
        ("session.read", "deny", "session-ended"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [{"password": "wrong wrong wrong"}, {"code": "000000"}, {"name": "nobody"}, {"code": ""}],
    ids=str,
)
def test_what_does_not_open_a_session(desk, said):
    new = desk.people.add(f"desk {time.monotonic_ns()}", password=WORD)
    good = {"name": new.account.name, "password": WORD, "code": _code(new)}
    refused = desk.ask(good | said)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "sign-in-failed")
    assert desk.ask(good).status_code == 201


def test_the_body_itself(desk):
    more = json.dumps({"name": "a", "password": "b", "code": "c", "role": "administrator"}).encode()
    for body in (b"", b"[]", b'{"name": 1}', b"\xff", b"[" * 3000, more):
        answer = http.post(f"{desk.url}/v1/session", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "json-invalid")
    assert http.post(f"{desk.url}/v1/session", content=b" " * 5000).status_code == 413


def test_a_session_ends_when_nobody_uses_it(desk):
    _, idle = desk.signed_in()
    _, used = desk.signed_in()
    back = time.time() - 15 * 60
    desk.change("UPDATE sessions SET seen_at = ? WHERE id = ?", back - 1, idle["session"])
    desk.change("UPDATE sessions SET seen_at = ? WHERE id = ?", back + 6, used["session"])
    assert desk.who(idle["token"]).json()["error"]["code"] == "session-expired"
    assert desk.who(used["token"]).status_code == 200
    with closing(sqlite3.connect(desk.settings.home / "medserve.db")) as db:  # and that request was a use of it
        (seen,) = db.execute("SELECT seen_at FROM sessions WHERE id = ?", (used["session"],)).fetchone()
    assert time.time() - seen < 5


def test_a_session_ends_after_its_hours_however_busy(desk):
    _, said = desk.signed_in()
    _, twin = desk.signed_in()
    desk.change("UPDATE sessions SET expires_at = ? WHERE id = ?", time.time() - 1, said["session"])
    assert desk.who(said["token"]).json()["error"]["code"] == "session-expired"
    assert desk.who(twin["token"]).status_code == 200


def test_disabling_a_person_ends_the_sessions_within_a_second(desk):
    new, said = desk.signed_in()
    _, twin = desk.signed_in()
    assert desk.who(said["token"]).status_code == 200
    desk.people.accounts.disable("person", new.account.id)
    time.sleep(1.0)
    assert desk.who(said["token"]).status_code == 401
    assert desk.who(twin["token"]).status_code == 200
    assert desk.ask({"name": new.account.name, "password": WORD, "code": _code(new)}).status_code == 401


def test_a_cookie_reads_everywhere_and_changes_only_at_home(desk):
    _, said = desk.signed_in()
    for origin, status in ((None, 403), ("https://evil.example", 403), ("null", 403), (desk.url + "0", 403),
                           ("http://127.0.0.1.evil.example", 403), (desk.url, 204)):  # fmt: skip
        head = {"cookie": f"medserve_session={said['token']}"}
        assert http.get(f"{desk.url}/v1/session", headers=head).status_code == 200
        more = head if origin is None else head | {"origin": origin}
        answer = http.delete(f"{desk.url}/v1/session", headers=more)
        assert answer.status_code == status, origin
        assert status == 204 or answer.json()["error"]["code"] == "cross-site"
    double = {"cookie": f"medserve_session={said['token']}; medserve_session=x"}
    assert http.get(f"{desk.url}/v1/session", headers=double).status_code == 401


def test_an_api_key_is_no_session(desk):
    ring = KeyRing.open(desk.settings)
    head = {"authorization": f"Bearer {ring.create('x').key}"}
    assert http.get(f"{desk.url}/v1/session", headers=head).json()["session"] is None
    answer = http.delete(f"{desk.url}/v1/session", headers=head)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "session-none")
    ring.close()


def test_without_an_audit_nobody_signs_in(desk):
    """The event and the session are one transaction: neither, as on a broken disk; then it works again."""
    new = desk.people.add("audited", password=WORD)
    said = {"name": "audited", "password": WORD}
    desk.change("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(FAIL, 'disk'); END")
    refused = desk.ask(said | {"code": _code(new)})
    desk.change("DROP TRIGGER broken")
    assert refused.status_code == 503 and "mst_" not in refused.text
    with closing(sqlite3.connect(desk.settings.home / "medserve.db")) as db:
        kept = db.execute("SELECT count(*) FROM sessions WHERE account = ?", (new.account.id,)).fetchone()
    assert kept == (0,)
    assert desk.ask(said | {"code": _code(new, time.time() + STEP_S)}).status_code == 201


def test_the_command_line(settings, capsys):
    def run(*words):
        code = run_verb(["admin", *words, "--json", "--home", str(settings.home)])
        return code, json.loads(capsys.readouterr().out)

    code, made = run("create", "desk")
    assert code == 0 and len(made["password"]) >= 20 and made["otpauth"].startswith("otpauth://")
    people = People.open(settings)
    key = base64.b32decode(made["totp_secret"])
    row = people.sign_in("desk", made["password"], code_at(key, int(time.time() // STEP_S)))
    assert (row.id, row.role) == (made["id"], "administrator")
    assert run("list")[1]["people"][0]["state"] == "active"
    assert run("disable", "desk")[1]["state"] == "disabled"
    assert run("disable", "nobody")[0] == 2
    assert run("end", row.id)[1]["ended"] == 0
    people.accounts.close()


def test_who_is_gone_is_known_without_asking_for_him(settings):
    """Session ended, expired or idle, account disabled: read by ids alone, and that keeps no session alive."""
    ring, sessions, ledger = KeyRing.open(settings), Sessions.open(settings), Ledger.open(settings)
    identity = Identity(ring, sessions)
    who = Principal("p-1", "desk", "default", "clinician")

    def signed_in(**more):
        with ledger.with_effect(Event(action="sessions.create", outcome="allow")) as db:
            return sessions.issue(db, who, **({"life_s": 60} | more)).principal

    here, short, idle = signed_in(), signed_in(life_s=0.05), signed_in(idle_s=0.05)
    time.sleep(0.1)
    assert not identity.gone(here) and identity.gone(short) and identity.gone(idle)
    with ledger.with_effect(Event(action="sessions.end", outcome="allow")) as db:
        sessions.end(db, here.session)
    assert identity.gone(here)
    key = ring.create("k")
    assert not identity.gone(ring.verify(key.key))
    held = ring.verify(key.key)
    ring.revoke(key.row.id)
    assert identity.gone(held)
    for one in (ring, sessions, ledger):
        one.close()
