"""The door of the service: one ASGI function through which every request passes.

    application = Application(registry, keys, limits=Limits(), log=make_log())

    route -> identify -> decide -> admit -> read -> decode -> submit -> record -> answer    (predictions, here)
    route -> identify -> decide -> control plane -> record -> answer                        (everything else, FastAPI)

Closed by default: only the two health addresses answer without a key, whatever else is added behind this door. What is
answered, allowed or denied, stands in the audit log before it leaves; if it cannot be written there, the answer is 503.
An error of any kind leaves as `{"error": ..., "trace"}`; a traceback never leaves, and the log gets its type and place.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from medserve.access.audit import AuditFault, Event, Ledger, unwritable
from medserve.access.identity import Identity
from medserve.access.keys import Ended
from medserve.access.policy import PURPOSES, Policy, Principal, Resource
from medserve.access.recorder import Recorder
from medserve.access.witness import Witness
from medserve.errors import Denied, Fault, MedServeError, NotFound
from medserve.runtime.known import KnownModel
from medserve.runtime.naming import new_id
from medserve.runtime.replay import canonical
from medserve.serving import bodies
from medserve.serving.admission import Admission
from medserve.serving.advice import FHIR_TYPE, check_review, rendered, speaks_fhir
from medserve.serving.browser import address, session_cookie
from medserve.serving.control import control_plane, nowhere
from medserve.serving.gate import ASK_KEEPER, Forbidden, Gate, Quota, asked_of
from medserve.serving.live import Stages
from medserve.serving.logs import Log, make_log, where
from medserve.serving.metrics import Metrics
from medserve.serving.oip import rest
from medserve.serving.registry import Registry
from medserve.serving.shadow import Shadows
from medserve.serving.strangers import StrangerLimits, Strangers, Tally
from medserve.serving.target import Target, bearer, explain_method, parse_target
from medserve.serving.tracing import UNTRACED, Told, Tracing
from medserve.serving.waiting import due_of, priority_of, while_client_waits
from medserve.serving.watch import Watch
from medserve.serving.wire import (
    HSTS,
    JSON,
    ClientLeft,
    Header,
    Receive,
    Scope,
    Send,
    WrongMethod,
    encode,
    header,
    send_body,
    send_error,
)
from medserve.store.cases import Case, Cases

INLINE_BYTES = 256 * 1024  # a longer body is digested in a thread; this takes .15 ms, going there and back as long
LOGGED = ("route", "parent", "key", "model", "version", "bytes", "answer", "code", "failure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """deadline_s: longest wait for an answer after the body is read; a client may ask for less. wait_s: of work
    that may be ahead of a request that is let in, where it is no batch."""

    max_upload_bytes: int = 64 * 2**20
    max_requests: int = 256
    max_inflight_bytes: int = 512 * 2**20
    deadline_s: float = 60.0
    wait_s: float = 0.4
    timing: bodies.BodyTiming = field(default_factory=bodies.BodyTiming)
    strangers: StrangerLimits = field(default_factory=StrangerLimits)


class Application:
    """An ASGI 3 application.

    Args:
        registry: the services; closed when the server stops.
        identity: who asks. policy: what they may do. recorder: where it is written down; ledger: what it writes to, for
            an effect and its event in one transaction.
        cases: stored inputs, and what was answered about them. witness: digests of those that are not stored.
        limits: sizes, times and counts.
        log: see `logs.make_log`.
        doors: addresses beside prediction, see `serving.doors`. closing: called once when the server has stopped.
        running: goes on while the server does. reload: looks for packages again, when it is told to.
    """

    def __init__(
        self,
        registry: Registry,
        identity: Identity,
        *,
        policy: Policy,
        recorder: Recorder,
        ledger: Ledger,
        cases: Cases,
        witness: Witness,
        limits: Limits | None = None,
        log: Log | None = None,
        doors: Sequence[APIRouter] = (),
        closing: Sequence[Callable[[], None]] = (),
        metrics: Metrics | None = None,
        tracing: Tracing = UNTRACED,
        running: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        reload: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.registry, self.identity, self.limits = registry, identity, limits or Limits()
        self.gate, self.recorder, self._ledger = Gate(policy, registry.tenant_of), recorder, ledger
        self._cases, self.witness, self._closing, self._running = cases, witness, closing, running
        self.reload, self.tracing = reload, tracing
        self.admission = Admission(max_requests=self.limits.max_requests, max_bytes=self.limits.max_inflight_bytes)
        self._log = make_log() if log is None else log
        self.metrics = Metrics() if metrics is None else metrics
        self.metrics.watch(registry, self.admission)
        self.shadows = Shadows(registry, self.admission, self.metrics, lambda *a, **k: self._log.info(*a, **k))
        self.strangers = Strangers(self.limits.strangers)
        self._known: tuple[int, list[str]] = (-1, [])
        self._tallies: dict[Hashable, Tally] = {}  # by code, or by whose they are
        self._counting: set[asyncio.Task[None]] = set()
        self._control = control_plane(registry, self.admission, doors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace, began = new_id(), time.perf_counter()
        scope["medserve.trace"] = trace
        note: dict[str, Any] = {}
        more: tuple[Header, ...] = (HSTS,) if scope.get("scheme") == "https" else ()
        if (place := self.tracing.begin(scope, trace)) is not None:
            more, note["parent"] = more + place.headers, place.parent
        watched = Watch(send, trace, lambda status: self._record(scope, note, trace, status), more)
        try:
            await self._route(scope, receive, watched, trace, note)
        except MedServeError as error:
            note["code"], note["denied"] = error.code, note.get("denied") or error.kind == "access"
            if error.kind == "capacity":
                self.metrics.turned_away(error.code)
            if isinstance(error, ClientLeft):
                watched.status = error.status
                with contextlib.suppress(MedServeError):  # nobody is there to be told
                    await self._record(scope, note, trace, error.status)
            else:
                await self._fail(watched, error, trace, scope["path"])
        except Exception as error:
            note["code"], note["failure"] = "internal", where(error)
            hint = "Report the trace to whoever runs this service."
            fault: MedServeError = Fault("internal", "The service failed on this request.", hint=hint)
            await self._fail(watched, watched.failure or fault, trace, scope["path"])
        finally:
            if "promise" in note:
                note["promise"].kept()
            if watched.failure is not None:
                note["code"] = watched.failure.code
            spent = time.perf_counter() - began
            if place is not None:
                self.tracing.end(place, note, watched.status, spent)
            self.done(scope["method"], note, trace, watched.status, spent)

    def done(self, method: str, note: dict[str, Any], trace: str, status: int, spent: float) -> None:
        """Count a request and write its line, once its answer has left. spent: seconds."""
        self.metrics.request(note.get("route", "unknown"), status, spent)
        logged = {name: value for name in LOGGED if (value := note.get(name)) is not None}
        log = self._log.warning if note.get("loud") else self._log.info
        log("request", trace=trace, method=method, status=status, ms=round(spent * 1000, 2), **logged)

    async def _record(self, scope: Scope, note: dict[str, Any], trace: str, status: int) -> None:
        """One event a request, on disk before its answer begins. Probes of health that everybody may send are none:
        they show nothing, and would let a stranger fill the disk. Of unidentified requests beyond
        their quota there is one event a second, with their number; and so of what is refused of a caller for want of
        room, before anything is read, without waiting for it: that writing it down takes time is why there is none."""
        asked = asked_of(scope["method"], scope["path"], explain=bool(note.get("explain")))
        if asked.named.startswith("health.") and not note.get("denied") and "caller" not in note:
            return
        if note.get("code") == "quota-strangers":
            await self._tally("unidentified", "quota-strangers", Quota.status).add()
            return
        if note.get("code") == "service-full" and "bytes" not in note and "caller" in note:
            self._crowded(asked.named, note, status).count()
            return
        if note.get("written") != status:
            await self.recorder.record(self.event(asked.named, note, trace, status))

    def refused(self, trace: str, code: str, status: int) -> None:
        """What the parser turned away, before it was a request: logged, and counted in the audit log."""
        self.metrics.request("unparsed", status, 0.0)
        self._log.info("request", trace=trace, status=status, route="unparsed", code=code)

        async def count() -> None:
            with contextlib.suppress(MedServeError):  # it stays counted, and is written with the next one
                await self._tally("unparsed", code, status).add()

        task = asyncio.ensure_future(count())
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    def _tally(self, action: str, code: str, status: int) -> Tally:
        def event(count: int) -> Event:
            return Event(action=action, outcome="deny", code=code, status=status, count=count,
                         policy=self.gate.policy.digest)  # fmt: skip

        return self._tallies.setdefault(code, Tally(self.recorder.record, event))

    def _crowded(self, action: str, note: dict[str, Any], status: int) -> Tally:
        """By caller, model and what was asked."""
        key = (note["caller"], action, note.get("digest"), note.get("purpose"), status)
        if key not in self._tallies:
            said = {name: note[name] for name in ("caller", "purpose", "resource", "digest", "code") if name in note}
            self._tallies[key] = Tally(
                self.recorder.record, lambda count: self.event(action, said | {"count": count}, "", status)
            )
        return self._tallies[key]

    def event(self, action: str, note: dict[str, Any], trace: str, status: int) -> Event:
        """What the audit log keeps of a request."""
        caller: Principal | None = note.get("caller")
        return Event(
            action=action,
            outcome="deny" if note.get("denied") else "allow",
            trace=trace,
            principal=caller.id if caller else "anonymous",
            tenant=caller.tenant if caller else "",
            role=caller.role if caller else "",
            purpose=note.get("purpose", ""),
            resource=note.get("resource", ""),
            patient=note.get("patient", ""),
            model=note.get("digest", ""),
            rules=note.get("rules", ""),
            code=note.get("code", ""),
            status=status,
            count=note.get("count", 0),
            policy=self.gate.policy.digest,
            input=note.get("input", ""),
            answer=note.get("said", ""),
        )

    async def _fail(self, watched: Watch, error: MedServeError, trace: str, path: str) -> None:
        if watched.status:  # the answer has begun
            return
        try:
            await send_error(watched, error, trace, path)
        except AuditFault as unwritten:
            await send_error(watched, unwritten, trace, path)

    async def _route(self, scope: Scope, receive: Receive, send: Watch, trace: str, note: dict[str, Any]) -> None:
        path = scope["path"]
        target = parse_target(path)
        asked = asked_of(scope["method"], path, explain=target is not None and bool(scope.get("query_string")))
        note["route"] = asked.named
        scope["medserve.note"] = note
        scope["medserve.event"] = lambda status: self.event(asked.named, note, trace, status)
        if asked.open:
            self.strangers.spend(address(scope))
        elif asked.named not in self.gate.policy.said.anyone:
            caller = await self._identify(scope, note)
            note["caller"], note["key"] = caller, caller.id
            said = header(scope, b"x-purpose")[:64]
            meant = self.gate.policy.purpose(caller, said)
            note["purpose"] = meant if meant in PURPOSES else "unknown"  # no text of a client in the log
            note["explain"] = target is not None and bool(scope.get("query_string"))  # the only thing to ask for there
            known = self.names()
            note["resource"] = asked.resource.name if asked.resource.name in known else ""  # a name of ours, no text
            try:
                self.gate.check(caller, asked, said, known)
            except (NotFound, Quota) as error:
                note["denied"] = isinstance(error, Quota) or asked.resource.name in known
                raise
            if not asked.actions:
                note["denied"] = True
                raise nowhere()
            scope["medserve.visible"] = self.gate.visible(caller, known)
            scope["medserve.caller"] = caller
            if caller.glass:
                note["code"] = "break-glass"  # every request that is made while it is broken
        if target is None:
            await self._control(scope, receive, send)
            if asked.open and "caller" in note and not note.get("denied"):
                self.strangers.back(address(scope))  # who signed in is none
        else:
            await self._predict(target, scope, receive, send, trace, note)

    def names(self) -> list[str]:
        """Of all models here, one for each version; made anew when one comes or goes."""
        changes, names = self._known
        if changes != self.registry.changes:
            names = [service.model.name for service in self.registry.services]
            self._known = self.registry.changes, names
        return names

    async def _identify(self, scope: Scope, note: dict[str, Any]) -> Principal:
        """By the Authorization header, else by a browser's cookie.

        Raises: Denied, Forbidden; Quota "quota-strangers" instead, where too many were denied.
        """
        said = header(scope, b"authorization")
        shown = bearer(said)
        try:
            shown = shown if said else session_cookie(scope)
            if (known := self.identity.held(shown)) is not None:
                return known
            if self.identity.cached(shown):
                return self.identity.verify(shown)
            return await asyncio.to_thread(self.identity.verify, shown)  # the database never holds up the event loop
        except Denied as error:
            self.strangers.spend(address(scope))
            if isinstance(error, Ended):
                note["caller"], note["key"] = error.who, error.who.id
            raise

    async def _predict(
        self, target: Target, scope: Scope, receive: Receive, send: Send, trace: str, note: dict[str, Any]
    ) -> None:
        if scope["method"] != "POST":
            raise WrongMethod("method-not-allowed", "A prediction is asked for with POST.", hint="Use POST.")
        free = target.version is None  # which version answers is this service's to choose
        service = (
            self.registry.route(target.model, note.get("parent") or trace) if free else self.registry.find(*target)
        )
        model = service.model
        note["model"], note["version"], note["digest"] = model.name, model.version, model.digest
        if scope["path"].endswith("/infer"):
            return await rest.infer(self, service, scope, receive, send, trace, note, free=free)
        explain, priority = explain_method(scope), priority_of(scope)
        model.check_explain(explain)
        media = bodies.media_type(scope, model.spec)
        limit = bodies.body_limit(media, self.limits.max_upload_bytes)
        caller: Principal = note["caller"]
        case: Case | None = None
        due = due_of(scope, self.limits.deadline_s)
        promise = note["promise"] = service.promise(due, priority, self.limits.wait_s)
        room = self.admission.admit(bodies.expected_bytes(scope, limit))
        with service.claimed(), room, contextlib.ExitStack() as more:
            began = time.perf_counter()
            body = await bodies.read_body(receive, limit, self.limits.timing)
            promise.read()
            if explain is not None:  # counted where explanations are, in a lane of their own
                promise.kept()
            read = time.perf_counter() - began
            note["bytes"] = len(body)
            if named := bodies.case_named(body, media, model.spec):
                case = await self._case(named, caller, model, note)
                if free and (chosen := self.registry.route(target.model, case.stored.patient)) is not service:
                    service, model = chosen, chosen.model
                    more.enter_context(service.claimed())
                    note["version"], note["digest"] = model.version, model.digest
                    model.check_explain(explain)
                    bodies.check_media(case.media_type, model.spec)
                more.enter_context(self.admission.admit(case.size))
                media = case.media_type
                body = await asyncio.to_thread(self._cases.read, case, max_bytes=self.limits.max_upload_bytes)
            data = bodies.case_bytes(body, media, model.spec)
            if model.reviewed:
                check_review(self.gate, caller, data, media, header(scope, b"x-purpose")[:64])
            if case is None:
                note["input"] = await self.digest("input", caller, trace, data)
            deadline = due if header(scope, b"x-request-deadline-ms") else time.monotonic() + self.limits.deadline_s
            work = service.predict(
                data, media=media, explain=explain, deadline=deadline, trace=trace, priority=priority
            )
            answer, stages = await while_client_waits(work, receive, deadline)
        note["told"] = Told(began, read, (stages,))
        if model.reviewed:
            note["rules"] = answer["safety"]["rules"]
        kind = JSON
        out, timing = self.account(caller, answer, stages, read, note)
        if case is None:
            note["said"] = await self.digest("answer", caller, trace, canonical(answer))
        else:
            await asyncio.to_thread(self._keep, case, answer, scope, note)
        if model.advises and speaks_fhir(scope, media):
            out, kind = rendered(data, answer, model.spec), FHIR_TYPE
        await send_body(send, 200, out, trace, ((b"server-timing", timing),), kind=kind)
        if free:
            self.shadows.after(service, data, media, answer, trace)

    def account(
        self, caller: Principal, answer: dict[str, Any], stages: Stages, read: float, note: dict[str, Any]
    ) -> tuple[bytes, bytes]:
        """Charge and count what an answer has cost. Returns: its bytes, and the header `Server-Timing`."""
        self.gate.charge(caller, stages.compute)
        note["answer"] = answer["status"]
        began = time.perf_counter()
        out = encode(answer)
        return out, self.metrics.answered(read, [stages], time.perf_counter() - began)

    async def digest(self, what: str, caller: Principal, trace: str, data: bytes) -> str:
        if len(data) <= INLINE_BYTES:
            return self.witness.of(what, caller.tenant, trace, data)
        return await asyncio.to_thread(self.witness.of, what, caller.tenant, trace, data)

    async def _case(self, named: str, caller: Principal, model: KnownModel, note: dict[str, Any]) -> Case:
        """A stored case, for whoever may read cases too.

        Raises: Forbidden, NotFound "unknown-case", Gone "erased", WrongMedia.
        """
        decision = self.gate.policy.decide(caller, "cases.read", Resource("service"))
        if not decision.allowed:
            raise Forbidden(decision.reason, f"The role {caller.role} may not do this (cases.read).", hint=ASK_KEEPER)
        case = await asyncio.to_thread(self._cases.look, caller.tenant, named)
        note["patient"], note["input"] = case.stored.patient, f"vault:{case.id}"
        bodies.check_media(case.media_type, model.spec)
        return case

    def _keep(self, case: Case, answer: dict[str, Any], scope: Scope, note: dict[str, Any]) -> None:
        """The answer beside its case, visible with the event that names it. Blocks."""

        def within() -> contextlib.AbstractContextManager[Connection]:
            note["said"], note["written"] = f"vault:{out.object}", 200
            return self._ledger.with_effect(scope["medserve.event"](200))

        try:
            with self._cases.answering(case, within=within) as out:
                out.write(encode(answer))
        except (OSError, SQLAlchemyError) as error:
            raise unwritable() from error

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        tasks: list[asyncio.Future[None]] = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                tasks = [asyncio.ensure_future(work()) for work in self._running]
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.admission.draining = True
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.shadows.close()
                await asyncio.to_thread(self.registry.close)
                for tally in self._tallies.values():
                    with contextlib.suppress(MedServeError):
                        await tally.flush()
                await asyncio.to_thread(self.recorder.close)
                await asyncio.to_thread(self.identity.sessions.close)
                await asyncio.to_thread(self._cases.close)
                for close in self._closing:
                    await asyncio.to_thread(close)
                await send({"type": "lifespan.shutdown.complete"})
                return
