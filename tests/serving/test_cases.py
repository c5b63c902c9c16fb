"""The door of stored cases: what was acknowledged is there, for its tenant alone, until it is deleted or erased."""

import json
import socket
import sqlite3
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tiny_package import SMALL, dicom, png, ramp, raw, serving, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.client import Client
from medserve.errors import NotFound, Usage
from medserve.serving.doors.cases import MEDIA
from medserve.settings import Settings
from medserve.store.vault import Vault

LIMIT = 2**20
POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"


class Door:
    def __init__(self, url: str, keys: dict[str, str], settings: Settings) -> None:
        self.url, self.keys, self.settings = url, keys, settings

    def ask(self, method: str, path: str, *, who: str = "a", headers=None, **more) -> httpx2.Response:
        said = {"authorization": f"Bearer {self.keys[who]}"} | (headers or {})
        return httpx2.request(method, self.url + path, headers=said, timeout=20, **more)

    def upload(self, body, *, who: str = "a", patient="p-1", media: str = "image/png", **more) -> httpx2.Response:
        headers = {"content-type": media} | ({} if patient is None else {"x-patient": patient})
        return self.ask("POST", "/v1/cases", who=who, headers=headers, content=body, **more)

    def case(self, **more) -> str:
        answer = self.upload(png(ramp()), **more)
        assert answer.status_code == 201
        return answer.json()["case"]

    def predict(self, case: str, *, who: str = "a", query: str = "") -> httpx2.Response:
        return self.ask("POST", f"/v1/models/tiny/predict{query}", who=who, json={"case": case})

    def events(self) -> list:
        return [event for _, event in Ledger.open(self.settings).read()]


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """Clinicians of tenants a and b, a service of a, and one who may predict but not read cases."""
    root = tmp_path_factory.mktemp("cases")
    settings = Settings(home=root / "home", max_upload_bytes=LIMIT)
    settings.folder()
    blind = "  asker:\n    actions: [models.predict]\n    purposes: [treatment]\nduties:"
    (settings.home / "policy.yaml").write_text(
        POLICY.read_text().replace("duties:", blind, 1).replace("per_s: 20\n", "per_s: 500\n")
    )
    ring = KeyRing.open(settings)
    roles = {"a": ("clinician", "a"), "b": ("clinician", "b"), "service": ("service", "a"), "asker": ("asker", "a")}
    keys = {name: ring.create(name, role=role, tenant=tenant).key for name, (role, tenant) in roles.items()}
    application = build(settings, [write_package(root / "tiny", settings)], keys=ring, limits=SMALL, threads=1)
    with serving(application) as port:
        yield Door(f"http://127.0.0.1:{port}", keys, settings)
    ring.close()


