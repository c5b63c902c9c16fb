"""The door of packages: uploaded by one person, published by another, served to one tenant, also after a restart."""

import contextlib
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.models.archive import pack
from medserve.models.package import model_digest
from medserve.serving.doors.packages import version_key
from medserve.settings import Settings

WHO = {
    "engineer": {"role": "ml-engineer", "tenant": "a"},
    "approver": {"role": "data-scientist", "tenant": "a", "duties": ["approver"]},
    "both": {"role": "ml-engineer", "tenant": "a", "duties": ["approver"]},
    "engineer b": {"role": "ml-engineer", "tenant": "b"},
    "approver b": {"role": "ml-engineer", "tenant": "b", "duties": ["approver"]},
    "clinician": {"role": "clinician", "tenant": "a"},
    "clinician b": {"role": "clinician", "tenant": "b"},
}


@dataclass
class House:
    root: Path
    settings: Settings
    keys: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def ask(self, who: str, method: str, path: str, **more) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.keys[who]}"} | more.pop("headers", {})
        return httpx2.request(method, self.url + path, headers=headers, timeout=60, **more)

    def upload(self, who: str, archive: Path | bytes) -> httpx2.Response:
        data = archive if isinstance(archive, bytes) else archive.read_bytes()
        return self.ask(who, "POST", "/v1/packages", content=data, headers={"content-type": "application/zip"})

    def predict(self, who: str, name: str) -> httpx2.Response:
        more = {"content": png(ramp()), "headers": {"content-type": "image/png"}}
        return self.ask(who, "POST", f"/v1/models/{name}/predict", **more)

    def packed(self, name: str, version: str = "1", **changes) -> Path:
        folder = write_package(self.root / f"{name}-{version}", self.settings, spec(name, version, **changes))
        return pack(folder, self.root / f"{name}-{version}.zip")


@contextlib.contextmanager
def opened(house: House, folders=()):
    ring = KeyRing.open(house.settings)
    for who, grant in WHO.items():
        house.keys.setdefault(who, ring.create(who, **grant).key)
    application = build(house.settings, folders, keys=ring, limits=SMALL, threads=1)
    with serving(application) as port:
        house.url = f"http://127.0.0.1:{port}"
        yield house
    ring.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    settings = Settings(home=root / "home")
    folder = write_package(root / "ward", settings, spec("ward"))
    with opened(House(root, settings), [folder]) as found:
        yield found


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_package_is_uploaded_published_by_another_and_answers(house):
    """From bytes to an answer; every step is an event of its own, with the digest."""
    before = Ledger.open(house.settings).count()
    answer = house.upload("engineer", house.packed("chest"))
    assert answer.status_code == 201, answer.text
    row = answer.json()
    assert row["digest"] == model_digest(house.root / "chest-1") and row["state"] == "uploaded"
    assert house.predict("clinician", "chest").status_code == 404
    again = house.upload("engineer", house.root / "chest-1.zip")
    assert (again.status_code, again.json()) == (200, row)
    page = house.ask("approver", "GET", f"/v1/packages/{row['digest']}").json()
    assert page["package"] == row and page["card"]["intended_use"] == "tests"
    published = house.ask("approver", "POST", f"/v1/packages/{row['digest']}/publish")
    assert published.status_code == 200 and published.json()["state"] == "published"
    answered = house.predict("clinician", "chest")
    assert answered.status_code == 200 and answered.json()["model"]["digest"] == row["digest"]
    events = [event for _, event in Ledger.open(house.settings).read(after=before)]
    made = [(e.action, e.status, e.model) for e in events if e.action in ("packages.upload", "packages.publish")]
    wanted = [("packages.upload", 201), ("packages.upload", 200), ("packages.publish", 200)]
    assert made == [(action, status, row["digest"]) for action, status in wanted]
    assert not list((house.settings.home / "packages" / ".staging").iterdir())


