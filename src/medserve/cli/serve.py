"""`medserve serve`: the trained models answer over HTTP."""

import json as json_text
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medserve.progress import Progress
from medserve.settings import Settings


def serve(
    *,
    models: Annotated[list[Path], Parameter(consume_multiple=True, negative=())],
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int = 0,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Answer over HTTP with one or more trained models, until Ctrl-C or SIGTERM.

    Closed by default: every address but /v2/health asks for an API key (medserve keys create). Only this machine can
    reach it unless --host says otherwise; put a reverse proxy with TLS in front of it then.

    Parameters
    ----------
    models
        Folders that `medserve train` wrote. Of two versions of one name, the later one answers under the bare name.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one.
    threads
        Processor threads for one model's pass; 0 means all cores.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print one JSON object with the address, once the service is ready.
    """
    from medserve.app import serve as serve_forever
    from medserve.serving.server import Address

    progress = Progress(quiet=False)

    def ready(url: str) -> None:
        if json:
            sys.stdout.write(json_text.dumps({"url": url, "models": [str(folder) for folder in models]}) + "\n")
            sys.stdout.flush()
        else:
            progress.say(f"Ready: {url}  (stop with Ctrl-C)")

    serve_forever(
        Settings.from_environment(home), models, Address(host, port), threads=threads, on_ready=ready, warn=progress.say
    )
