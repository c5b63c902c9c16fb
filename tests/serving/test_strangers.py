"""Who has not said who he is, and who computes too much, is turned away before he costs anything."""

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import SMALL, png, ramp, serving, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing, new_key
from medserve.app import build
from medserve.errors import NotFound
from medserve.serving.gate import Quota
from medserve.serving.strangers import StrangerLimits, Strangers
from medserve.settings import Settings

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    root = tmp_path_factory.mktemp("strangers")
    settings = Settings(home=root / "home")
    return settings, write_package(root / "m", settings)


def test_a_flood_of_401s_is_a_few_rows(package):
    """Twenty are answered and written down; the other 480 are 429, counted exactly, in one row a second."""
    settings, folder = package
    limits = replace(SMALL, strangers=StrangerLimits(per_s=0.01, burst=20))
    ring = KeyRing.open(settings)
    before = Ledger.open(settings).count()
    with serving(build(settings, [folder], keys=ring, limits=limits, threads=1)) as port:
        url, began = f"http://127.0.0.1:{port}", time.monotonic()
        with httpx2.Client(base_url=url) as http:
            wrong = {"authorization": f"Bearer {new_key()}"}
            roads = ("/v1/models", "/v1/session", "/nowhere")
            codes = [http.get(roads[n % 3], headers=wrong if n % 2 else {}).status_code for n in range(400)]
            codes += [http.post("/v1/session", json={}).status_code for _ in range(50)]
            codes += [http.post("/oauth/token", data={"a": "b"}).status_code for _ in range(50)]
            last = http.get("/v1/models")
            seconds = time.monotonic() - began
            assert last.status_code == 429 and int(last.headers["retry-after"]) >= 1
            assert last.json()["error"]["code"] == "quota-strangers"
            right = {"authorization": f"Bearer {ring.create('x').key}"}  # from the same address
            assert [http.get("/v1/models", headers=right).status_code for _ in range(5)] == [200] * 5
    events = [event for _, event in Ledger.open(settings).read(after=before)]
    bursts = [event for event in events if event.code == "quota-strangers"]
    assert codes[:20] == [401] * 20 and set(codes[20:]) == {429}
    assert sum(event.count for event in bursts) == 481 and len(bursts) <= seconds + 2
    assert len([event for event in events if event.status == 401]) == 20
    assert Ledger.open(settings).verify().sound
    ring.close()


def test_what_is_no_request_is_counted_in_the_log(package):
    """300 broken requests and 5 with too large a head: a few rows, one kind each, with their numbers."""
    settings, folder = package
    ring = KeyRing.open(settings)
    before = Ledger.open(settings).count()
    with serving(build(settings, [folder], keys=ring, limits=SMALL, threads=1)) as port:
        began = time.monotonic()
        for said, times, status in ((b"\x16\x03\x01 hello\r\n\r\n", 300, b"400"), (b"x" * 40_000, 5, b"4")):
            for _ in range(times):
                with socket.create_connection(("127.0.0.1", port)) as raw:
                    raw.sendall(said if times == 300 else b"GET / HTTP/1.1\r\na: " + said + b"\r\n\r\n")
                    assert raw.recv(4096).startswith(b"HTTP/1.1 " + status)
        seconds = time.monotonic() - began
    events = [event for _, event in Ledger.open(settings).read(after=before)]
    assert {(e.action, e.outcome, e.status, e.code) for e in events} == {
        ("unparsed", "deny", 400, "http-invalid"), ("unparsed", "deny", 431, "headers-too-large")
    }  # fmt: skip
    counted = {status: sum(e.count for e in events if e.status == status) for status in (400, 431)}
    assert counted == {400: 300, 431: 5} and len(events) <= 2 * (seconds + 2)
    ring.close()