def test_a_case_is_stored_whole_and_described_without_its_patient(door):
    """Also one of many segments, and one whose length is not said before."""
    for body, media in ((png(ramp()), "image/png"), (dicom(ramp()), "application/dicom"), (b"{} " * 300_000,
                        "application/json"), (iter([b"Short of", b" breath."]), "text/plain")):  # fmt: skip
        stored = door.upload(body, media=media)
        assert stored.status_code == 201, stored.text
        said = stored.json()
        whole = b"Short of breath." if media == "text/plain" else body
        assert (said["version"], said["bytes"]) == (1, len(whole)) and set(said) == {"case", "version", "bytes"}
        page = door.ask("GET", f"/v1/cases/{said['case']}")
        assert page.status_code == 200 and "p-1" not in page.text
        assert (page.json()["media_type"], page.json()["bytes"]) == (media, len(whole))
        assert [(v["version"], v["bytes"]) for v in page.json()["versions"]] == [(1, len(whole))]
        vault = Vault.open(door.settings)
        assert vault.get("a", said["case"]) == whole
        vault.close()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({}, 201, ""),
        ({"patient": None}, 400, "patient-invalid"),
        ({"patient": ""}, 400, "patient-invalid"),
        ({"patient": "p" * 128}, 201, ""),
        ({"patient": "p" * 129}, 400, "patient-invalid"),
        ({"patient": "Müller 王".encode()}, 201, ""),
        ({"patient": "Mu\u0308ller".encode()}, 400, "patient-invalid"),  # another spelling would be another patient
        ({"patient": b"M\xfcller"}, 400, "patient-invalid"),
        ({"patient": b"p\tq"}, 400, "patient-invalid"),
        ({"media": "image/gif"}, 415, "media-type"),
        ({"media": ""}, 415, "media-type"),
        ({"media": "image/jpeg"}, 415, "media-type-mismatch"),
        ({"media": "IMAGE/PNG; charset=x"}, 201, ""),
        ({"body": b""}, 422, "file-empty"),
        ({"body": b"\x89PNG\r\n\x1a\n" + bytes(LIMIT - 8)}, 201, ""),
        ({"body": b"\x89PNG\r\n\x1a\n" + bytes(LIMIT - 7)}, 413, "body-too-large"),
        ({"body": iter([bytes(LIMIT), b"1"])}, 413, "body-too-large"),
        ({"params": {"patient": "p-1"}}, 400, "query-invalid"),
    ],
)
def test_what_is_no_case_has_a_code_and_leaves_nothing(door, changes, status, code):
    """Each beside its twin that is taken; of what is refused neither a file nor a row stays."""
    asked = {"body": png(ramp())} | changes
    before = len(_files(door))
    answer = door.upload(**asked)
    assert answer.status_code == status, answer.text
    assert status == 201 or answer.json()["error"]["code"] == code
    assert len(_files(door)) - before == (status == 201)
    event = door.events()[-1]
    assert (event.trace, event.action, event.status) == (answer.headers["x-trace-id"], "cases.create", status)
    assert (event.resource, event.patient) == ("", "") or status == 201 or event.patient


def test_two_patients_in_one_request_are_none(door):
    """A second X-Patient header is not picked from."""
    head = (
        f"POST /v1/cases HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {door.keys['a']}\r\ncontent-type: text/plain\r\n"
    )
    end = "x-patient: p-1\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"
    port = int(door.url.rpartition(":")[2])
    assert b" 201 " in raw(port, (head + end).encode()).partition(b"\r\n")[0]
    assert b"patient-invalid" in raw(port, (head + "x-patient: p-2\r\n" + end).encode())


def test_the_event_is_of_the_same_transaction_and_names_no_patient(door):
    """Who, which case, which patient's key; the pseudonym nowhere in the database. No event, no case."""
    case = door.case(patient="pseudonym-qx77")
    event = door.events()[-1]
    assert (event.action, event.status, event.resource, event.tenant) == ("cases.create", 201, case, "a")
    again = door.case(patient="pseudonym-qx77")
    assert door.events()[-1].patient == event.patient and again != case
    assert door.case(patient="pseudonym-qx78") and door.events()[-1].patient != event.patient
    with closing(sqlite3.connect(door.settings.home / "medserve.db")) as db:
        assert not any("qx77" in line for line in db.iterdump())
        db.execute("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(FAIL, 'disk'); END")
        db.commit()
        try:
            before = len(_files(door))
            refused = door.upload(png(ramp()))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit-unwritable")
            assert len(_files(door)) == before
            assert door.ask("DELETE", f"/v1/cases/{case}").status_code == 503
            unsaid = door.predict(case)
            assert unsaid.status_code == 503 and "probability" not in unsaid.text
        finally:
            db.execute("DROP TRIGGER broken")
            db.commit()
    assert door.ask("GET", f"/v1/cases/{case}").status_code == 200
    assert Ledger.open(door.settings).verify().sound


