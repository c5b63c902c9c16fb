"""The short way of a small prediction: from the bytes of its request to those of its answer in one turn of the loop.

    class Protocol(LaneProtocol):
        lane = Lane(application)

A request of the plainest kind (a key, a few kilobytes of JSON, a light model in memory) is answered here without
a task, a scope and their messages, which cost more than the rest of it. Everything is decided by the functions that
decide for `asgi.Application`, and nothing is refused here: whatever is not plainly in order goes the ordinary way, as
if it had just come, and so does what fails later. What was taken for it is given back first.

    head, (turn) -> identify -> clear? -> decode -> hold, (batch) -> answer -> account -> digest -> record,
    (audit log) -> write -> log

In brackets is what is waited for: all tell an `Asked`, which stands where uvicorn looks for its cycle, so that
pipelining, a slow reader, idle connections and the end of the process are what they are for every other request.
What has come together goes together: each step is done for all of them before the next one, so that its code and data
are still in the processor's cache. That saves a fifth of the time.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from medserve.access.policy import Principal
from medserve.errors import MedServeError, NotFound
from medserve.runtime.batcher import ROUTINE, Spent
from medserve.runtime.model import Scored
from medserve.runtime.naming import new_id
from medserve.runtime.replay import canonical
from medserve.serving.admission import Promise
from medserve.serving.asgi import Application
from medserve.serving.gate import asked_of
from medserve.serving.http import BoundedProtocol, OneWrite, answer_of
from medserve.serving.live import Live, Stages, Wanted
from medserve.serving.service import QUICK_BYTES, Service
from medserve.serving.target import Target, bearer, parse_target
from medserve.serving.tracing import UNTRACED
from medserve.serving.wire import Header
from medserve.types import Array

PATIENCE_S = 0.005  # for a body that its client sends apart from the head
HEADS, HEAD_BYTES = 16, 1024  # of a connection that are known again: how many, and how long
_PLAIN = re.compile(rb"/v1/models/[A-Za-z0-9._~-]+(/versions/[A-Za-z0-9._~-]+)?/predict")
_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_SPECIAL = frozenset({b"expect", b"transfer-encoding", b"content-encoding", b"upgrade", b"traceparent", b"tracestate",
                      b"x-priority", b"x-request-deadline-ms"})  # fmt: skip


class Head(NamedTuple):
    """Of a request that may go the short way: what its first lines say. size: of its body."""

    url: bytes
    target: Target
    said: dict[bytes, bytes]
    shown: str
    purpose: bytes
    fhir: bool
    size: int


class Asked:
    """One small prediction, from its head to its answer. For uvicorn it is a cycle; for the batcher, who waits."""

    __slots__ = (
        "__weakref__", "answer", "began", "body", "caller", "decoded", "disconnected", "head", "keep_alive", "live",
        "more_body", "new", "note", "promise", "protocol", "read", "response_complete", "response_started", "row",
        "scored", "service", "spent", "stages", "timing", "trace", "written",
    )  # fmt: skip

    message_event = asyncio.Event()  # of a cycle; nobody waits for it
    # What was taken of the service for it; `live` while it is held.
    caller: Principal
    promise: Promise
    service: Service
    row: Array
    trace: str
    note: dict[str, Any]
    read: float  # seconds
    decoded: float
    # What comes of it.
    scored: Scored
    answer: dict[str, Any]
    stages: Stages
    written: bytes
    timing: bytes

    def __init__(self, protocol: "LaneProtocol", head: Head, body: bytes = b"") -> None:
        self.protocol, self.head, self.new = protocol, head, b""  # new: the bytes of a head that is not known yet
        self.body, self.began = body, time.perf_counter()
        self.keep_alive, self.response_started, self.response_complete, self.disconnected = True, False, False, False
        self.live: Live | None = None
        self.spent = Spent()

    def done(self) -> bool:
        return False

    def set_result(self, scored: Scored) -> None:
        self.scored = scored
        self.protocol.lane.scored(self)

    def set_exception(self, error: Exception) -> None:
        self.protocol.lane.give_up(self)


class _Recording:
    """Who waits for the audit log to hold an answer."""

    __slots__ = ("_asked",)

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def done(self) -> bool:
        return False

    def set_result(self, result: None) -> None:
        self._asked.protocol.lane.recorded(self._asked)

    def set_exception(self, error: BaseException) -> None:
        self._asked.protocol.lane.give_up(self._asked)


class _Standing(NamedTuple):
    """What was decided for the last request of a connection, and of what; it holds for the next one that is like it.
    changes: of the registry."""

    caller: Principal
    url: bytes
    said: bytes
    changes: int
    action: str
    purpose: str


class Lane:
    """Of one application and its event loop."""

    def __init__(self, application: Application) -> None:
        self._app = application
        self.came = _Together(self._begin)  # a request whose body is here
        self.scored = _Together(self._answer_all)
        self.recorded = _Together(self._leave)  # its answer stands in the audit log

    def sees(self, url: bytes, headers: list[Header]) -> Head | None:
        """The head of a request that may go the short way; None of any other."""
        target = _target(url)
        if target is None:
            return None
        said = dict(headers)
        size = said.get(b"content-length", b"")
        plain = (
            len(said) == len(headers)  # none stands twice
            and _SPECIAL.isdisjoint(said)
            and said.get(b"content-type") in _TYPES
            and (size.isdigit() and len(size) < 6 and int(size) <= QUICK_BYTES)
        )
        if not plain:
            return None
        shown = bearer(said.get(b"authorization", b"").decode("latin-1"))
        fhir = b"fhir" in said.get(b"accept", b"").lower()
        return Head(url, target, said, shown, said.get(b"x-purpose", b""), fhir, int(size))

    def _begin(self, came: list[Asked]) -> None:
        for asked in came:
            try:
                short = self.takes(asked)
            except Exception:  # said in the ordinary way, which will meet it too
                short = False
            if not short:
                asked.protocol.ordinary(asked, whole=True)
            elif asked.new:
                asked.protocol.know(asked.new, asked.head)

    def takes(self, asked: Asked) -> bool:
        """Whether it goes the short way. If so its answer is under way."""
        app, head = self._app, asked.head
        if app.admission.leaving or app.admission.draining or app.tracing is not UNTRACED or not app.recorder.sound:
            return False
        name, version = head.target
        caller = app.identity.held(head.shown)
        if caller is None or caller.glass or app.registry.split_of(name) is not None:
            return False
        standing = self._standing(asked, caller)
        if standing is None or not app.gate.has_room(caller):
            return False
        try:
            service = app.registry.find(name, version)
        except NotFound:
            return False
        live = service.light()
        if live is None or (live.model.advises and head.fhir):
            return False
        began = time.perf_counter()
        row = live.model.row(asked.body)
        if row is None:
            return False
        asked.read, asked.decoded = began - asked.began, time.perf_counter() - began
        model, size = live.model, len(asked.body)
        asked.caller, asked.service, asked.row, asked.trace = caller, service, row, new_id()
        asked.note = {
            "route": standing.action, "caller": caller, "key": caller.id, "purpose": standing.purpose,
            "resource": name, "model": model.name, "version": model.version, "digest": model.digest, "bytes": size,
            "input": app.witness.of("input", caller.tenant, asked.trace, asked.body),
        }  # fmt: skip
        return self._enters(asked, live, size)

    def _standing(self, asked: Asked, caller: Principal) -> _Standing | None:
        """What the policy allows him; None: nothing, and he is told why elsewhere."""
        app, protocol, url, said = self._app, asked.protocol, asked.head.url, asked.head.purpose
        last, changes = protocol.standing, app.registry.changes
        if last is not None and last.caller is caller and last[1:4] == (url, said, changes):
            return last
        wish, purpose = asked_of("POST", url.decode()), said.decode("latin-1")[:64]
        if not app.gate.permits(caller, wish, purpose, app.names()):
            return None
        meant = app.gate.policy.purpose(caller, purpose)
        protocol.standing = _Standing(caller, url, said, changes, wish.named, meant)
        return protocol.standing

    def _enters(self, asked: Asked, live: Live, size: int) -> bool:
        """Takes room in the service; False where there is none, and then nothing is taken."""
        app, deadline = self._app, time.monotonic() + self._app.limits.deadline_s
        try:
            promise = asked.service.promise(None, ROUTINE, app.limits.wait_s)
            promise.read()
            try:
                app.admission.enter(size)
                try:
                    loop = asked.protocol.loop
                    live.batcher.put(
                        Wanted(asked.row), asked, loop, deadline=deadline, priority=ROUTINE, spent=asked.spent
                    )
                except MedServeError:
                    app.admission.leave(size)
                    raise
            except MedServeError:
                promise.kept()
                raise
        except MedServeError:
            return False
        app.gate.take(asked.caller)
        asked.service.hold(live)
        asked.promise, asked.live = promise, live
        return True

    def _answer_all(self, scored: list[Asked]) -> None:
        for step in (self._answer, self._account, self._digest, self._record):
            scored = [asked for asked in scored if self._does(step, asked)]

    def _does(self, step: Callable[[Asked], None], asked: Asked) -> bool:
        try:
            step(asked)
        except Exception:  # refused for its scores, or broken: what comes of it is said in the ordinary way
            self.give_up(asked)
            return False
        return True

    def _answer(self, asked: Asked) -> None:
        live, spent = asked.live, asked.spent
        assert live is not None
        began = time.perf_counter()
        asked.answer = live.model.answer(asked.scored, case=asked.row, trace=asked.trace)
        encoded = time.perf_counter() - began
        asked.service.answered += 1
        asked.stages = Stages(
            decode=asked.decoded, queue=spent.queue, batch=spent.batch, infer=spent.infer, encode=encoded,
            compute=asked.decoded + live.batcher.item_s, size=spent.size,
        )  # fmt: skip
        self._let_go(asked, live)
        if live.model.reviewer is not None:
            asked.note["rules"] = asked.answer["safety"]["rules"]

    def _account(self, asked: Asked) -> None:
        made = self._app.account(asked.caller, asked.answer, asked.stages, asked.read, asked.note)
        asked.written, asked.timing = made

    def _digest(self, asked: Asked) -> None:
        said = canonical(asked.answer)
        asked.note["said"] = self._app.witness.of("answer", asked.caller.tenant, asked.trace, said)

    def _record(self, asked: Asked) -> None:
        event = self._app.event(asked.note["route"], asked.note, asked.trace, 200)
        self._app.recorder.put(event, _Recording(asked), asked.protocol.loop)

    def _leave(self, recorded: list[Asked]) -> None:
        for asked in recorded:
            asked.protocol.answers(asked)
            asked.promise.kept()
        for asked in recorded:
            with contextlib.suppress(Exception):  # a broken log; others wait behind this one
                self._app.done("POST", asked.note, asked.trace, 200, time.perf_counter() - asked.began)

    def give_up(self, asked: Asked) -> None:
        """Give back what was taken, and begin again in the ordinary way."""
        if asked.response_complete:
            return
        if asked.live is not None:
            self._let_go(asked, asked.live)
        asked.promise.kept()
        self._app.gate.take(asked.caller, -1.0)
        asked.protocol.ordinary(asked, whole=True)

    def _let_go(self, asked: Asked, live: Live) -> None:
        asked.live = None
        asked.service.let_go(live)
        self._app.admission.leave(len(asked.body))


class _Together:
    """Collects those of one turn of the event loop, and hands them on together at its end."""

    __slots__ = ("_waiting", "_work")

    def __init__(self, work: Callable[[list[Asked]], None]) -> None:
        self._work = work
        self._waiting: list[Asked] = []

    def __call__(self, asked: Asked) -> None:
        if not self._waiting:
            asked.protocol.loop.call_soon(self._hand_on)
        self._waiting.append(asked)

    def _hand_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._work(waiting)


class LaneProtocol(BoundedProtocol):
    """Holds back a request that may go the short way until its body is here.

    Clients say the same first lines again and again. The bytes of a head that went the short way are known on its
    connection, and need no parser the next time they come, whole, with their body, and nothing else under way.
    """

    lane: Lane
    standing: _Standing | None = None
    _held: Asked | None = None
    _came: Asked | None = None  # in the bytes that are read now
    _between = True  # the parser has read no byte of the next request

    def connection_made(self, transport: Any) -> None:
        self._heads: dict[bytes, Head] = {}
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Without a scope, which the short way does without."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._between = False

    def _scope(self, headers: list[Header]) -> None:
        """uvicorn's own, of a request whose head is here."""
        url, expected = self.url, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue, self.headers, self.scope["headers"] = url, expected, headers, headers

    def begin(self) -> None:
        if (
            (self.cycle is None or self.cycle.response_complete)  # nothing before it is under way
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.flow.write_paused
        ):
            head = self.lane.sees(self.url, self.headers)
            self._held = None if head is None else Asked(self, head)
        if self._held is None:
            self._scope(self.headers)
            super().begin()

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.body += body

    def on_message_complete(self) -> None:
        self._between = True
        held, self._held = self._held, None
        if held is not None:
            self._goes(held)
        super().on_message_complete()

    def _goes(self, asked: Asked) -> None:
        """Its body is here."""
        self.cycle = self._came = asked  # type: ignore[assignment]
        self.lane.came(asked)

    def know(self, first: bytes, head: Head) -> None:
        if len(self._heads) >= HEADS:
            self._heads.clear()
        self._heads[first] = head

    def data_received(self, data: bytes) -> None:
        end, begins = data.find(b"\r\n\r\n", 0, HEAD_BYTES) + 4, self._between
        head = self._heads.get(data[:end]) if begins and self._resting is not None else None
        if head is not None and len(data) == end + head.size and not self.flow.write_paused:
            self._unset_keepalive_if_required()
            self._goes(Asked(self, head, data[end:]))
        else:
            super().data_received(data)
            if self._held is not None and self._timer is None:
                self._start(PATIENCE_S)
            elif begins and (came := self._came) is not None and len(data) == end + came.head.size:
                came.new = data[:end]
        self._came = None

    def _expired(self) -> None:
        if self._held is None:
            super()._expired()
        else:
            self._timer = None
            self._release()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        super().connection_lost(exc)

    def close_after(self) -> None:
        self._release()
        super().close_after()

    def shutdown(self) -> None:
        self._release()
        super().shutdown()

    def _release(self) -> None:
        """What is held goes the ordinary way, with as much of its body as is here."""
        held, self._held = self._held, None
        if held is not None:
            self._stop()
            self.ordinary(held, whole=False)

    def ordinary(self, asked: Asked, *, whole: bool) -> None:
        """A task for the request, as `begin` makes one from the parser, which may be past it by now."""
        url, later = asked.head.url, self.headers
        self._scope(list(asked.head.said.items()))
        scope, self.headers = self.scope, later
        more = {"method": "POST", "path": url.decode(), "raw_path": url, "query_string": b""}
        cycle = OneWrite(
            scope={**scope, **more},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=asked.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body += asked.body
        cycle.more_body, cycle.disconnected = not whole, asked.disconnected
        cycle.message_event.set()
        if self.cycle is asked or not whole:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
        if self.leaving():
            cycle.keep_alive = False

    def answers(self, asked: Asked) -> None:
        """Write an answer, as `OneWrite` does; what is known of its request is not kept until the next one comes."""
        asked.response_started = asked.response_complete = True
        if self.cycle is asked:
            self.cycle = None  # type: ignore[assignment]
        if self.transport.is_closing():
            return
        self.transport.write(
            answer_of(
                asked.written,
                asked.trace.encode(),
                asked.timing,
                secure=self.scheme == "https",
                last=not asked.keep_alive,
            )
        )
        if not asked.keep_alive:
            self.transport.close()
        self.on_response_complete()


@lru_cache(maxsize=1024)
def _target(url: bytes) -> Target | None:
    return parse_target(url.decode()) if _PLAIN.fullmatch(url) else None
