"""A real Ray cluster on loopback, as `ray start` makes it: processes of its own, gone at the end for certain.

with ray_cluster() as address:            # "127.0.0.1:PORT"
    status(address)                       # what Ray Serve says of our service
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0", "OMP_NUM_THREADS": "1",
       "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # fmt: skip
_STATUS = """
import json, logging, sys
import ray
from ray import serve
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
app = serve.status().applications.get("medserve")
one = app and app.deployments["medserve"]
print(json.dumps({"app": app and str(app.status), "replicas": dict(one.replica_states) if one else {}}))
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def ray_cluster(cpus: int = 6) -> Iterator[str]:
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))  # a socket's path is short
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
               "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--object-store-memory=100000000",
               "--include-dashboard=false", f"--temp-dir={folder}", "--disable-usage-stats"]  # fmt: skip
    with open(folder / "said", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ENV, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in (folder / "said").read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        all_of_it = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for one in all_of_it:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def status(address: str) -> dict:
    """{"app": its state, "replicas": {state: count}}"""
    done = subprocess.run(
        [sys.executable, "-c", _STATUS, address], env=os.environ | ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
