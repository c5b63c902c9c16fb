"""Batches: every item of a manifest has one result in its place, whatever its neighbours or the service go through."""

import asyncio
import base64
import json
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from real_server import RealServer
from throwaway_postgres import new_database
from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.runtime.batcher import BATCH
from medserve.serving.doors import batches as batches_door
from medserve.serving.doors.events import MOST_STREAMS, Streams
from medserve.serving.gate import Quota
from medserve.serving.service import Service
from medserve.settings import Settings
from medserve.store.database import database, key_grants
from medserve.store.vault import Vault

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"
PICTURE = base64.b64encode(png(ramp())).decode()


def item(id: object, **more: object) -> dict:
    return {"id": id, "inputs": {"image": PICTURE}} | more


def lines(*items: object) -> bytes:
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in items)


class Door:
    def __init__(self, url: str, keys: dict[str, str], settings: Settings) -> None:
        self.url, self.keys, self.settings = url, keys, settings

    def ask(self, method: str, path: str, *, who: str = "a", headers=None, **more) -> httpx2.Response:
        said = {"authorization": f"Bearer {self.keys[who]}"} | (headers or {})
        return httpx2.request(method, self.url + path, headers=said, timeout=60, **more)

    def send(self, body, *, model: str = "tiny", headers=None, **more) -> httpx2.Response:
        said = {"content-type": "application/x-ndjson"} | (headers or {})
        return self.ask("POST", f"/v1/models/{model}/batch", headers=said, content=body, **more)

    def case(self, *, patient: str = "p-1", who: str = "a") -> str:
        said = {"content-type": "image/png", "x-patient": patient}
        return self.ask("POST", "/v1/cases", who=who, headers=said, content=png(ramp())).json()["case"]

    def ended(self, batch: str, *, within_s: float = 60.0) -> dict:
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            page = self.ask("GET", f"/v1/batches/{batch}").json()
            if page["state"] in ("done", "failed"):
                return page
            time.sleep(0.05)
        raise AssertionError(page)

    def run(self, *items: object) -> list[dict]:
        sent = self.send(lines(*items))
        assert sent.status_code == 202, sent.text
        self.ended(sent.json()["batch"])
        return self.results(sent.json()["batch"])

    def results(self, batch: str, query: str = "", **more) -> list[dict]:
        answer = self.ask("GET", f"/v1/batches/{batch}/results{query}", **more)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def events(self) -> list:
        return [event for _, event in Ledger.open(self.settings).read()]


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """Clinicians of tenants a and b; one of a who may not read cases; an owned model that a does not see."""
    root = tmp_path_factory.mktemp("batches")
    settings = Settings(home=root / "home", max_upload_bytes=2**20, max_batch_bytes=2**23)
    settings.folder()
    asker = "  asker:\n    actions: [models.predict, batches.create, batches.read]\n    purposes: [treatment]\nduties:"
    said = POLICY.read_text().replace("duties:", asker, 1).replace("per_s: 20\n", "per_s: 5000\n")
    (settings.home / "policy.yaml").write_text(said)
    ring = KeyRing.open(settings)
    roles = {"a": ("clinician", "a"), "b": ("clinician", "b"), "asker": ("asker", "a")}
    keys = {name: ring.create(name, role=role, tenant=tenant).key for name, (role, tenant) in roles.items()}
    with serving(build(settings, [write_package(root / "m", settings)], keys=ring, limits=SMALL, threads=1)) as port:
        yield Door(f"http://127.0.0.1:{port}", keys, settings)
    ring.close()


