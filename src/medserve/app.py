"""The one place that joins the parts into a running service.

application = build(settings, [Path("out/chest")])     # an ASGI application, ready to answer
serve(settings, [Path("out/chest")], Address(port=8000))
"""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from medserve.access.audit import Ledger
from medserve.access.identity import Identity
from medserve.access.keys import KeyRing
from medserve.access.policy import Policy
from medserve.access.recorder import Recorder
from medserve.access.sessions import Sessions
from medserve.access.witness import Witness
from medserve.data.readers.outside import read_outside
from medserve.data.sandbox import Crew
from medserve.errors import MedServeError, Usage
from medserve.jobs.executor import Executor
from medserve.jobs.table import Jobs
from medserve.models.signing import Trust
from medserve.runtime.loading import Loader
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.serving.address import Address, check_address
from medserve.serving.asgi import Application, Limits
from medserve.serving.batches import Runner
from medserve.serving.changes import Changes
from medserve.serving.doors import Parts, breakglass, login, oauth, session
from medserve.serving.doors import batches as batches_door
from medserve.serving.doors import cases as cases_door
from medserve.serving.doors import jobs as jobs_door
from medserve.serving.doors import metrics as metrics_door
from medserve.serving.doors import packages as packages_door
from medserve.serving.doors import safety as safety_door
from medserve.serving.doors import traffic as traffic_door
from medserve.serving.footprint import few_arenas, settle, trimmed
from medserve.serving.metrics import Metrics
from medserve.serving.oip import rest
from medserve.serving.registry import Registry
from medserve.serving.safety import check_settings
from medserve.serving.server import run
from medserve.serving.siblings import Place, Siblings
from medserve.serving.tls import Tls
from medserve.serving.tracing import UNTRACED, Tracing, open_tracing
from medserve.settings import Settings
from medserve.store.batches import Batches
from medserve.store.cases import Cases
from medserve.store.database import database
from medserve.store.packages import Shelf
from medserve.store.traffic import Splits

if TYPE_CHECKING:
    from medserve.serving.oip.door import GrpcDoor

