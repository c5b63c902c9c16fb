"""Traffic among versions of one model: shares, one version for one patient, shadows, the way back, and who may."""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.client import Client
from medserve.errors import Denied, Usage
from medserve.models.spec import Calibration
from medserve.serving.traffic import Split
from medserve.settings import Settings
from medserve.store.traffic import SplitRow

COLD = Calibration(method="temperature", temperature=20.0, n=200)  # version 3 hardly dares to say anything


def test_raising_a_share_moves_patients_to_it_and_none_away():
    """And the shares come out as they are asked for."""

    def where(share):
        split = Split.of(SplitRow("", "m", {"10": share, "9": 100 - share}, salt=b"s" * 16))
        return [split.pick(f"p-{n}", ["9", "10"]) for n in range(4000)]

    before, after = where(10), where(30)
    assert abs(Counter(before)["10"] / 4000 - 0.1) < 0.02 and abs(Counter(after)["10"] / 4000 - 0.3) < 0.03
    assert {(a, b) for a, b in zip(before, after, strict=True)} == {("9", "9"), ("9", "10"), ("10", "10")}
    other = Split.of(SplitRow("", "m", {"10": 10, "9": 90}, salt=b"t" * 16))
    assert [other.pick(f"p-{n}", ["9", "10"]) for n in range(4000)] != before
    assert Split.of(SplitRow("", "m", {"1": 10, "2": 90}, salt=b"s")).pick("p", ["1"]) == "1"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Versions 1 to 3 of `tiny`; settings, folders, keys by principal."""
    root = tmp_path_factory.mktemp("traffic")
    settings = Settings(home=root / "home")
    folders = [write_package(root / v, settings, spec(version=v, **({"calibration": COLD} if v == "3" else {})))
               for v in "123"]  # fmt: skip
    ring = KeyRing.open(settings)
    keys = {
        "asks": ring.create("asks", role="service").key,  # whose quota no fast machine reaches
        "decides": ring.create("decides", role="ml-engineer", duties=["approver"]).key,
    }
    ring.close()
    return settings, folders, keys


@pytest.fixture
def clients(home):
    """Of one start of the service: whoever asks, and whoever decides."""
    settings, folders, keys = home
    with serving(build(settings, folders, limits=SMALL, threads=1)) as port:
        url = f"http://127.0.0.1:{port}"
        with Client(url, keys["asks"]) as asks, Client(url, keys["decides"]) as decides:
            yield asks, decides


def answered_by(client, n=12):
    return Counter(client.predict(png(ramp()), model="tiny").model.version for _ in range(n))


def test_a_split_holds_is_counted_is_rolled_back_and_written_down(home, clients):
    asks, decides = clients
    assert answered_by(asks, 2) == {"3": 2}  # the version added last, until somebody says otherwise
    assert decides.traffic("tiny").versions == {"3": 100}
    page = decides.split("tiny", {"1": 50, "2": 50})
    assert (page.before.versions, page.shadow) == ({"3": 100}, [])
    found = answered_by(asks, 40)
    assert set(found) == {"1", "2"}
    assert {v: n for v, n in decides.traffic("tiny").answered.items() if v != "3"} == found
    assert asks.predict(png(ramp()), model="tiny", version="3").model.version == "3"  # still there by its number
    decides.split("tiny", {"1": 100})
    assert answered_by(asks, 3) == {"1": 3}
    assert decides.rollback("tiny").versions == {"1": 50, "2": 50}
    assert decides.rollback("tiny").versions == {"1": 100}
    events = [e for _, e in Ledger.open(home[0]).read() if e.action == "models.traffic"]
    assert [e.status for e in events[-4:]] == [200] * 4 and events[-1].answer == "traffic: 1 100 %"
    assert {e.resource for e in events} == {"tiny"}


def test_one_patient_meets_one_version(clients):
    asks, decides = clients
    decides.split("tiny", {"1": 50, "2": 50})
    seen = {}
    for patient in (f"p-{n}" for n in range(24)):  # all on one side once in eight million runs
        stored = [asks.upload(png(ramp(high=200 + n)), patient=patient) for n in range(2)]
        found = {asks.predict(case=one.case, model="tiny").model.version for one in stored}
        assert len(found) == 1
        seen[patient] = found.pop()
    assert set(seen.values()) == {"1", "2"}


def test_one_trace_of_a_client_meets_one_version(home, clients):
    asks, decides = clients
    decides.split("tiny", {"1": 50, "2": 50})
    seen = set()
    for n in range(24):
        parent = {"traceparent": f"00-{n + 1:032x}-{n + 1:016x}-01", "content-type": "image/png"}
        got = [asks._http.post("/v1/models/tiny/predict", content=png(ramp()), headers=parent) for _ in range(3)]
        assert len(found := {one.json()["model"]["version"] for one in got}) == 1
        seen |= found
    assert seen == {"1", "2"}


def test_a_shadow_is_compared_and_never_answers(clients):
    """Version 2 is version 1 again; 3 has another temperature, so its probabilities differ by a sum done by hand."""
    asks, decides = clients
    decides.split("tiny", {"1": 100}, shadow=["2", "3"])
    until = time.monotonic() + 30  # a busy service drops what is compared
    while True:
        assert asks.predict(png(ramp(high=230)), model="tiny").model.version == "1"
        found = decides.traffic("tiny").shadows
        if found["2"].agreed and found["3"].mean_difference is not None:
            break
        assert time.monotonic() < until
        time.sleep(0.1)
    assert found["2"].differed == 0 and found["2"].most_difference == 0
    logit = 10 * (ramp(high=230).mean() / 255 - 0.5)
    apart = abs(1 / (1 + 2.718281828 ** (-logit / 2)) - 1 / (1 + 2.718281828 ** (-logit / 20)))
    assert abs(found["3"].mean_difference - apart) < 1e-3
    assert decides.traffic("tiny").answered.get("3", 0) == 0


def test_a_split_outlives_a_restart_and_reaches_another_node(home, clients):
    """The other node is another server over the same home; it follows within seconds."""
    settings, folders, keys = home
    asks, decides = clients
    decides.split("tiny", {"2": 100})
    with serving(build(settings, folders, limits=SMALL, threads=1)) as port:
        with Client(f"http://127.0.0.1:{port}", keys["asks"]) as elsewhere:
            assert answered_by(elsewhere, 3) == {"2": 3}
            decides.split("tiny", {"1": 100})
            until = time.monotonic() + 20
            while time.monotonic() < until and set(answered_by(elsewhere, 1)) != {"1"}:
                time.sleep(0.05)
            assert answered_by(elsewhere, 3) == {"1": 3}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"versions": {"1": 90, "2": 9}}, 400, "traffic-invalid"),
        ({"versions": {"1": 110, "2": -10}}, 400, "traffic-invalid"),
        ({"versions": {"1": 100}, "shadow": ["1"]}, 400, "traffic-invalid"),
        ({"versions": {"1": 100}, "shadow": ["2", "2"]}, 400, "traffic-invalid"),
        ({"versions": {"7": 100}}, 404, "unknown-version"),
        ({"versions": {"1": 99.5, "2": 0.5}}, 400, "json-invalid"),
        ({"versions": {"1": 100}, "canary": 3}, 400, "json-invalid"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(clients, body, status, code):
    decides = clients[1]
    got = decides._http.put("/v1/models/tiny/traffic", content=json.dumps(body))
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)


def test_who_may_ask_may_not_decide(clients):
    asks, _ = clients
    assert asks.traffic("tiny").name == "tiny"
    for work in (lambda: asks.split("tiny", {"1": 100}), lambda: asks.rollback("tiny"),
                 lambda: asks.withdraw("tiny", "1")):  # fmt: skip
        with pytest.raises(Denied):
            work()


def test_a_withdrawn_version_is_gone_for_good(tmp_path):
    """Its share goes to the others; a restart does not bring it back; the last one takes the name with it."""
    settings = Settings(home=tmp_path / "home")
    folders = [write_package(tmp_path / v, settings, spec(version=v)) for v in "12"]
    ring = KeyRing.open(settings)
    key = ring.create("d", role="administrator").key
    clinician = ring.create("c", role="clinician").key
    ring.close()
    for start in range(2):
        with serving(build(settings, folders, limits=SMALL, threads=1)) as port:
            url = f"http://127.0.0.1:{port}"
            with Client(url, key) as decides, Client(url, clinician) as asks:
                if start == 0:
                    decides.split("tiny", {"1": 70, "2": 30})
                    decides.withdraw("tiny", "2")
                assert decides.traffic("tiny").versions == {"1": 100}
                assert [one.version for one in decides.models()] == ["1"]
                assert answered_by(asks, 3) == {"1": 3}
                with pytest.raises(Usage) as caught:
                    asks.predict(png(ramp()), model="tiny", version="2")
                assert caught.value.code == "unknown-version"
                if start == 1:
                    decides.withdraw("tiny", "1")
                    assert httpx2.get(f"{url}/v1/models/tiny", headers=decides._http.headers).status_code == 404