def test_nobody_publishes_what_he_uploaded(house):
    """Not with the same key, and not with another key of the same name."""
    digest = house.upload("both", house.packed("alone")).json()["digest"]
    assert code(house.ask("both", "POST", f"/v1/packages/{digest}/publish")) == (403, "second-person")
    ring = KeyRing.open(house.settings)
    house.keys["both again"] = ring.create(" Both", **WHO["both"]).key
    ring.close()
    assert code(house.ask("both again", "POST", f"/v1/packages/{digest}/publish")) == (403, "second-person")
    assert code(house.ask("engineer", "POST", f"/v1/packages/{digest}/publish")) == (403, "action-not-allowed")
    assert house.predict("clinician", "alone").status_code == 404
    assert house.ask("approver", "POST", f"/v1/packages/{digest}/publish").status_code == 200


def test_a_package_exists_for_its_tenant_alone(house):
    """Rows, pages, publishing, the model itself, lists and the document: to another tenant it is not there."""
    digest = house.upload("engineer", house.packed("secret")).json()["digest"]
    none = "sha256:" + "0" * 64

    def told(who, method, path):
        body = house.ask(who, method, path).json()
        body.pop("trace")
        return body

    for method, path in (("GET", "/v1/packages/{}"), ("POST", "/v1/packages/{}/publish")):
        assert told("approver b", method, path.format(digest)) == told("approver b", method, path.format(none))
    assert house.ask("approver", "POST", f"/v1/packages/{digest}/publish").status_code == 200
    assert house.predict("clinician", "secret").status_code == 200
    hidden, absent = house.predict("clinician b", "secret"), house.predict("clinician b", "absent")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.json()["error"]["message"].replace("secret", "absent") == absent.json()["error"]["message"]
    for path in ("/v1/models", "/openapi.json", "/v1/packages"):
        assert "secret" not in house.ask("engineer b", "GET", path).text
        assert path == "/openapi.json" or "secret" in house.ask("engineer", "GET", path).text
    mine = house.upload("engineer b", house.root / "secret-1.zip")
    assert mine.status_code == 201
    assert code(house.ask("approver b", "POST", f"/v1/packages/{digest}/publish")) == (409, "service-taken")


def test_nobody_takes_over_the_name_of_a_served_model(house):
    digest = house.upload("engineer", house.packed("ward", "2")).json()["digest"]
    assert code(house.ask("approver", "POST", f"/v1/packages/{digest}/publish")) == (409, "service-taken")
    assert house.predict("clinician", "ward").json()["model"]["version"] == "1"


def test_the_newest_version_answers_and_nothing_fails_meanwhile(house):
    """Version 10 is published while version 9 is asked without pause; version 9 afterwards is refused as older."""
    digests = [house.upload("engineer", house.packed("busy", v)).json()["digest"] for v in ("8", "10", "9")]
    publish = [lambda d=d: house.ask("approver", "POST", f"/v1/packages/{d}/publish") for d in digests]
    assert publish[0]().status_code == 200
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(house.predict("clinician", "busy"))
            time.sleep(0.06)

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert publish[1]().status_code == 200
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert {a.status_code for a in answers} <= {200, 429} and len(answers) > 5
    assert {a.json()["model"]["version"] for a in answers if a.status_code == 200} == {"8", "10"}
    assert code(publish[2]()) == (409, "package-rollback")
    time.sleep(1)
    assert house.predict("clinician", "busy").json()["model"]["version"] == "10"


def test_versions_are_ordered_as_people_count():
    assert sorted(["10", "9", "1.10", "1.9", "2b", "2a"], key=version_key) == ["1.9", "1.10", "2a", "2b", "9", "10"]


def test_what_is_published_is_served_after_a_restart(tmp_path):
    """Without --models too; what was only uploaded is not, and a stored package that was altered stops the start."""
    house = House(tmp_path, Settings(home=tmp_path / "home"))
    with opened(house):
        assert house.ask("clinician", "GET", "/v1/models").json() == {"models": []}
        first = house.upload("engineer", house.packed("kept")).json()["digest"]
        assert house.upload("engineer", house.packed("waiting")).status_code == 201
        assert house.ask("approver", "POST", f"/v1/packages/{first}/publish").status_code == 200
    with opened(house):
        assert house.predict("clinician", "kept").status_code == 200
        assert house.predict("clinician", "waiting").status_code == 404
        assert house.predict("clinician b", "kept").status_code == 404
        assert len(house.ask("approver", "GET", "/v1/packages").json()["packages"]) == 2
    stored = house.settings.home / "packages" / "a" / first.removeprefix("sha256:")
    (stored / "card.json").write_text("{}")
    with pytest.raises(Exception, match="card.json"):
        build(house.settings, [])