DOORS: tuple[Callable[[Parts], APIRouter], ...] = (
    cases_door.router, oauth.router, session.router, login.router, breakglass.router,
    packages_door.router, jobs_door.router, metrics_door.router, rest.router, traffic_door.router,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keep:
    """budget: bytes of engines in memory; None: no limit. pinned: names of models that never leave it."""

    budget: int | None = None
    pinned: tuple[str, ...] = ()


def build(
    settings: Settings,
    folders: Sequence[Path],
    *,
    keys: KeyRing | None = None,
    limits: Limits | None = None,
    threads: int = 0,
    memory: Keep = Keep(),
    tracing: Tracing = UNTRACED,
    place: Place | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Application:
    """Open the keys and every package; nothing is served unless all of them are sound.

    Args:
        folders: model packages, or folders of them; of two versions of one name, the later one answers under the bare
            name. What was published through the network is served beside them.
        keys: of `settings.home` when None.
        threads: processor threads of one model's pass; 0 means all cores.
        memory: how much of it the engines may take, and which of them never leave it.
        tracing: where spans of requests go; closed with the service.
        place: of one of several replicas on a port; their bodies together get the room of one.
        warn: gets a line where a verdict of the tuner could not be followed.

    Raises: BadPackage, naming the folder; Usage "service-taken", "policy-invalid"; Fault
        "key-exposed", and those of the audit log.
    """
    ring = KeyRing.open(settings) if keys is None else keys
    rules = Standing.open(settings)
    loader = Loader(
        lambda: Trust.load(settings), threads=threads, max_pixels=settings.max_pixels, tuned=settings.home / "tuned",
        rules=rules, warn=warn,
    )  # fmt: skip
    bounds = limits or _bounds(settings, 1 if place is None else place.count)
    policy, ledger, metrics = Policy.load(settings), Ledger.open(settings), Metrics()
    recorder = Recorder(ledger, metrics.committed)
    registry = Registry(loader, budget=memory.budget, pinned=memory.pinned)
    shelf, jobs, splits = Shelf(settings), Jobs(settings), Splits(settings)
    shelf.sweep()
    changes = Changes(registry, folders, shelf=shelf, splits=splits, record=recorder.record, warn=warn)
    try:
        changes.start()
        registry.load_at_start()
    except MedServeError:
        registry.close()
        raise
    for name in policy.check_models(service.model.name for service in registry.services):
        warn(f"policy.yaml names the model {name!r} under tenants, which is not served here.")
    if not registry.services:
        warn("There is no model yet: upload one and let it be published, or start again with --models DIR")
    cases = Cases(settings)
    if settings.passphrase_file is not None or settings.pkcs11_module is not None:
        _ = cases.vault  # a wrong passphrase or PIN is told now, not to the first who sends a case
    identity = Identity(ring, Sessions.open(settings))
    shared = database(settings)
    siblings = None if place is None else Siblings(place, metrics.text)
    parts = Parts(settings, registry, identity, ledger, policy, cases, shelf, jobs, metrics, splits, shared, siblings)
    batches = Batches(settings, cases)
    runner = Runner(settings, batches, registry, ledger, policy, cases, identity)
    witness = Witness.open(settings)
    if rules.envelope is None:
        warn(f"The rules of safety cannot be read, so every review of them is refused: {rules.why}")
    doors = [*(router(parts) for router in DOORS), batches_door.router(parts, batches, runner),
             safety_door.router(rules, witness)]  # fmt: skip
    application = Application(
        registry, identity, policy=policy, recorder=recorder, ledger=ledger, cases=cases,
        witness=witness, limits=bounds, doors=doors,
        closing=(shelf.close, jobs.close, splits.close, shared.dispose, ledger.close, tracing.close),
        metrics=metrics, tracing=tracing,
        running=(changes.follow, runner.follow, trimmed, *(() if siblings is None else (siblings.listen,))),
        reload=changes.reload,
    )  # fmt: skip
    runner.gate = application.gate
    return application


def _bounds(settings: Settings, replicas: int) -> Limits:
    """Of one of so many processes that share the memory of a machine."""
    most = settings.max_upload_bytes
    return Limits(max_upload_bytes=most, max_inflight_bytes=max(most, Limits().max_inflight_bytes // replicas))


def serve(
    settings: Settings,
    folders: Sequence[Path],
    address: Address,
    *,
    threads: int = 0,
    memory: Keep = Keep(),
    tls: Tls | None = None,
    behind_proxy: bool = False,
    jobs: int = 1,
    grpc_port: int | None = None,
    place: Place | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    on_grpc: Callable[[str], None] = lambda address: None,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        jobs: how many run at once, where there is a folder of data for them; 0: none here.
        grpc_port: for Open Inference Protocol over gRPC, on the same host; 0 takes a free one, None speaks HTTP alone.
        place: of one of several replicas, with the socket that it answers on; see `cluster.local`.
        on_ready: gets the URL once the service answers. on_grpc: gets the address of gRPC, just before.
        warn: gets what the operator should know: plain HTTP beyond this machine, a self-signed certificate, no key yet.

    Raises: what `build` raises, and Usage "host-without-keys", "host-without-tls", "port-taken", "host-unusable",
            "grpc-missing", and those of `check_settings` and `open_tracing`.
    """
    check_settings(settings, os.environ)
    few_arenas()
    door_of = None if grpc_port is None else _grpc_door()
    ring = KeyRing.open(settings)
    try:
        if caution := check_address(address, ring, tls=tls is not None, behind_proxy=behind_proxy):
            warn(caution)
        if tls is not None and tls.warning:
            warn(tls.warning)
        if not ring.active():
            warn("There is no active API key yet, so every prediction is refused: medserve keys create --name NAME")
        application = build(
            settings, folders, keys=ring, threads=threads, memory=memory, tracing=open_tracing(os.environ),
            place=place, warn=warn,
        )  # fmt: skip
        for service in application.registry.services:
            if isinstance(service.model, LoadedModel):
                warn(f"{service.title} runs on {service.model.engine.choice}.")
            else:
                warn(f"{service.title} is loaded when it is asked for.")
        with contextlib.ExitStack() as stack:
            decode_outside(application, stack, warn, replicas=1 if place is None else place.count)
            if jobs and settings.data_root is not None:
                stack.enter_context(Executor(settings, limit=jobs))
            door = None if door_of is None else door_of(application, address._replace(port=grpc_port or 0), tls=tls)

            def ready(url: str) -> None:
                if door is not None:
                    on_grpc(door.url)
                settle()
                on_ready(url)

            run(application, address, tls=tls, beside=door, sock=None if place is None else place.sock, on_ready=ready)
    finally:
        ring.close()


def _grpc_door() -> "type[GrpcDoor]":
    """Raises: Usage "grpc-missing"."""
    try:
        from medserve.serving.oip.door import GrpcDoor
    except ImportError as error:
        hint = "Install it: pip install 'medserve[grpc]'. Or start without --grpc-port."
        raise Usage("grpc-missing", "gRPC is not installed.", hint=hint) from error
    return GrpcDoor


def decode_outside(
    application: Application, stack: contextlib.ExitStack, warn: Callable[[str], None], *, replicas: int = 1
) -> None:
    """Files that foreign codecs decode are opened in sandboxed workers, while the service runs. replicas: processes
    that share the cores of this machine."""
    crew = stack.enter_context(Crew(0 if replicas == 1 else max(1, (os.cpu_count() or 1) // replicas)))
    stack.enter_context(read_outside(crew))
    kinds = {want.kind for service in application.registry.services for want in service.model.spec.inputs}
    if kinds & {"image", "volume", "waveform"}:
        said = "bubblewrap" if crew.walls == "bubblewrap" else "limits alone; install bubblewrap for walls"
        warn(f"Compressed files are decoded in processes of their own, behind {said}.")
        warming = threading.Thread(target=_warm, args=(crew,), name="warm")
        stack.callback(warming.join)
        warming.start()


def _warm(crew: Crew) -> None:
    with contextlib.suppress(MedServeError):  # the first file will say so
        crew.warm()
