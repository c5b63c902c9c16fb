"""`medserve serve`: the trained models answer over HTTP."""

import json as json_text
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings


def serve(
    *,
    models: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    grpc_port: Annotated[int | None, Parameter(validator=Number(gte=0, lte=65535))] = None,
    threads: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    memory_budget: str | None = None,
    pin: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    tls: Literal["self-signed"] | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_clients: Path | None = None,
    behind_proxy: Annotated[bool, Parameter(negative=())] = False,
    jobs: Annotated[int, Parameter(validator=Number(gte=0, lte=64))] = 1,
    engine: Literal["local", "ray"] = "local",
    replicas: str = "1",
    ray_address: str | None = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Answer over HTTP with one or more trained models, until Ctrl-C or SIGTERM.

    Closed by default: every address but /v2/health asks for an API key (medserve keys create). Only this machine can
    reach it unless --host says otherwise; then it wants TLS, or your word that a reverse proxy with TLS is in front.

    Parameters
    ----------
    models
        Folders that `medserve train` wrote, or folders of such folders; SIGHUP looks for new and removed ones. Of two
        versions of one name, the later one answers under the bare name, unless `medserve traffic` says otherwise.
        Packages that were uploaded and published are served beside them, or alone.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one.
    grpc_port
        Port of Open Inference Protocol over gRPC, on the same host; 0 takes a free one. Without it there is no gRPC.
    threads
        Processor threads for one model's pass; 0 means all cores, or a replica's share of them.
    memory_budget
        What the engines may take together, for instance 2GiB; those that do not fit are loaded when they are asked
        for, and the ones that were longest unused make room. Left out, all of them are loaded at the start.
    pin
        Names of models that always stay in memory.
    tls
        self-signed: a certificate of this machine's own, for the first day.
    tls_cert
        PEM file of your certificate, with its chain.
    tls_key
        PEM file of its private key, readable by you alone.
    tls_clients
        PEM file of an authority: only clients with a certificate of it may connect (mutual TLS).
    behind_proxy
        A reverse proxy with TLS stands in front of this address.
    jobs
        Training and evaluation jobs that run here at once, where MEDSERVE_DATA_ROOT names data for them; 0: none.
    engine
        ray: in replicas on a Ray cluster, the same service in each (docs/cluster.md).
    replicas
        Processes of the service on this one port, for light models as many as there are cores (docs/cluster.md). With
        --engine ray: how many, or MIN..MAX by load; 0 with --ray-address takes the service down.
    ray_address
        A running cluster, for instance auto; then the command returns once the replicas answer, and given again it
        replaces them without a failed request. Left out, a cluster of this machine's own lives as long as the command.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print one JSON object with the address, once the service is ready.
    """
    from medserve.serving.address import Address
    from medserve.serving.tls import Tls

    progress = Progress(quiet=False)
    settings = Settings.from_environment(home)
    secured = None
    if tls is not None and (tls_cert is not None or tls_key is not None):
        raise Usage(
            "tls-twice", "Both --tls self-signed and a certificate of your own were given.", hint="Leave one out."
        )
    if tls_cert is not None:
        secured = Tls.of(tls_cert, tls_key, tls_clients)
    elif tls is not None:
        secured = Tls.self_signed(settings, [host], tls_clients)
    elif tls_key is not None or tls_clients is not None:
        raise Usage("tls-file", "A key without a certificate.", hint="Name it: --tls-cert FILE")

    budget = None if memory_budget is None else _bytes(memory_budget)
    grpc: dict[str, str] = {}

    def ready(url: str) -> None:
        if json:
            said = {"url": url, "models": [str(folder) for folder in models or []], **grpc}
            sys.stdout.write(json_text.dumps(said) + "\n")
            sys.stdout.flush()
        else:
            progress.say(f"Ready: {url}{', gRPC: ' + grpc['grpc'] if grpc else ''}  (stop with Ctrl-C)")

    if engine == "ray":
        from medserve.cluster.replicas import numbers_of, serve_on_ray

        serve_on_ray(
            settings, models or [], Address(host, port), replicas=numbers_of(replicas), cluster=ray_address,
            threads=threads, tls=secured, behind_proxy=behind_proxy, on_ready=ready, warn=progress.say,
        )  # fmt: skip
        return
    common: dict[str, Any] = {
        "threads": threads, "tls": secured, "behind_proxy": behind_proxy, "jobs": jobs, "grpc_port": grpc_port,
        "on_ready": ready, "on_grpc": lambda address: grpc.update(grpc=address), "warn": progress.say,
    }  # fmt: skip
    if replicas != "1":
        from medserve.cluster.local import count_of, serve_local

        if (count := count_of(replicas)) > 1:
            serve_local(
                settings, models or [], Address(host, port), replicas=count, budget=budget, pinned=pin or (), **common
            )
            return
    from medserve.app import Keep
    from medserve.app import serve as serve_forever

    serve_forever(settings, models or [], Address(host, port), memory=Keep(budget, tuple(pin or ())), **common)


def _bytes(text: str) -> int:
    """`2GiB`, `512 MiB`, or a whole number of bytes."""
    found = re.fullmatch(r"([0-9]{1,15})\s*(KiB|MiB|GiB|TiB)?", text.strip())
    if found is None or not int(found[1]):
        raise Usage("memory-budget", f"{text[:40]!r} is no amount of memory.", hint="For instance --memory-budget 2GiB")
    return int(found[1]) * 1024 ** ("", "KiB", "MiB", "GiB", "TiB").index(found[2] or "")