@pytest.mark.parametrize(
    ("body", "media", "status", "wanted"),
    [
        (b"PK\5\6" + bytes(18), "application/zip", 422, "package-missing"),
        (b"words", "application/zip", 422, "archive-broken"),
        (b"", "application/zip", 422, "archive-broken"),
        (b"words", "application/octet-stream", 415, "media-type"),
    ],
)
def test_what_is_no_package_is_refused(house, body, media, status, wanted):
    answer = house.ask("engineer", "POST", "/v1/packages", content=body, headers={"content-type": media})
    assert code(answer) == (status, wanted)
    assert str(house.root) not in answer.text


def test_a_signer_must_be_trusted_here(house, tmp_path):
    """The same package is taken once its signer stands in the list."""
    other = Settings(home=tmp_path / "elsewhere")
    archive = pack(write_package(tmp_path / "p", other, spec("foreign")), tmp_path / "p.zip")
    assert code(house.upload("engineer", archive)) == (422, "package-signer")
    from medserve.models.signing import Signer

    (house.settings.folder("trusted") / "lab.pub").write_text(Signer.load(other).public)
    answer = house.upload("engineer", archive)
    assert answer.status_code == 201 and answer.json()["signer"] == "lab"


def test_an_upload_has_an_end(tmp_path):
    """More bytes than the limit: 413 before they are read, whether or not they were announced."""
    from dataclasses import replace

    house = House(tmp_path, replace(Settings(home=tmp_path / "home"), max_package_bytes=1000))
    with opened(house):
        assert code(house.upload("engineer", bytes(1001))) == (413, "body-too-large")
        pieces = (bytes(100) for _ in range(11))
        head = {"content-type": "application/zip"}
        assert code(house.ask("engineer", "POST", "/v1/packages", content=pieces, headers=head))[0] == 413
        assert not list((house.settings.home / "packages" / ".staging").iterdir())


def test_a_folder_without_a_row_is_not_served(house):
    """A crash between the folder and its row leaves nothing that answers; the next upload goes through."""
    archive = house.packed("torn")
    digest = model_digest(house.root / "torn-1").removeprefix("sha256:")
    shutil.copytree(house.root / "torn-1", house.settings.home / "packages" / "a" / digest)
    assert house.upload("engineer", archive).status_code == 201


def test_the_client_uploads_a_folder_and_publishes(house):
    from medserve.client import Client
    from medserve.errors import Denied

    folder = write_package(house.root / "by-client", house.settings, spec("by-client"))
    with Client(house.url, house.keys["engineer"]) as engineer, Client(house.url, house.keys["approver"]) as approver:
        made = engineer.upload_package(folder)
        assert made.digest in [row.digest for row in engineer.packages()]
        assert approver.package(made.digest).card["name"] == "by-client"
        with pytest.raises(Denied):
            engineer.publish(made.digest)
        assert approver.publish(made.digest).state == "published"
        assert engineer.jobs() == []
        with pytest.raises(Exception, match="MEDSERVE_DATA_ROOT"):
            engineer.start("train", data="chest.npz")


def test_a_key_that_is_limited_to_models_sees_their_packages_alone(house):
    ring = KeyRing.open(house.settings)
    house.keys["narrow"] = ring.create("narrow", role="ml-engineer", tenant="a", models=["mine"]).key
    ring.close()
    digests = {name: house.upload("engineer", house.packed(name)).json()["digest"] for name in ("mine", "yours")}
    names = [row["name"] for row in house.ask("narrow", "GET", "/v1/packages").json()["packages"]]
    assert names == ["mine"]
    assert house.ask("narrow", "GET", f"/v1/packages/{digests['mine']}").status_code == 200
    assert house.ask("narrow", "GET", f"/v1/packages/{digests['yours']}").status_code == 404