def test_one_bad_of_a_thousand_leaves_999_answers(door):
    """In order, each with its id; the bad one carries its error in its place; inputs are gone when it has ended."""
    bad = {"id": "i-421", "inputs": {"image": base64.b64encode(b"no picture").decode()}}
    sent = door.send(lines(*(bad if i == 421 else item(f"i-{i}") for i in range(1000))))
    assert sent.status_code == 202 and sent.json()["items"] == 1000
    assert sent.headers["location"] == f"/v1/batches/{sent.json()['batch']}"
    page = door.ended(sent.json()["batch"])
    assert (page["state"], page["items"], page["done"], page["failed"]) == ("done", 1000, 1000, 1)
    found = door.results(page["batch"])
    assert [(one["item"], one["id"]) for one in found] == [(i + 1, f"i-{i}") for i in range(1000)]
    wrong = [one for one in found if "error" in one]
    assert [one["id"] for one in wrong] == ["i-421"] and wrong[0]["error"]["kind"] == "refusal"
    alone = door.ask("POST", "/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"})
    assert all(one["answer"]["outputs"] == alone.json()["outputs"] for one in found if one is not wrong[0])
    assert door.results(page["batch"], "?from=998") == found[998:] and door.results(page["batch"], "?from=1000") == []
    events = [event for event in door.events() if page["batch"] in (event.resource, event.trace)]
    assert [(e.action, e.status, e.count) for e in events if e.action == "batches.create"] == [
        ("batches.create", 202, 1000)
    ]
    assert sum(event.count for event in events if event.action == "batches.predict") == 1000
    assert [e.count for e in events if e.action == "batches.read"][-3:] == [1000, 2, 0]
    assert Ledger.open(door.settings).verify().sound