def test_a_stored_case_is_answered_as_the_same_bytes_are(door):
    """The same numbers; the event names case and stored answer; explanations and refusals as well."""
    case = door.case()
    stored, sent = door.predict(case), door.ask(
        "POST", "/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"}
    )  # fmt: skip
    assert stored.status_code == 200, stored.text
    assert stored.json()["outputs"] == sent.json()["outputs"]
    of_case, of_body = door.events()[-2:]
    assert of_case.input == f"vault:{case}" and of_case.patient and of_case.resource == "tiny"
    assert of_body.input.startswith("hmac-sha256:") and of_body.answer.startswith("hmac-sha256:")
    vault = Vault.open(door.settings)
    kept = json.loads(vault.get("a", of_case.answer.removeprefix("vault:")))
    vault.close()
    assert kept == stored.json()
    assert door.predict(case, query="?explain=occlusion").json()["explanation"]["method"] == "occlusion"
    assert door.predict(door.case(media="image/png", patient="p-2"), who="service").status_code == 200
    text = door.upload(b"words", media="text/plain").json()["case"]
    refused = door.predict(text)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "media-type")
    event = door.events()[-1]
    assert (event.input, event.answer, event.status) == (f"vault:{text}", "", 415)


def test_two_same_questions_have_different_digests(door):
    """The log does not show that one picture was asked about twice."""
    for _ in range(2):
        door.ask("POST", "/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"})
    one, other = door.events()[-2:]
    assert one.input != other.input and one.answer != other.answer


def test_another_tenants_case_is_as_one_that_is_not_there(door):
    """GET, DELETE and prediction: the same status and body, whatever the id; then its own tenant still has it."""
    case = door.case()
    ids = (case, "0" * 32, "x", "%2e%2e", case.upper(), f"{case}.1")

    def told(answer: httpx2.Response) -> tuple[int, dict]:
        return answer.status_code, answer.json()["error"]

    for ask in (
        lambda id: door.ask("GET", f"/v1/cases/{id}", who="b"),
        lambda id: door.ask("DELETE", f"/v1/cases/{id}", who="b"),
        lambda id: door.predict(id, who="b"),
    ):
        found = [told(ask(id)) for id in ids]
        assert found[0] == (404, found[0][1]) and found[0][1]["code"] == "unknown-case"
        assert all(one == found[0] for one in found)
    assert door.ask("GET", f"/v1/cases/{case}").status_code == 200
    assert door.predict(case).status_code == 200


def test_who_may_not_read_cases_may_not_have_them_explained(door):
    """A role with predictions alone: a picture of its own is answered, a stored one denied."""
    case = door.case()
    sent = door.ask(
        "POST", "/v1/models/tiny/predict", who="asker", content=png(ramp()), headers={"content-type": "image/png"}
    )
    assert sent.status_code == 200
    denied = door.predict(case, who="asker")
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "action-not-allowed")
    assert door.events()[-1].outcome == "deny"


def test_a_deleted_case_is_gone_with_its_answers(door):
    case, other = door.case(), door.case()
    assert door.predict(case).status_code == door.predict(other).status_code == 200
    answer = door.events()[-2].answer.removeprefix("vault:")
    assert door.ask("GET", f"/v1/cases/{answer}").status_code == 404  # an answer is no case
    assert door.ask("DELETE", f"/v1/cases/{case}", who="service").status_code == 403
    before = len(_files(door))
    deleted = door.ask("DELETE", f"/v1/cases/{case}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    event = door.events()[-1]
    assert (event.action, event.status, event.resource) == ("cases.delete", 204, case)
    assert before - len(_files(door)) == 2
    for gone in (door.ask("GET", f"/v1/cases/{case}"), door.ask("DELETE", f"/v1/cases/{case}"), door.predict(case)):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "unknown-case")
    vault = Vault.open(door.settings)
    with pytest.raises(NotFound):
        vault.get("a", answer)
    vault.close()
    assert door.predict(other).status_code == 200


def test_a_case_of_an_erased_patient_is_gone(door):
    """410 for its own tenant, whatever is asked; 404 for the other, as before. A later case of his is a new one."""
    case, answered = door.case(patient="p-erased"), door.case(patient="p-erased")
    assert door.predict(answered).status_code == 200
    vault = Vault.open(door.settings)
    vault.erase("a", "p-erased")
    vault.close()
    for one in (case, answered):
        for gone in (door.ask("GET", f"/v1/cases/{one}"), door.ask("DELETE", f"/v1/cases/{one}"), door.predict(one)):
            assert (gone.status_code, gone.json()["error"]["code"]) == (410, "erased")
    assert door.ask("GET", f"/v1/cases/{case}", who="b").status_code == 404
    assert door.predict(door.case(patient="p-erased")).status_code == 200


