"""Training in a worker of a real Ray cluster: the same model, also when its worker is killed on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from medserve.data.phantoms import make_phantoms
from medserve.models.package import Package, open_package
from medserve.models.signing import Trust
from medserve.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ASKED = ["--recipe", "residual-quick", "--epochs", "4", "--audit", "none", "--keep", "recipe", "--seed", "1",
         "--name", "phantom-chest"]  # fmt: skip


def train(data: Path, root: Path, env: dict[str, str], *more: str) -> tuple[Package, str]:
    settings = Settings(home=root / "home")
    command = [sys.executable, "-m", "medserve.cli", "train", str(data), "--out", str(root / "model"),
               "--home", str(settings.home), *ASKED, *more]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return open_package(root / "model", Trust.load(settings)), done.stderr


def test_a_worker_that_is_killed_goes_on_and_gives_the_same_model(tmp_path):
    """SIGKILL to the worker after its first checkpoint; another one finishes, and the digest (weights, preprocessing,
    labels) is that of a local run with the same seed. What the worker says arrives here."""
    pytest.importorskip("ray")
    from real_ray import ENV, ray_cluster

    data = make_phantoms(tmp_path / "phantoms", 120, size=32, seed=3)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    local, _ = train(data, tmp_path / "here", os.environ | ENV)
    killed = []

    def kill() -> None:
        """The worker, as soon as it has kept a checkpoint."""
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            kept = tmp_path / "there" / ".model.training" / "recipe" / "checkpoint.safetensors"
            for one in psutil.process_iter(["name", "cmdline"]) if kept.exists() else ():
                if "".join(one.info["cmdline"] or []).strip().startswith("ray::_train"):
                    os.kill(one.pid, signal.SIGKILL)
                    killed.append(one.pid)
            time.sleep(0.02)

    with ray_cluster() as address:
        killer = threading.Thread(target=kill)
        killer.start()
        cluster, said = train(data, tmp_path / "there", os.environ | ENV, "--engine", "ray", "--ray-address", address)
        killer.join()
    assert killed, "the worker was never seen with a checkpoint"
    assert cluster.digest == local.digest
    assert re.search(r"training [1-9]/", said), said[-2000:]  # its second life went on, not from the start


def test_what_is_wrong_with_the_data_is_told_as_by_a_local_run(tmp_path):
    """The worker's refusal arrives with its code, on a cluster that the command starts for itself."""
    pytest.importorskip("ray")
    from real_ray import ENV

    (tmp_path / "empty").mkdir()
    said = []
    for engine in ("local", "ray"):
        command = [sys.executable, "-m", "medserve.cli", "train", str(tmp_path / "empty"), "--out",
                   str(tmp_path / engine), "--home", str(tmp_path / "home"), "--json", "--engine", engine]  # fmt: skip
        done = subprocess.run(command, env=os.environ | ENV, capture_output=True, text=True, timeout=120, check=False)
        said.append((done.returncode, json.loads(done.stdout.splitlines()[-1])["error"]["code"]))
    assert said[0] == said[1] and said[0][0]