def test_a_bad_line_is_one_bad_result(door):
    """Whatever is in it; a case of another tenant is unknown, as one that is not there."""
    own, others = door.case(), door.case(who="b")
    found = door.run(
        item("good"), b"{not json", b"[]", {"id": "none"}, item("good"), item("both", case=own),
        {"id": "x", "case": others}, {"id": "y", "case": "0" * 32}, {"id": "own", "case": own}, item(7),
        item("who", patient="p\t1"), item("more", surplus=1), b"\xff", item("z" * 300), b'{"inputs": ' + b"[" * 5000,
        {"inputs": {"image": PICTURE}}, {"id": "case+patient", "case": own, "patient": "p-1"}, {"id": "i", "inputs": 1},
    )  # fmt: skip
    codes = [one["error"]["code"] if "error" in one else "answered" for one in found]
    assert codes == [
        "answered", "item-invalid", "item-invalid", "item-invalid", "item-id-taken", "item-invalid", "unknown-case",
        "unknown-case", "answered", "item-invalid", "item-invalid", "item-invalid", "item-invalid", "item-invalid",
        "item-invalid", "answered", "item-invalid", "json-invalid",
    ]  # fmt: skip
    assert found[6]["error"] == found[7]["error"]
    assert [one["item"] for one in found] == list(range(1, 19)) and found[15]["id"] is None


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 422, "batch-empty"),
        (b"\n \n\r\n", {}, 422, "batch-empty"),
        (b"{}\n" * 301, {}, 413, "batch-too-long"),
        (b"x" * 2**23 + b"x", {}, 413, "body-too-large"),
        (b"x" * (2**21), {}, 413, "batch-line-too-large"),
        (b"{}", {"content-type": "application/json"}, 415, "media-type"),
        (b"{}", {"idempotency-key": ""}, 400, "idempotency-key"),
        (b"{}", {"idempotency-key": "k" * 129}, 400, "idempotency-key"),
    ],
)
def test_what_is_no_manifest_is_refused_whole_and_leaves_nothing(door, monkeypatch, body, headers, status, code):
    monkeypatch.setattr(batches_door, "MOST_ITEMS", 300)
    before = len(_files(door.settings))
    refused = door.send(body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert len(_files(door.settings)) == before


def test_the_same_key_gives_the_same_batch(door):
    """Of the same principal; another's key is his own. Another body or address under the same key is refused."""
    said = {"idempotency-key": "import-7"}
    first = door.send(lines(item("a")), headers=said).json()
    assert door.send(lines(item("a")), headers=said).json() == first
    door.ended(first["batch"])
    assert door.send(lines(item("a")), headers=said).json() == first
    for reused in (door.send(b"", headers=said), door.send(lines(item("b")), headers=said),
                   door.ask("POST", "/v1/models/tiny/versions/1/batch", content=lines(item("a")),
                            headers=said | {"content-type": "application/x-ndjson"})):  # fmt: skip
        assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency-key-reused")
    assert door.send(lines(item("a")), headers=said, who="b").json()["batch"] != first["batch"]
    assert door.ask("DELETE", f"/v1/batches/{first['batch']}").status_code == 204
    assert door.send(lines(item("a")), headers=said).json()["batch"] != first["batch"]


def test_another_tenants_batch_is_as_one_that_is_not_there(door):
    batch = door.send(lines(item("a"))).json()["batch"]
    for method, end in (("GET", ""), ("GET", "/results"), ("GET", "/events"), ("DELETE", "")):
        told = [
            (answer.status_code, answer.json()["error"])
            for id in (batch, "b-" + "0" * 16, "x")
            for answer in [door.ask(method, f"/v1/batches/{id}{end}", who="b")]
        ]
        assert told[0] == told[1] == told[2] and told[0][0] == 404
    assert batch not in [one["batch"] for one in door.ask("GET", "/v1/batches", who="b").json()["batches"]]
    assert batch in [one["batch"] for one in door.ask("GET", "/v1/batches").json()["batches"]]


def test_who_may_not_read_cases_has_none_answered(door):
    sent = door.send(lines({"id": "c", "case": door.case()}, item("own")), who="asker").json()["batch"]
    door.ended(sent)
    assert [one.get("error", {}).get("code") for one in door.results(sent)] == ["action-not-allowed", None]


def test_an_erased_patient_is_gone_from_every_batch(door):
    """His inputs named inline, and the answers about his case; the others' answers stay."""
    case = door.case(patient="p-gone")
    deleted = door.case(patient="p-3")
    items = (item("his", patient="p-gone"), {"id": "case", "case": case}, item("hers", patient="p-2"), item("none"),
             {"id": "deleted", "case": deleted})  # fmt: skip
    batch = door.send(lines(*items)).json()["batch"]
    door.ended(batch)
    assert all("answer" in one for one in door.results(batch))
    patients = {e.patient for e in door.events() if e.action == "batches.predict" and e.trace == batch}
    assert len(patients) == 4 and "" in patients
    vault = Vault.open(door.settings)
    vault.erase("a", "p-gone")
    vault.close()
    assert door.ask("DELETE", f"/v1/cases/{deleted}").status_code == 204
    found = {one["id"]: one for one in door.results(batch)}
    assert found["his"]["error"]["code"] == found["case"]["error"]["code"] == "erased"
    assert found["deleted"]["error"]["code"] == "erased"
    assert "answer" in found["hers"] and "answer" in found["none"]


def test_a_deleted_batch_is_gone_with_its_answers(door):
    """Also one that still runs: nothing of it is left, and its answers are not written after it."""
    before = len(_files(door.settings))
    batch = door.send(lines(*(item(f"{i}") for i in range(2000)))).json()["batch"]
    assert door.ask("DELETE", f"/v1/batches/{batch}").status_code == 204
    event = door.events()[-1]
    assert (event.action, event.resource, event.status, event.count) == ("batches.delete", batch, 204, 2000)
    assert door.ask("GET", f"/v1/batches/{batch}").status_code == 404
    assert "answer" in door.run(item("next"))[0]  # the worker went on
    time.sleep(0.3)
    assert len(_files(door.settings)) == before + 1


def test_progress_is_told_as_events_and_ends(door):
    """From where it stands to the end; who knows the end is not told again."""
    batch = door.send(lines(*(item(f"{i}") for i in range(300)))).json()["batch"]
    with httpx2.stream("GET", f"{door.url}/v1/batches/{batch}/events", timeout=60,
                       headers={"authorization": f"Bearer {door.keys['a']}"}) as answer:  # fmt: skip
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [e.resource for e in door.events() if e.action == "batches.read"][-1] == batch  # before the answer began
        told = [part for part in "".join(answer.iter_text()).split("\n\n") if "data:" in part]
    parts = [dict(line.split(": ", 1) for line in one.splitlines()) for one in told]
    assert [one["event"] for one in parts] == ["progress"] * (len(parts) - 1) + ["end"]
    done = [json.loads(one["data"])["done"] for one in parts]
    assert done == sorted(set(done)) and done[-1] == 300
    again = door.ask("GET", f"/v1/batches/{batch}/events", headers={"last-event-id": parts[-1]["id"]})
    assert again.status_code == 204
    told_again = door.ask("GET", f"/v1/batches/{batch}/events", headers={"last-event-id": "running-64"})
    assert "event: end" in told_again.text and "event: progress" not in told_again.text


def test_streams_are_counted_before_they_are_looked_at():
    """Many that come at once are no way past the number that one principal may have open; who left is not counted."""
    streams, gate = Streams(lambda id: False), asyncio.Event()

    async def look():
        await gate.wait()
        return "running-0", {}, False

    async def sent(answer):
        async def leave():
            return {"type": "http.disconnect"}

        async def send(message):
            return None

        await answer({"type": "http", "asgi": {"spec_version": "2.0"}}, leave, send)

    async def main():
        who = SimpleNamespace(id="k-1")
        asked = SimpleNamespace(
            scope={"headers": [], "medserve.caller": who},
            app=SimpleNamespace(state=SimpleNamespace(admission=SimpleNamespace(draining=False))),
        )
        tasks = [asyncio.ensure_future(streams.answer(asked, look)) for _ in range(20)]
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        good = [one for one in found if not isinstance(one, Exception)]
        assert len(good) == MOST_STREAMS and sum(isinstance(one, Quota) for one in found) == 12
        for answer in good:
            await sent(answer)
        assert not streams._open

    asyncio.run(main())


def test_a_stream_ends_with_the_key_that_opened_it(door):
    """Revoked while it is read: nothing more is told, though the batch goes on; who asks again is refused."""
    ring = KeyRing.open(door.settings)
    made = ring.create("reader", role="clinician", tenant="a")
    batch = door.send(lines(*(item(f"{i}") for i in range(3000)))).json()["batch"]
    with httpx2.stream("GET", f"{door.url}/v1/batches/{batch}/events", timeout=60,
                       headers={"authorization": f"Bearer {made.key}"}) as answer:  # fmt: skip
        ring.revoke(made.row.id)
        told = "".join(answer.iter_text())
    assert "event: progress" in told and "event: end" not in told
    door.keys["reader"] = made.key
    assert door.ask("GET", f"/v1/batches/{batch}/events", who="reader").status_code == 401
    assert door.ask("DELETE", f"/v1/batches/{batch}").status_code == 204
    ring.close()


def test_results_are_deleted_after_their_days(tmp_path):
    settings = Settings(home=tmp_path / "home", batch_days=1e-6)
    ring = KeyRing.open(settings)
    key = ring.create("a").key
    folder = write_package(tmp_path / "m", settings)
    with serving(build(settings, [folder], keys=ring, threads=1)) as port:
        one = Door(f"http://127.0.0.1:{port}", {"a": key}, settings)
        batch = one.send(lines(item("a"))).json()["batch"]
        one.ended(batch)
    with serving(build(settings, [folder], keys=ring, threads=1)) as port:
        one = Door(f"http://127.0.0.1:{port}", {"a": key}, settings)
        until = time.monotonic() + 10
        while one.ask("GET", f"/v1/batches/{batch}").status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.05)
        while _files(settings):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert [(e.resource, e.count) for e in one.events() if e.action == "batches.expire"] == [(batch, 1)]
    ring.close()


