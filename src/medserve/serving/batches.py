"""Works through batches while the service has nothing more urgent to do.

    runner = Runner(settings, batches, registry, ledger, policy, cases, identity)
    runner.gate = gate               # whose quota is charged
    await runner.follow()            # on the event loop that serves, until it is cancelled
    runner.wake()                    # there is something new

Each item goes through the same `Service.predict` as a request, in the class that goes last, and only a few of one
process at a time. Answers are kept a chunk at a time, together with the audit events of what was asked about patients;
after a crash the batch goes on from the last such commit. Batches take turns, so that a long one holds up no other.
"""

import asyncio
import contextlib
import os
import secrets
import time
from typing import Any

import msgspec

from medserve.access.audit import Event, Ledger
from medserve.access.identity import Identity
from medserve.access.policy import Policy, Principal, Resource
from medserve.errors import Busy, Fault, MedServeError, NotFound, Refusal
from medserve.runtime.batcher import BATCH
from medserve.runtime.naming import new_id
from medserve.serving import bodies
from medserve.serving.advice import check_review
from medserve.serving.gate import ASK_KEEPER, Forbidden, Gate
from medserve.serving.registry import Registry
from medserve.serving.service import Service
from medserve.serving.wire import encode
from medserve.settings import Settings
from medserve.store.batches import Batches, BatchRow, Chunk, Item, Lost, Outcome
from medserve.store.cases import Cases

LEASE_S, LOOK_S, TURN_S, SWEEP_S = 5.0, 2.0, 10.0, 60.0
IN_FLIGHT = 8  # items of one process that are asked about at once
_FINAL = {"batch-model-gone", "batch-creator-gone", "batch-not-allowed", "batch-damaged", "object-damaged"}
_REPORT = "Report it, with the batch and the item, to whoever runs this service."
ITEM_S = 300.0  # longest wait for one of them; being last, it may be long


class Stopped(Exception):
    """The service is ending: the batch goes back as it stands."""