def test_the_events_of_an_ended_key_name_whose_it_was(package):
    settings, folder = package
    ring = KeyRing.open(settings)
    expired, revoked = ring.create("e", days=1e-9, tenant="a"), ring.create("r", tenant="b", role="clinician")
    ring.revoke(revoked.row.id)
    before = Ledger.open(settings).count()
    with serving(build(settings, [folder], keys=ring, limits=SMALL, threads=1)) as port:
        for new in (expired, revoked):
            head = {"authorization": f"Bearer {new.key}"}
            answer = httpx2.get(f"http://127.0.0.1:{port}/v1/models", headers=head)
            assert answer.status_code == 401 and new.row.id not in answer.text
        httpx2.get(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {new_key()}"})
    events = [event for _, event in Ledger.open(settings).read(after=before)]
    assert [(e.principal, e.tenant, e.role, e.outcome, e.code) for e in events] == [
        (expired.row.id, "a", "service", "deny", "key-expired"),
        (revoked.row.id, "b", "clinician", "deny", "key-revoked"),
        ("anonymous", "", "", "deny", "key-invalid"),
    ]
    ring.close()


def _spent(strangers, address, times):
    count = 0
    for _ in range(times):
        try:
            strangers.spend(address)
            count += 1
        except Quota:
            pass
    return count


def test_each_address_has_a_share_and_all_together_have_one():
    limits = StrangerLimits(per_s=0.001, burst=10, all_per_s=0.001, all_burst=25)
    strangers = Strangers(limits)
    assert _spent(strangers, "192.0.2.1", 50) == 10
    assert _spent(strangers, "192.0.2.2", 50) == 10
    assert _spent(strangers, "192.0.2.3", 50) == 5
    six = Strangers(limits)
    assert _spent(six, "2001:db8::1", 50) + _spent(six, "2001:db8::ffff", 50) == 10  # one /64 is one client
    six.back("2001:db8::2")
    assert _spent(six, "2001:db8::3", 50) == 1


def test_computing_beyond_the_share_waits_and_reading_does_not(package, tmp_path):
    """Charged with what was measured, after the answer; another principal of the same role is not touched."""
    _, folder = package
    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "m", settings)
    own = POLICY.read_text().replace("requests_per_s: 2000", "requests_per_s: 2000\n    compute_s_per_s: 0.0001")
    (settings.home / "policy.yaml").write_text(own)
    ring = KeyRing.open(settings)
    keys = [{"authorization": f"Bearer {ring.create('x').key}", "content-type": "image/png"} for _ in range(2)]
    with serving(build(settings, [folder], keys=ring, limits=SMALL, threads=1)) as port:
        url = f"http://127.0.0.1:{port}/v1/models"
        codes = []
        while 429 not in codes and len(codes) < 200:
            answer = httpx2.post(f"{url}/tiny/predict", headers=keys[0], content=png(ramp()))
            codes.append(answer.status_code)
        assert codes[0] == 200 and answer.status_code == 429
        assert answer.json()["error"]["code"] == "quota-compute" and int(answer.headers["retry-after"]) >= 1
        assert httpx2.get(url, headers=keys[0]).status_code == 200
        assert httpx2.post(f"{url}/tiny/predict", headers=keys[1], content=png(ramp())).status_code == 200
    ring.close()


def test_a_share_of_computing_flows_back(package):
    from medserve.access.policy import Policy, Principal
    from medserve.serving.gate import Gate, asked_of

    own = POLICY.read_text().replace("requests_per_s: 2000", "requests_per_s: 2000\n    compute_s_per_s: 10")
    gate, who = Gate(Policy.parse(own.encode())), Principal("k-1", "x")
    asked = asked_of("POST", "/v1/models/m/predict")
    gate.check(who, asked, "", ["m"])
    gate.charge(who, 101.0)
    with pytest.raises(Quota) as caught:
        gate.check(who, asked, "", ["m"])
    assert 0.05 < caught.value.retry_after_s <= 0.1
    gate.check(who, asked_of("GET", "/v1/models"), "", ["m"])
    with pytest.raises(NotFound):
        gate.check(who, asked_of("GET", "/v1/models/x"), "", ["m"])
    time.sleep(0.15)
    gate.check(who, asked, "", ["m"])
