"""The same service in replicas on a Ray cluster.

    serve_on_ray(settings, [Path("out/chest")], Address(), replicas=(1, 8))     # medserve serve --engine ray

A replica builds the very application that `medserve serve` runs, from the folders and the settings that it finds on its
own node: identity, policy, audit, admission and batcher stay in it, and no secret of ours travels through Ray, whose
own ports speak plain text. Of Ray comes what one process cannot do: several replicas, how many, and their replacement.
"""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medserve import guard
from medserve.access.keys import KeyRing
from medserve.app import build, decode_outside
from medserve.cluster.connection import check_nodes, check_switches, connected, own_address, shared, starting
from medserve.errors import Fault, Usage
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.serving.address import Address, check_address
from medserve.serving.asgi import Application, Limits
from medserve.serving.changes import packages_in
from medserve.serving.safety import check_settings
from medserve.serving.server import GRACE_S
from medserve.serving.tls import Tls
from medserve.serving.tracing import open_tracing
from medserve.settings import Settings

NAME = "medserve"
BUSY = 32  # requests under way in one replica, beyond which another one is started
QUEUED = 512  # requests that may wait in Ray where every replica is full


class Replica:
    """One process of the service on some node. Raises: Usage "ray-settings-differ", and what `build` raises."""

    def __init__(
        self, home: str, folders: Sequence[str], threads: int, expected: tuple[str, ...], stamp: float
    ) -> None:
        guard.install(carrier="ray")
        settings = Settings.from_environment(Path(home))
        if shared(settings, own_address()) != expected:
            raise Usage(
                "ray-settings-differ",
                "The settings on this node are not those that the service was started with.",
                hint="Set the same MEDSERVE_* variables before `ray start` on every node; docs/cluster.md.",
            )
        check_settings(settings, os.environ)
        self._around = contextlib.ExitStack()
        self._application = build(
            settings, [Path(folder) for folder in folders], threads=threads, tracing=open_tracing(os.environ)
        )
        decode_outside(self._application, self._around, lambda text: None)

    def __serve_build_asgi_app__(self) -> Application:
        return self._application

    async def check_health(self) -> None:
        """Through the engine: a replica that cannot answer is replaced, however alive its process is."""
        if self._application.registry.services and not await self._application.registry.ready():
            raise RuntimeError("the engine does not answer")

    def __del__(self) -> None:
        if hasattr(self, "_around"):
            self._around.close()


def serve_on_ray(
    settings: Settings,
    folders: Sequence[Path],
    address: Address,
    *,
    replicas: tuple[int, int] = (1, 1),
    cluster: str | None = None,
    threads: int = 0,
    tls: Tls | None = None,
    behind_proxy: bool = False,
    on_ready: Callable[[str], None] = lambda url: None,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve from replicas. On a cluster of its own until SIGTERM or Ctrl-C; on a running one it returns once they
    answer, and the same call again replaces them, each new one before an old one goes.

    Args:
        replicas: fewest and most; (0, 0) takes the service down, after what is under way.
        cluster: address of a running cluster, or "auto"; None starts one on this machine.
        threads: processor threads of one replica; 0 means one.

    Raises: Usage "ray-one-node", "ray-open-ports", "ray-tls-clients", those of `check_address` and `check_settings`;
        BadPackage; Fault "ray-missing", "ray-unreachable", "ray-deploy".
    """
    check_settings(settings, os.environ)
    check_switches(os.environ, behind_proxy=behind_proxy)
    if tls is not None and tls.clients is not None:
        raise Usage("ray-tls-clients", "Ray's proxy cannot ask clients for a certificate.",
                    hint="Put a reverse proxy in front that does: --behind-proxy")  # fmt: skip
    ring = KeyRing.open(settings)
    try:
        if caution := check_address(address, ring, tls=tls is not None, behind_proxy=behind_proxy):
            warn(caution)
        if not ring.active():
            warn("There is no active API key yet, so every prediction is refused: medserve keys create --name NAME")
    finally:
        ring.close()
    for package in [path for folder in folders for path in packages_in(folder) or [folder]]:
        open_package(package, Trust.load(settings))  # told here in our words, not in the log of a replica
    with connected(cluster):
        from ray import serve

        if replicas == (0, 0):
            serve.delete(NAME)
            return
        nodes = check_nodes(settings)
        http = {"host": address.host, "port": address.port, "keep_alive_timeout_s": 30}
        if tls is not None:
            http |= {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
        with starting():
            serve.start(proxy_location="EveryNode" if nodes > 1 else "HeadOnly", http_options=http)
        given = (str(settings.home), [str(folder.absolute()) for folder in folders], threads or 1)
        deployment = _deployment(replicas, threads or 1)
        try:
            with starting():
                serve.run(deployment.bind(*given, shared(settings, own_address()), time.time()), name=NAME)
        except RuntimeError as error:
            raise Fault("ray-deploy", f"No replica could start: {_reason()}",
                        hint="Ray keeps the log of each replica: ray status, and /tmp/ray/session_latest/logs/serve.",
                        ) from error  # fmt: skip
        host = f"[{address.host}]" if ":" in address.host else address.host
        on_ready(f"{'http' if tls is None else 'https'}://{host}:{address.port}")
        if cluster is None:
            _until_told()
            serve.delete(NAME)  # what is under way is finished
            serve.shutdown()


def _deployment(replicas: tuple[int, int], threads: int) -> Any:
    from ray import serve
    from ray.serve.config import BackpressureConfig

    least, most = replicas
    # Ray lets in more than our own admission does, so that it is ours that refuses, in our words and before the body.
    room = Limits().max_requests + 64
    numbers: dict[str, Any] = {"num_replicas": least}
    if most > least:
        numbers = {"autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": BUSY,
                                          "upscale_delay_s": 5, "downscale_delay_s": 300}}  # fmt: skip
    return serve.deployment(
        serve.ingress()(Replica), name=NAME, **numbers, max_ongoing_requests=room, max_queued_requests=QUEUED,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1), max_surge_percent=100,
        graceful_shutdown_timeout_s=GRACE_S, graceful_shutdown_wait_loop_s=1, health_check_period_s=10,
        health_check_timeout_s=30, ray_actor_options={"num_cpus": threads},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )  # fmt: skip


def numbers_of(replicas: str) -> tuple[int, int]:
    """ "2" or "1..8". Raises: Usage "replicas"."""
    found = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", replicas)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if most < least or (least == 0 and most > 0):
        raise Usage(
            "replicas", f"--replicas {replicas[:20]!r} is no number of replicas.", hint="For instance 2 or 1..8"
        )
    return least, most


def _reason() -> str:
    from ray import serve

    found = serve.status().applications[NAME]
    text = " ".join([found.message, *(one.message for one in found.deployments.values())])
    ours = re.findall(r"(?:errors|package|audit|engines)\.\w+: ([^\n]+)", text)
    return (ours or text.strip().splitlines() or ["no reason given"])[-1][:300]


def _until_told() -> None:
    told = threading.Event()
    before = {one: signal.signal(one, lambda *_: told.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not told.wait(1):
            pass
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