def test_a_client_that_leaves_or_stalls_leaves_nothing(door):
    before = len(_files(door))
    port = int(door.url.rpartition(":")[2])
    head = f"POST /v1/cases HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {door.keys['a']}\r\nx-patient: p\r\n"
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode() + b"content-type: text/plain\r\ncontent-length: 500000\r\n\r\n" + bytes(300_000))
    for _ in range(100):
        events = door.events()
        if events[-1].status == 499:
            break
        threading.Event().wait(0.05)
    assert (events[-1].action, events[-1].status, events[-1].resource) == ("cases.create", 499, "")
    assert len(_files(door)) == before


def test_a_body_is_never_held_whole(tmp_path):
    """32 MiB in, with a few MiB of memory at most for server and client together; its file is of that size."""
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    headers = {"authorization": f"Bearer {ring.create('x').key}", "content-type": "text/plain", "x-patient": "p"}
    with serving(build(settings, [write_package(tmp_path / "m", settings)], keys=ring, threads=1)) as port:
        url = f"http://127.0.0.1:{port}/v1/cases"
        assert httpx2.post(url, headers=headers, content=b"warm").status_code == 201
        tracemalloc.start()
        stored = httpx2.post(url, headers=headers, content=(bytes(2**16) for _ in range(512)), timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    ring.close()
    assert stored.json()["bytes"] == 2**25
    assert 2**18 < peak < 2**23


def test_the_vault_opens_when_it_is_needed_and_its_faults_have_codes(tmp_path):
    """A service that stores nothing has no master key; a damaged one is said, and the rest goes on answering."""
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    key = {"authorization": f"Bearer {ring.create('x').key}"}
    with serving(build(settings, [write_package(tmp_path / "m", settings)], keys=ring, threads=1)) as port:
        url = f"http://127.0.0.1:{port}"
        ask = {"headers": key | {"content-type": "image/png", "x-patient": "p"}, "content": png(ramp())}
        assert httpx2.post(f"{url}/v1/models/tiny/predict", **ask).status_code == 200
        assert not list((settings.home / "keys").glob("*master*"))
        vault = Vault.open(settings)
        vault.put("t", "p", b"x")
        vault.close()
        (master,) = (settings.home / "keys").glob("*master*")
        master.chmod(0o644)
        refused = httpx2.post(f"{url}/v1/cases", **ask)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "key-exposed")
        assert httpx2.post(f"{url}/v1/models/tiny/predict", **ask).status_code == 200
        master.chmod(0o600)
        assert httpx2.post(f"{url}/v1/cases", **ask).status_code == 201
    ring.close()


def test_the_typed_client_uploads_and_asks(door, tmp_path):
    with Client(door.url, door.keys["a"]) as client:
        path = tmp_path / "film.png"
        path.write_bytes(png(ramp(200, 255)))
        stored = client.upload(path, patient="Müller 王")
        assert (stored.version, stored.bytes) == (1, path.stat().st_size)
        assert client.predict(case=stored.case, model="tiny").outputs == client.predict(path, model="tiny").outputs
        assert client.case(stored.case).media_type == "image/png"
        client.delete(stored.case)
        with pytest.raises(Usage) as caught:
            client.case(stored.case)
        assert caught.value.code == "unknown-case"
        with pytest.raises(Usage) as caught:
            client.predict(path, case=stored.case, model="tiny")
        assert caught.value.code == "case-or-file"


def test_every_known_media_type_is_documented(door):
    content = door.ask("GET", "/openapi.json").json()["paths"]["/v1/cases"]["post"]["requestBody"]["content"]
    assert set(content) == set(MEDIA) >= {"application/dicom", "application/x-nifti", "application/fhir+json"}


def _files(door: Door) -> list[Path]:
    folder = door.settings.home / "objects"
    return [path for path in folder.rglob("*") if path.is_file()]
