"""A cluster for a while: the one that runs, or one of this machine's own; and what is unsafe on it.

    with connected("auto"):
        check_nodes(settings)

Ray is imported in this folder alone, and only when it is asked for.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store.engines import check_url, place_of

OBJECTS_BYTES = 100 * 2**20  # Ray's own store, which nothing of ours uses
PROXY_S = 30  # for Ray's proxy to start: after three times its own 5 s it is killed, which a busy machine takes
OPEN_SWITCHES = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_THROUGHPUT_OPTIMIZED")


@contextlib.contextmanager
def connected(cluster: str | None, *, quiet: bool = False) -> Iterator[None]:
    """Raises: Fault "ray-missing", "ray-unreachable"."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PROXY_S))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise Fault("ray-missing", "Ray is not installed here.", hint="pip install 'medserve[ray]'") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # A cluster of our own listens on loopback alone: so Ray takes an address of that kind.
    own: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECTS_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    start: Any = ray.init
    try:
        start(address=cluster or "local", log_to_driver=not quiet, logging_level="WARNING",
                 **({} if cluster else own))  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Fault("ray-unreachable", "The Ray cluster does not answer.",
                    hint="Is it up? ray status. Without --ray-address one is started here.") from error  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Raises: Fault "ray-deploy": a part of Ray's own died, or was given up."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise Fault(
            "ray-deploy",
            f"Ray could not start what answers ({type(error).__name__}).",
            hint="On a busy machine that may take longer than it waits: try again, or set "
            f"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S above {PROXY_S}.",
        ) from error


def check_nodes(settings: Settings, addresses: Sequence[str] | None = None) -> int:
    """How many machines the cluster has. Raises: Usage "ray-one-node": more than a file can serve."""
    if addresses is None:
        import ray

        addresses = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    count = len(set(addresses))
    if count > 1 and not (settings.database and settings.blobs):
        raise Usage(
            "ray-one-node",
            f"The cluster has {count} machines, and database or blobs are files of one of them.",
            hint="Set MEDSERVE_DATABASE (PostgreSQL) and MEDSERVE_BLOBS (a bucket) on all of them; docs/cluster.md.",
        )
    return count


def check_switches(environ: Mapping[str, str], *, behind_proxy: bool) -> None:
    """Raises: Usage "ray-open-ports": Ray would open each replica's port to every machine, whatever --host says."""
    for name in OPEN_SWITCHES:
        if environ.get(name, "0") not in ("", "0") and not behind_proxy:
            raise Usage(
                "ray-open-ports",
                f"{name} makes Ray open a port of each replica to all machines, without TLS.",
                hint=f"Run: unset {name}. Or add --behind-proxy where a firewall lets the proxy alone reach them.",
            )


def shared(settings: Settings, address: str) -> tuple[str, ...]:
    """What every node must agree on, without a secret. SQLite is a file, so its replicas stay on one node."""
    if settings.database:
        return str(settings.home), place_of(check_url(settings.database)), settings.blobs
    return str(settings.home), "sqlite", address, settings.blobs


def own_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
