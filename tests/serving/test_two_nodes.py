"""Two `medserve serve` with homes of their own over one PostgreSQL, one bucket and one folder of keys: one service.

PostgreSQL is a real server of the tests; the bucket is a stand-in (moto's server, see throwaway_bucket).
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from real_server import RealServer
from throwaway_bucket import new_bucket
from throwaway_postgres import new_database
from tiny_package import png, ramp, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.client import pack
from medserve.settings import Settings
from medserve.store.bucket import Bucket
from medserve.store.vault import Vault

pytestmark = pytest.mark.slow
PNG = {"content-type": "image/png"}


@dataclass
class Node:
    server: RealServer
    keys: dict[str, str]

    def ask(self, who: str, method: str, path: str, headers: dict | None = None, **more) -> httpx2.Response:
        said = {"authorization": f"Bearer {self.keys[who]}"} | (headers or {})
        return httpx2.request(method, self.server.url + path, headers=said, timeout=30, **more)


@pytest.fixture
def nodes(tmp_path, monkeypatch) -> Iterator[tuple[Node, Node, Settings]]:
    shared = tmp_path / "shared-keys"
    shared.mkdir(mode=0o700)
    with new_bucket() as variables, new_database() as url:
        for name, value in (variables | {"MEDSERVE_DATABASE": url}).items():
            monkeypatch.setenv(name, value)
        homes = [tmp_path / name / "home" for name in ("a", "b")]
        for home in homes:
            home.mkdir(mode=0o700, parents=True)
            (home / "keys").symlink_to(shared)
        settings = Settings.from_environment(homes[0])
        ring = KeyRing.open(settings)
        keys = {
            "clinician": ring.create("clinician", role="clinician", tenant="ward").key,
            "engineer": ring.create("engineer", role="ml-engineer", tenant="ward").key,
            "approver": ring.create("approver", role="ml-engineer", tenant="ward", duties=["approver"]).key,
        }
        ring.close()
        tiny = write_package(tmp_path / "tiny", settings)
        servers = [RealServer(home.parent, [tiny]) for home in homes]
        try:
            for server in servers:
                server.start()
            yield Node(servers[0], keys), Node(servers[1], keys), settings
        finally:
            for server in servers:
                server.close()


def test_two_nodes_are_one_service(nodes, tmp_path):
    """A case stored at one is predicted at the other, alike; what one publishes the other serves; what one erases is
    gone at both; the log that both wrote is sound; and neither home holds an object."""
    a, b, settings = nodes
    stored = a.ask("clinician", "POST", "/v1/cases", PNG | {"x-patient": "p-1"}, content=png(ramp()))
    assert stored.status_code == 201, stored.text
    case = stored.json()["case"]
    said = [node.ask("clinician", "POST", "/v1/models/tiny/predict", json={"case": case}) for node in (a, b)]
    assert [one.status_code for one in said] == [200, 200], said[1].text
    assert said[0].json()["outputs"] == said[1].json()["outputs"]

    archive = pack(write_package(tmp_path / "fresh", settings, spec("fresh")), tmp_path / "fresh.zip")
    sent = a.ask("engineer", "POST", "/v1/packages", {"content-type": "application/zip"}, content=archive.read_bytes())
    assert sent.status_code == 201, sent.text
    digest = sent.json()["digest"].removeprefix("sha256:")
    assert b.ask("engineer", "GET", f"/v1/packages/{digest}").json()["package"]["digest"].endswith(digest)
    assert a.ask("approver", "POST", f"/v1/packages/{digest}/publish").status_code == 200
    deadline = time.monotonic() + 20
    while (
        there := b.ask("clinician", "POST", "/v1/models/fresh/predict", PNG, content=png(ramp()))
    ).status_code == 404:
        assert time.monotonic() < deadline, (b.server.root / "log" / "stderr").read_text()[-2000:]
        time.sleep(0.3)
    assert there.status_code == 200 and there.json()["model"]["digest"].endswith(digest)

    vault = Vault.open(settings)
    vault.erase("ward", "p-1")
    vault.close()
    for node in (a, b):
        gone = node.ask("clinician", "POST", "/v1/models/tiny/predict", json={"case": case})
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "erased")
    for node in (a, b):
        objects = node.server.home / "objects"
        assert not objects.exists() or not [path for path in objects.rglob("*") if path.is_file()]
        assert node.server.stop() == 0
    ledger = Ledger.open(settings)
    verdict = ledger.verify()
    assert verdict.sound and verdict.events >= 8, verdict
    ledger.close()


def test_a_node_that_is_killed_while_cases_come_in_leaves_nothing_half(nodes):
    """SIGKILL in the middle of uploads: each acknowledged case opens at the other node with its bytes, and there are
    no more cases than rows say."""
    import threading

    a, b, settings = nodes
    acknowledged: dict[str, bytes] = {}

    def upload(number: int) -> None:
        for step in range(1000):
            body = hashlib.shake_256(f"{number}-{step}".encode()).digest(300_000)
            headers = {"content-type": "text/plain", "x-patient": f"p-{number}"}
            try:
                answer = a.ask("clinician", "POST", "/v1/cases", headers, content=body)
            except httpx2.HTTPError:
                return
            if answer.status_code == 201:
                acknowledged[answer.json()["case"]] = body

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(acknowledged) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    a.server.kill()
    for thread in threads:
        thread.join(30)
    assert len(acknowledged) >= 6
    vault = Vault.open(replace(settings, home=b.server.home))
    for case, body in acknowledged.items():
        assert vault.get("ward", case) == body
        assert b.ask("clinician", "GET", f"/v1/cases/{case}").status_code == 200
    rows = vault.status()["objects"]
    vault.close()
    stored = [name for name, _ in Bucket.open(settings).names("objects/")]
    assert len(acknowledged) <= rows <= len(stored) <= rows + 3  # at most one a writer, without a row: swept later
    ledger = Ledger.open(settings)
    assert ledger.verify().sound
    ledger.close()


def test_a_node_with_keys_of_its_own_is_refused(nodes, tmp_path):
    """The log over one database has one set of secrets: a node without them does not start beside it."""
    from medserve.errors import Fault

    _, _, settings = nodes
    with pytest.raises(Fault) as caught:
        Ledger.open(replace(settings, home=tmp_path / "c" / "home"))
    assert caught.value.code == "audit-state-missing"