def test_items_go_last_and_only_a_few_at_once(door, monkeypatch):
    """In the class that goes behind every request, eight at a time."""
    whole, seen, under_way = Service.predict, [], [0]

    async def watched(self, data, **more):
        under_way[0] += 1
        seen.append((more["priority"], under_way[0]))
        try:
            return await whole(self, data, **more)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(Service, "predict", watched)
    door.run(*(item(f"{i}") for i in range(100)))
    assert len(seen) == 100 and {priority for priority, _ in seen} == {BATCH}
    assert 1 < max(count for _, count in seen) <= 8


def test_a_batch_whose_model_is_gone_fails_with_a_code(tmp_path):
    """Over PostgreSQL. What was answered stays."""
    with new_database() as url:
        settings = Settings(home=tmp_path / "home", database=url)
        ring = KeyRing.open(settings)
        key = ring.create("a").key
        with serving(build(settings, [write_package(tmp_path / "m", settings)], keys=ring, threads=1)) as port:
            one = Door(f"http://127.0.0.1:{port}", {"a": key}, settings)
            assert len(one.run(item("a"), b"bad", item("c", patient="p-1"))) == 3
            batch = one.send(lines(*(item(f"{i}") for i in range(3000)))).json()["batch"]
            while one.ask("GET", f"/v1/batches/{batch}").json()["done"] == 0:
                time.sleep(0.02)
        other = write_package(tmp_path / "m2", settings, spec("other"))
        with serving(build(settings, [other], keys=ring, threads=1)) as port:
            one.url = f"http://127.0.0.1:{port}"
            page = one.ended(batch)
            assert (page["state"], page["error"]["code"]) == ("failed", "batch-model-gone")
            assert 0 < len(one.results(batch)) == page["done"] < 3000
        ring.close()