class Runner:
    """One worker. lease_s: after which another process takes over what this one has not renewed."""

    def __init__(
        self, settings: Settings, batches: Batches, registry: Registry, ledger: Ledger, policy: Policy, cases: Cases,
        identity: Identity, *, lease_s: float = LEASE_S, turn_s: float = TURN_S,
    ) -> None:  # fmt: skip
        self._settings, self._batches, self._registry, self._cases = settings, batches, registry, cases
        self._ledger, self._policy, self._lease_s, self._turn_s = ledger, policy, lease_s, turn_s
        self._identity = identity
        self._worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._news, self._stop = asyncio.Event(), asyncio.Event()
        self.gate: Gate | None = None
        self._free = asyncio.Semaphore(IN_FLIGHT)
        self._swept_at = -SWEEP_S

    async def follow(self) -> None:
        """When it is cancelled, what is under way goes back; what was answered stays."""
        work = asyncio.ensure_future(self._main())
        try:
            await asyncio.shield(work)
        finally:
            self._stop.set()
            self._news.set()
            await work
            await asyncio.to_thread(self._batches.close)

    def wake(self) -> None:
        self._news.set()

    async def _main(self) -> None:
        while not self._stop.is_set():
            row = None
            with contextlib.suppress(Exception):  # a database that is away for a moment; the next look finds it
                await asyncio.to_thread(self._tidy)
                row = await asyncio.to_thread(self._batches.claim, self._worker, lease_s=self._lease_s)
            if row is not None:
                await self._turn(row)
            elif not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_S)
                self._news.clear()

    def _tidy(self) -> None:
        """Deleted and broken-off batches are destroyed, and those whose days are over."""
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        self._swept_at = time.monotonic()
        for row in self._batches.expired(self._settings.batch_days):
            event = Event(action="batches.expire", outcome="allow", principal="service", tenant=row.tenant,
                          resource=row.id, model=row.digest, count=row.items)  # fmt: skip
            with self._ledger.with_effect(event) as db:
                self._batches.delete(db, row)
        self._batches.sweep()

    async def _turn(self, row: BatchRow) -> None:
        """Until it has ended, its turn is over, or it is no longer ours."""
        try:
            with contextlib.suppress(Lost):
                await self._work(row)
        except Stopped:
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self._batches.release, row)
        except Exception as error:
            known = (
                error
                if isinstance(error, MedServeError)
                else Fault("internal", "The batch could not go on.", hint=_REPORT)
            )
            if isinstance(known, (Busy, Fault)) and not _final(known):  # tried again when its turn comes
                await asyncio.sleep(1.0)
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(self._batches.release, row)
                return
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self._batches.end, row, "failed", known.as_dict()["error"])

    async def _work(self, row: BatchRow) -> None:
        """Raises: Lost, Stopped; Fault "batch-model-gone", "batch-creator-gone", "batch-not-allowed"."""
        service, until = self._service(row), time.monotonic() + self._turn_s
        saving: asyncio.Future[None] | None = None
        left = await asyncio.to_thread(self._batches.todo, row)
        try:
            for at, chunk in enumerate(left):
                who = await asyncio.to_thread(self._creator, row)
                outcomes = await self._answered(service, who, row, chunk)
                if saving is not None:
                    await saving
                saving = asyncio.ensure_future(asyncio.to_thread(self._settle, row, chunk, outcomes))
                if at + 1 < len(left) and time.monotonic() > until:
                    await saving
                    await asyncio.to_thread(self._batches.release, row)
                    return
        finally:
            if saving is not None:
                await asyncio.wait({saving})
        if saving is not None:
            saving.result()
        await asyncio.to_thread(self._batches.end, row, "done")

    def _service(self, row: BatchRow) -> Service:
        """The version that was meant when the batch was created. Raises: Fault "batch-model-gone"."""
        with contextlib.suppress(NotFound):
            found = self._registry.find(row.model, row.version)
            if found.model.digest == row.digest and self._registry.tenant_of(row.model) in (None, row.tenant):
                return found
        raise Fault(
            "batch-model-gone", "The version of the model that this batch was created for is no longer served.",
            hint="What was answered so far stays. Create a new batch for the version that is served now.",
        )  # fmt: skip

    def _creator(self, row: BatchRow) -> Principal:
        """Whoever created it, with what he may do now; before each chunk.

        Raises: Fault "batch-creator-gone", "batch-not-allowed".
        """
        if self._identity.ended(row.created_by):
            raise Fault(
                "batch-creator-gone", "The key or account that created this batch is no longer valid.",
                hint="What was answered so far stays. Create the rest anew with a valid key.",
            )  # fmt: skip
        said = {name: _tuple(value) for name, value in row.who.items()}
        who = Principal(row.created_by, "", row.tenant, **(said | (self._identity.standing(row.created_by) or {})))
        if not self._policy.decide(who, "batches.create", Resource("model", row.model), row.purpose).allowed:
            raise Fault(
                "batch-not-allowed", "Who created this batch may no longer ask this model for batches.",
                hint="What was answered so far stays. Ask whoever keeps the policy of this service.",
            )  # fmt: skip
        return who

    async def _answered(self, service: Service, who: Principal, row: BatchRow, chunk: Chunk) -> list[Outcome]:
        """All items of a chunk, in their order; the lease is renewed meanwhile."""
        items = await asyncio.to_thread(self._batches.items, row, chunk)
        tasks = [asyncio.ensure_future(self._outcome(service, who, row, item)) for item in items]
        renewed = time.monotonic()
        try:
            waiting: set[asyncio.Future[Outcome]] = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
                for one in done:
                    one.result()
                if self._stop.is_set():
                    raise Stopped
                if time.monotonic() - renewed > self._lease_s / 4:
                    renewed = time.monotonic()
                    if not await asyncio.to_thread(self._batches.renew, row, lease_s=self._lease_s):
                        raise Lost
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _outcome(self, service: Service, who: Principal, row: BatchRow, item: Item) -> Outcome:
        if item.error is not None:
            return _failed(item, item.error)
        async with self._free:
            while True:
                try:
                    answer = await self._ask(service, who, row, item)
                    return Outcome(item.line, item.id, encode({"answer": answer}), False, item.owner, _case(item))
                except Busy as busy:
                    if busy.code == "service-stopping":
                        raise Stopped from None
                    await self._pause(busy.retry_after_s)
                except MedServeError as error:
                    return _failed(item, error.as_dict()["error"])
                except Exception as error:  # its own fault alone; what the error says may be a patient's
                    fault = Fault(
                        "internal", f"The service failed on this item ({type(error).__name__}).", hint=_REPORT
                    )
                    return _failed(item, fault.as_dict()["error"])

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + min(seconds, 5.0)
        while time.monotonic() < until:
            if self._stop.is_set():
                raise Stopped
            await asyncio.sleep(0.1)

    async def _ask(self, service: Service, who: Principal, row: BatchRow, item: Item) -> dict[str, Any]:
        """One item. Raises: Refusal, Forbidden, NotFound "unknown-case", Gone "erased", Busy."""
        assert self.gate is not None
        if wait := self.gate.compute_wait(who):
            raise Busy(
                "quota-compute", "The share of computing is used up.", hint="It goes on later.", retry_after_s=wait
            )
        model, media, data = service.model, bodies.JSON_TYPE, item.body
        if item.case:
            decision = self._policy.decide(who, "cases.read", Resource("service"), row.purpose)
            if not decision.allowed:
                raise Forbidden(decision.reason, f"The role {who.role} may not do this (cases.read).", hint=ASK_KEEPER)
            case = await asyncio.to_thread(self._cases.look, row.tenant, item.case)
            item.owner = case.stored.patient
            media = bodies.check_media(case.media_type, model.spec)
            data = await asyncio.to_thread(self._cases.read, case, max_bytes=self._settings.max_upload_bytes)
        elif len(data) > bodies.body_limit(media, self._settings.max_upload_bytes):
            raise Refusal(
                "item-too-large",
                "The item is larger than one prediction may be.",
                hint="Send one image, not a whole study.",
            )
        data = bodies.case_bytes(data, media, model.spec)
        if model.reviewed:
            check_review(self.gate, who, data, media, row.purpose)
        answer, stages = await service.predict(
            data, media=media, explain=None, deadline=time.monotonic() + ITEM_S, trace=new_id(), priority=BATCH
        )
        self.gate.charge(who, stages.compute)
        return answer

    def _settle(self, row: BatchRow, chunk: Chunk, outcomes: list[Outcome]) -> None:
        """Answers and events in one commit. Blocks."""

        def within(answers: str) -> Any:
            return self._ledger.with_effect(*self._events(row, chunk, answers, outcomes))

        self._batches.settle(row, chunk, outcomes, within, lease_s=self._lease_s)

    def _events(self, row: BatchRow, chunk: Chunk, answers: str, outcomes: list[Outcome]) -> list[Event]:
        """One for each patient asked about, and one for all the rest."""
        common = {
            "action": "batches.predict", "outcome": "allow", "trace": row.id, "principal": row.created_by,
            "tenant": row.tenant, "role": str(row.who["role"]), "purpose": row.purpose, "resource": row.model,
            "model": row.digest, "rules": self._rules(row), "policy": self._policy.digest,
            "input": f"vault:{chunk.asked}", "answer": f"vault:{answers}", "status": 200,
        }  # fmt: skip
        counts: dict[str, int] = {}
        for one in outcomes:
            counts[one.owner] = counts.get(one.owner, 0) + 1
        return [Event(**common, patient=owner, count=count) for owner, count in counts.items()]  # type: ignore[arg-type]

    def _rules(self, row: BatchRow) -> str:
        """Digest of those that the answers were held against; "" for a model that advises no medicine."""
        with contextlib.suppress(MedServeError):
            if self._service(row).model.reviewed:
                return self._registry.loader.rules.ask().digest
        return ""


def who_of(principal: Principal) -> dict[str, Any]:
    """What a batch keeps of whoever created it: it may do later what he might then, and may still."""
    return {"role": principal.role, "duties": list(principal.duties), "models": list(principal.models),
            "actions": list(principal.actions)}  # fmt: skip


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _case(item: Item) -> str:
    """The case that was found: its patient is known."""
    return item.case if item.owner else ""


def _failed(item: Item, error: dict[str, str]) -> Outcome:
    return Outcome(item.line, item.id, msgspec.json.encode({"error": error}), True, item.owner, _case(item))


def _final(error: MedServeError) -> bool:
    """Trying again changes nothing."""
    return error.code in _FINAL
