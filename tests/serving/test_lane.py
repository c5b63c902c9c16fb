"""The short way of a small prediction: the same bytes lead to the same answer, events, counts and lines as without it.

Two servers of one home's copies: `lane` is the product's, `road` speaks without the lane.
"""

import contextlib
import gc
import json
import re
import shutil
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from prometheus_client.parser import text_string_to_metric_families
from serving.oip.made_tensors import TABLE, write_records
from tiny_package import SMALL, serving

from medserve.access.audit import AuditFault, Event, Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.errors import Denied, Refusal
from medserve.runtime.model import LoadedModel
from medserve.serving.asgi import Application
from medserve.serving.http import BoundedProtocol, answer_of
from medserve.serving.lane import HEADS, Asked, Lane, _Together
from medserve.serving.logs import make_log
from medserve.serving.server import Server
from medserve.serving.wire import HSTS, JSON, SAFE
from medserve.settings import Settings

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"
PATH, GOOD = "/v1/models/ward/predict", b'{"inputs": {"age": 71, "protein": 60.5, "ward": "icu"}}'
PIECES = list[bytes]


class WithoutLane(Server):
    speaks = BoundedProtocol


@dataclass
class One:
    """A server, and what has become of the requests so far."""

    port: int
    application: Application
    settings: Settings
    log: StringIO
    seen: int = 0
    taken: list[bool] = field(default_factory=list)

    def talk(self, pieces: PIECES, answers: int = 1, pause: float = 0.03) -> list[tuple[bytes, dict]]:
        """Heads and bodies of so many answers on one connection; an answer without a length ends it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            for at, piece in enumerate(pieces):
                if at:
                    time.sleep(pause)
                with contextlib.suppress(OSError):
                    sock.sendall(piece)
            file, found = sock.makefile("rb"), []
            for _ in range(answers):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = file.readline()
                    assert line, (head, found)
                    head += line
                size = re.search(rb"content-length: (\d+)", head)
                body = file.read(int(size[1])) if size and not pieces[0].startswith(b"HEAD") else b""
                found.append((head, json.loads(body) if body else {}))
            return found

    def events(self) -> list[Event]:
        """Those that are new."""
        ledger = Ledger.open(self.settings)
        new = list(ledger.read(after=self.seen))
        ledger.close()
        self.seen = max([self.seen, *(seq for seq, _ in new)])
        return [event for _, event in new]

    def counts(self) -> dict[tuple[str, tuple], float]:
        """Of requests and stages; no times."""
        families = text_string_to_metric_families(self.application.metrics.text().decode())
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples
            if s.name in ("medserve_requests_total", "medserve_request_seconds_count", "medserve_stage_seconds_count",
                          "medserve_turned_away_total", "medserve_answers_total", "medserve_requests_under_way",
                          "medserve_bytes_under_way")
        }  # fmt: skip


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def both(tmp_path_factory, keys) -> Iterator[tuple[One, One]]:
    """lane, road."""
    root = tmp_path_factory.mktemp("lane")
    first = Settings(home=root / "lane")
    write_records(root / "ward", first, "ward", TABLE)
    write_records(root / "other", first, "other", TABLE)
    policy = POLICY.read_text().replace("requests_per_s: 20\n", "requests_per_s: 0.01\n", 1)
    first.home.joinpath("policy.yaml").write_text(policy.replace("tenants: {}", "tenants: {other: [elsewhere]}"))
    ring = KeyRing.open(first)
    keys |= {role: ring.create(role, role=role).key for role in ("service", "clinician", "auditor")}
    ended = ring.create("ended")
    ring.revoke(ended.row.id)
    keys["ended"] = ended.key
    ring.close()
    shutil.copytree(first.home, root / "road")
    with contextlib.ExitStack() as stack:
        made = []
        for name, kind in (("lane", Server), ("road", WithoutLane)):
            settings = Settings(home=root / name)
            application = build(settings, [root / "ward", root / "other"], limits=SMALL, threads=1)
            for service in application.registry.services:
                service.batcher._inline_s = 1.0  # however busy the machine is
            log = StringIO()
            application._log = make_log(log)
            made.append(One(stack.enter_context(serving(application, kind=kind)), application, settings, log))
        lane = made[0]
        takes = Lane.takes
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(Lane, "takes", lambda self, asked: (lane.taken.append(takes(self, asked)), lane.taken[-1])[1])
        patched.setattr("medserve.access.keys.FRESH_S", 600.0)  # however busy the machine is
        for one in made:
            for key in keys.values():
                with contextlib.suppress(Denied):
                    one.application.identity.verify(key)
            one.events()
        yield made[0], made[1]


def request(body: bytes = GOOD, key: str = "", path: str = PATH, method: str = "POST", **more: str) -> bytes:
    heads = {"host": "here", "authorization": f"Bearer {key}", "content-type": "application/json"}
    heads |= {"content-length": str(len(body))} | {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in heads.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def quiet(head: bytes) -> bytes:
    """Without what differs from one to the next: ids, milliseconds, seconds by chance; uvicorn adds a date to some."""
    head = re.sub(rb"x-trace-id: \w+", b"x-trace-id: T", head)
    head = re.sub(rb"\r\ndate: [^\r]+|(?<=a-)[0-9a-f]{16}(?=-01)", b"", head)
    return re.sub(rb"(dur=|retry-after: )[\d.]+", rb"\1N", head)


def same(
    both: tuple[One, One], pieces: PIECES, answers: int = 1, *, short: list[bool] | None, settle: float = 0
) -> list:
    """Ask both; everything that is left of it must be the same. short: which of them went the short way."""
    found = []
    for one in both:
        one.taken.clear()
        before, lines = one.counts(), len(one.log.getvalue().splitlines())
        said = one.talk(pieces, answers)
        time.sleep(settle)
        until = time.monotonic() + 5
        while len(told := one.log.getvalue().splitlines()[lines:]) < answers and time.monotonic() < until:
            time.sleep(0.005)  # it is written after the answer has left
        after, events = one.counts(), one.events()
        traces = [re.search(rb"x-trace-id: (\w+)", head)[1].decode() for head, _ in said]
        assert {e.trace for e in events if e.trace} <= {*traces} or not traces
        heads = [quiet(head) for head, _ in said]
        bodies = [{k: v for k, v in body.items() if k not in ("id", "trace")} for _, body in said]
        assert all(body.get("trace", trace) == trace for trace, (_, body) in zip(traces, said, strict=True))
        logged = [{k: v for k, v in json.loads(line).items() if k not in ("ms", "timestamp", "trace")} for line in told]
        written = [(*(getattr(e, n) for n in ("action", "outcome", "principal", "tenant", "role", "purpose", "resource",
                                              "model", "code", "status", "policy", "count")),
                    e.input[:12], e.answer[:12]) for e in events]  # fmt: skip
        more = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
        found.append((heads, bodies, sorted(map(str, logged)), sorted(map(str, written)), more))
    assert found[0] == found[1]
    assert short is None or both[0].taken == short
    return found[0][1]


PLAIN = {
    "plain": (GOOD, {}),
    "version": (GOOD, {"path": "/v1/models/ward/versions/1/predict"}),
    "charset": (GOOD, {"content_type": "application/json; charset=utf-8"}),
    "purpose": (GOOD, {"x_purpose": "operations"}),
    "null": (b'{"inputs": {"age": null, "protein": 1e2}}', {}),
    "word": (b'{"inputs": {"ward": " general "}}', {}),
    "strange headers": (GOOD, {"user_agent": "curl/8", "accept": "*/*", "x_forwarded_for": "1.2.3.4", "cookie": "a=b"}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_plainest_requests_go_the_short_way(both, keys, name):
    body, more = PLAIN[name]
    (answer,) = same(both, [request(body, keys["service"], **more)], short=[True])
    assert answer["status"] in ("answered", "abstained") and answer["model"]["name"] == "ward"


OTHER = {  # body, more of the request, whether the lane saw so much that it had to look at the body
    "unit": (b'{"inputs": {"age": {"value": 852, "unit": "mo"}}}', {}, True),
    "bare": (b'{"age": 71}', {}, True),
    "text": (b'{"inputs": {"age": "71"}}', {}, True),
    "range": (b'{"inputs": {"age": 171}}', {}, True),
    "unknown input": (b'{"inputs": {"aeg": 71}}', {}, True),
    "unknown word": (b'{"inputs": {"ward": "attic"}}', {}, True),
    "nothing": (b'{"inputs": {}}', {}, True),
    "no json": (b'{"inputs": ', {}, True),
    "a case": (b'{"case": "c-1"}', {}, True),
    "no key": (GOOD, {"authorization": ""}, True),
    "another's key": (GOOD, {"authorization": "Bearer msk_x"}, True),
    "basic": (GOOD, {"authorization": "Basic abc"}, True),
    "purpose": (GOOD, {"x_purpose": "curiosity"}, True),
    "no such model": (GOOD, {"path": "/v1/models/word/predict"}, True),
    "another's model": (GOOD, {"path": "/v1/models/other/predict"}, True),
    "no such version": (GOOD, {"path": "/v1/models/ward/versions/9/predict"}, True),
    "explain": (GOOD, {"path": PATH + "?explain=shapley"}, False),
    "query": (GOOD, {"path": PATH + "?x=1"}, False),
    "escaped": (GOOD, {"path": "/v1/models/w%61rd/predict"}, False),
    "GET": (b"", {"method": "GET"}, False),
    "HEAD": (b"", {"method": "HEAD"}, False),
    "PUT": (GOOD, {"method": "PUT"}, False),
    "text/plain": (GOOD, {"content_type": "text/plain"}, False),
    "empty": (b"", {}, True),
    "long": (b" " * 5000 + GOOD, {}, False),
    "no length": (b"", {"content_length": ""}, False),
    "too long": (b"", {"content_length": "9999999999"}, False),
    "no deadline": (GOOD, {"x_request_deadline_ms": "0"}, False),
    "deadline": (GOOD, {"x_request_deadline_ms": "9000"}, False),
    "priority": (GOOD, {"x_priority": "stat"}, False),
    "traced": (GOOD, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "x=y"}, False),
    "last": (GOOD, {"connection": "close"}, False),
}


@pytest.mark.parametrize("name", OTHER)
def test_everything_else_goes_the_ordinary_way_before_anything_is_taken(both, keys, name):
    body, more, looked = OTHER[name]
    key = {} if "authorization" in more else {"key": keys["service"]}
    same(both, [request(body, **key, **more)], short=[False] if looked else [])


@pytest.mark.parametrize("who", ["auditor", "ended"])
def test_who_may_not_is_told_so(both, keys, who):
    (said,) = same(both, [request(key=keys[who])], short=[False])
    assert said["error"]["kind"] == "access"


def test_a_spent_quota_is_one_more_refusal(both, keys):
    """The first of two goes the short way and spends the only token."""
    for short in (True, False):
        (said,) = same(both, [request(key=keys["clinician"])], short=[short])
        assert ("error" in said) is not short
    assert said["error"]["code"] == "quota-requests"


def test_requests_in_pieces_and_several_in_one(both, keys):
    """However the bytes come, the answers leave in order; of several at once one is short at most."""
    good, bad = request(key=keys["service"]), request(b'{"inputs": {"age": 500}}', keys["service"])
    at = len(good) - len(GOOD)
    same(both, [good[:20], good[20:at] + GOOD[:9], GOOD[9:]], short=None)
    same(both, [good[:at], GOOD], short=None)
    same(both, [good[:60], good[60:]], short=[True])
    assert ["error" in one for one in same(both, [good + bad + good], 3, short=[True])] == [False, True, False]
    assert ["error" in one for one in same(both, [bad + good], 2, short=[False])] == [True, False]
    same(both, [good, good, good], 3, short=[True, True, True])
    for cut in (2, 12, 40):  # the next one has begun when the first is found to go the ordinary way
        assert ["error" in one for one in same(both, [bad + good[:cut], good[cut:]], 2, short=None)] == [True, False]
    chunked = good.replace(b"content-length: %d" % len(GOOD), b"transfer-encoding: chunked")[: -len(GOOD)]
    same(both, [chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)], short=[])
    twice = good.replace(b"\r\n\r\n", b"\r\nauthorization: Bearer x\r\n\r\n", 1)
    same(both, [twice], short=[])
    same(both, [good.replace(b"HTTP/1.1", b"HTTP/1.0")], short=[])


def test_a_body_that_follows_its_head_at_once_is_waited_for(both, keys):
    """As most clients send it, in two packets; one that does not come is told so as ever, and so is one cut short."""
    good = request(key=keys["service"])
    at, lane = len(good) - len(GOOD), both[0]
    for _ in range(20):
        lane.taken.clear()
        lane.talk([good[:at], GOOD], pause=0)
        if lane.taken == [True]:
            break
    else:
        pytest.fail("no body came in time")
    lane.events()
    (said,) = same(both, [good[:at] + GOOD[:5]], short=[])
    assert said["error"]["code"] == "body-slow"
    for one in both:
        with socket.create_connection(("127.0.0.1", one.port)) as sock:
            sock.sendall(good[:at])
        until = time.monotonic() + 5
        while not (found := one.events()) and time.monotonic() < until:
            time.sleep(0.02)
        assert [(e.code, e.status) for e in found] == [("client-left", 499)]


def test_a_head_that_is_known_again_needs_no_parser(both, keys, monkeypatch):
    """Only where it comes whole, with its body and nothing else; all is decided anew whenever it comes."""
    seen, sees = [], Lane.sees
    monkeypatch.setattr(Lane, "sees", lambda self, url, headers: (seen.append(url), sees(self, url, headers))[1])

    def parsed(pieces: PIECES, answers: int, short: list[bool]) -> int:
        seen.clear()
        same(both, pieces, answers, short=short)
        return len(seen)

    good, bad = request(key=keys["service"]), request(GOOD.replace(b"71", b"-1"), keys["service"])
    at = len(good) - len(GOOD)
    assert len(good) == len(bad)
    assert parsed([good] * 4, 4, [True] * 4) == 1
    assert parsed([good, bad, good, bad, good], 5, [True, False, True, False, True]) == 1
    assert parsed([good, good + good, good], 4, [True] * 3) == 2  # of two at once, one waits for the other
    assert parsed([good, good[:at] + GOOD[:9], GOOD[9:], good], 3, [True] * 2) == 2
    assert parsed([good, good[:40], good[40:], good], 3, [True] * 3) == 2
    assert parsed([request(key="msk_x")] * 3, 3, [False] * 3) == 3  # of a stranger nothing is kept
    others = [request(GOOD + b" " * count, keys["service"]) for count in range(HEADS + 1)]
    assert parsed(others[:-1] * 2, 2 * HEADS, [True] * 2 * HEADS) == HEADS
    assert parsed(others * 2, 2 * HEADS + 2, [True] * (2 * HEADS + 2)) == 2 * HEADS + 2  # one more than are kept
    monkeypatch.setattr("medserve.serving.lane.HEAD_BYTES", 60)
    assert parsed([good] * 3, 3, [True] * 3) == 3


def test_many_at_once_are_answered_each_its_own(both, keys, monkeypatch):
    """They take each step together; one that is refused on the way holds up nobody."""
    lane, answer, sizes = both[0], LoadedModel.answer, []
    hand_on = _Together._hand_on
    monkeypatch.setattr(_Together, "_hand_on", lambda self: (sizes.append(len(self._waiting)), hand_on(self))[1])

    def picky(self, *args, case=None, **more):
        if case[0] == 50:  # the age
            raise Refusal("out-of-distribution", "Unlike.")
        return answer(self, *args, case=case, **more)

    monkeypatch.setattr(LoadedModel, "answer", picky)

    def client(at: int) -> list[tuple[bool, float | None]]:
        ages = [50 if (at + turn) % 5 == 0 else 30 + 2 * at + turn for turn in range(10)]
        asks = [request(GOOD.replace(b"71", b"%d" % age), keys["service"]) for age in ages]
        said = lane.talk(asks, len(asks), pause=0)
        bodies = [body for _, body in said]
        values = [body["outputs"][0]["probability"] if "outputs" in body else None for body in bodies]
        return list(zip([age == 50 for age in ages], values, strict=True))

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(client, range(12)))
    assert all((value is None) == refused for one in found for refused, value in one)
    assert max(sizes) > 1
    monkeypatch.undo()
    for at in (0, 7):  # alone, each has the answer that it had in the crowd
        for turn, (refused, value) in enumerate(found[at]):
            if not refused:
                body = GOOD.replace(b"71", b"%d" % (30 + 2 * at + turn))
                ((_, again),) = lane.talk([request(body, keys["service"])])
                assert again["outputs"][0]["probability"] == pytest.approx(value, abs=1e-6)
    lane.events()


def test_the_end_of_a_head_is_none(both, keys):
    """Bytes that were a good request's last ones are no request when they come first; nor is a good one behind the
    beginning of another."""
    good = request(key=keys["service"])
    broken = [[good[:cut], good[cut:], good[cut:]] for cut in (4, 60)]
    broken += [[good + good[:12], good[12:], good[12:]], [good, good + good[:12], good]]
    for one in both:
        for pieces in broken:
            *before, last = one.talk(pieces, 2 if pieces[0] != good and len(pieces[0]) < len(good) else 3)
            assert all(head.startswith(b"HTTP/1.1 200") for head, _ in before)
            assert last[0].startswith(b"HTTP/1.1 400") and last[1]["error"]["code"] == "http-invalid"
        counted, until = 0, time.monotonic() + 10
        while counted < len(broken) and time.monotonic() < until:  # of these there is one event a second
            counted += sum(event.count for event in one.events() if event.code == "http-invalid")
            time.sleep(0.05)
        assert counted == len(broken)


def test_what_fails_on_the_way_is_begun_again(both, keys, monkeypatch):
    """Refused for its scores, a broken engine, an audit log that cannot be written: told as ever, nothing is kept."""
    good = [request(key=keys["service"])]

    def broken(self, *args, **more):
        raise RuntimeError("no")

    def unlike(self, *args, **more):
        raise Refusal("out-of-distribution", "Unlike.")

    def unwritable(events, more):
        raise AuditFault("audit-unwritable", "No.")

    for what, name, how, code in ((LoadedModel, "answer", unlike, "out-of-distribution"),
                                  (LoadedModel, "score", broken, "engine-failed")):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(what, name, how)
            (said,) = same(both, good, short=[True])
            assert said["error"]["code"] == code
    for one in both:
        with monkeypatch.context() as patched:
            patched.setattr(one.application._ledger, "commit", unwritable)
            one.taken.clear()
            told = [one.talk(good)[0] for _ in range(2)]
            assert [body["error"]["code"] for _, body in told] == ["audit-unwritable"] * 2
            assert all(head.startswith(b"HTTP/1.1 503") for head, _ in told) and one.taken in ([], [True, False])
        one.talk(good)  # the ordinary way finds that the log can be written again
        one.events()
        admission = one.application.admission
        assert (admission.requests, admission.bytes) == (0, 0)
        service = one.application.registry.find("ward", None)
        assert service.users == 0 and service._claims == 0 and sum(service._promises._ahead) == 0
    same(both, good, short=[True])


def test_traffic_that_is_split_and_a_service_that_ends_are_no_short_way(both, keys, monkeypatch):
    good = [request(key=keys["service"])]
    for one in both:
        monkeypatch.setattr(one.application.admission, "leaving", True)
    same(both, good, short=[False])
    monkeypatch.undo()
    monkeypatch.setattr("medserve.serving.registry.Registry.split_of", lambda self, name: object())
    monkeypatch.setattr("medserve.serving.shadow.Shadows.after", lambda *args: None)
    both[0].taken.clear()
    both[0].talk(good)
    both[0].events()
    assert both[0].taken == [False]


def test_nothing_of_a_request_is_kept(both, keys, monkeypatch):
    """Neither in a cycle nor with the connection, which stays open."""
    lane, made = both[0], []
    begun = Asked.__init__
    monkeypatch.setattr(Asked, "__init__", lambda self, *args: (begun(self, *args), made.append(weakref.ref(self)))[0])
    gc.disable()
    try:
        with socket.create_connection(("127.0.0.1", lane.port), timeout=10) as sock:
            for _ in range(3):
                sock.sendall(request(key=keys["service"]))
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            until = time.monotonic() + 5
            while any(one() is not None for one in made) and time.monotonic() < until:
                time.sleep(0.01)
            assert len(made) == 3 and not any(one() for one in made)
    finally:
        gc.enable()
    lane.events()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_prepared_head_has_the_headers_of_every_answer(secure, last):
    text = answer_of(b"{}", b"t1", b"read;dur=1", secure=secure, last=last)
    first, *lines = text.partition(b"\r\n\r\n")[0].split(b"\r\n")
    wanted = [(b"content-type", JSON), (b"content-length", b"2"), (b"x-trace-id", b"t1"), *SAFE]
    wanted += [(b"server-timing", b"read;dur=1"), *([HSTS] * secure), *([(b"connection", b"close")] * last)]
    assert first == b"HTTP/1.1 200 OK" and text.endswith(b"\r\n\r\n{}")
    assert [tuple(line.split(b": ", 1)) for line in lines] == wanted