def test_a_batch_ends_with_the_key_that_created_it(door):
    """Revoked while it runs: what was answered stays, and nothing more is asked."""
    ring = KeyRing.open(door.settings)
    made = ring.create("leaver", role="clinician", tenant="a")
    door.keys["leaver"] = made.key
    batch = door.send(lines(*(item(f"{i}") for i in range(3000))), who="leaver").json()["batch"]
    while door.ask("GET", f"/v1/batches/{batch}").json()["done"] == 0:
        time.sleep(0.02)
    ring.revoke(made.row.id)
    page = door.ended(batch)
    assert (page["state"], page["error"]["code"]) == ("failed", "batch-creator-gone")
    assert len(door.results(batch)) == page["done"] < 3000
    ring.close()


def test_a_role_that_was_narrowed_ends_its_batches(door):
    """Before the next chunk; what was answered stays."""
    ring = KeyRing.open(door.settings)
    made = ring.create("moved", role="clinician", tenant="a")
    door.keys["moved"] = made.key
    batch = door.send(lines(*(item(f"{i}") for i in range(3000))), who="moved").json()["batch"]
    while door.ask("GET", f"/v1/batches/{batch}").json()["done"] == 0:
        time.sleep(0.02)
    with database(door.settings).begin() as db:
        db.execute(key_grants.update().where(key_grants.c.key_id == made.row.id).values(models=["another"]))
    page = door.ended(batch)
    assert (page["state"], page["error"]["code"]) == ("failed", "batch-not-allowed")
    assert len(door.results(batch)) == page["done"] < 3000
    ring.close()


def _killed(root: Path, items: int, kills: int) -> None:
    """`kill -9` while a batch runs, `kills` times; then its results are whole, and none was answered twice."""
    settings = Settings(home=root / "home")
    ring = KeyRing.open(settings)
    key = ring.create("a").key
    ring.close()
    server = RealServer(root, [write_package(root / "m", settings)])
    try:
        server.start()
        one = Door(server.url, {"a": key}, settings)
        other = base64.b64encode(png(ramp(0, 60))).decode()
        body = lines(*(item(f"{i}") if i % 7 else {"id": f"{i}", "inputs": {"image": other}} for i in range(items)))
        batch = one.send(body, headers={"idempotency-key": "once"}).json()["batch"]
        seen: list[dict] = []
        for kill in range(kills):
            until = time.monotonic() + 30
            page = {"done": 0}
            while page["done"] <= items * kill // (kills + 1) and time.monotonic() < until:
                time.sleep(0.02)
                page = one.ask("GET", f"/v1/batches/{batch}").json()
            seen = one.results(batch)
            server.kill()
            assert 0 < len(seen) < items, "killed too late to show anything"
            server.start()
            one.url = server.url
            assert one.send(body, headers={"idempotency-key": "once"}).json()["batch"] == batch
        page = one.ended(batch, within_s=120)
        found = one.results(batch)
        assert (page["state"], page["done"], page["failed"]) == ("done", items, 0)
        assert [r["id"] for r in found] == [f"{i}" for i in range(items)] and found[: len(seen)] == seen
        assert found[0]["answer"]["outputs"] == found[7]["answer"]["outputs"] != found[1]["answer"]["outputs"]
        assert sum(e.count for e in one.events() if e.action == "batches.predict") == items
        assert server.stop() == 0
        for path in root.rglob("*"):
            if path.is_file() and "m" not in path.relative_to(root).parts:
                data = path.read_bytes()
                assert other[:40].encode() not in data and b'"outputs"' not in data, path
        assert Ledger.open(settings).verify().sound
    finally:
        server.close()


def test_a_killed_service_goes_on_with_its_batch(tmp_path):
    _killed(tmp_path, 2000, 1)  # killed as soon as some are there: a busy machine may take its time to do it


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_service_killed_again_and_again_loses_nothing(tmp_path):
    _killed(tmp_path, 12_000, 5)


def _files(settings: Settings) -> list[Path]:
    folder = settings.home / "objects"
    return [path for path in folder.rglob("*") if path.is_file()]
