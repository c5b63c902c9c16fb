"""Contestants: how each is started, what it is asked, how its answer is read, and how it is put to sleep.

    server = Server(Litserve(kind="row"), setup, knobs)
    with server: ...                  # started, awake, answering with right numbers
        server.sleep(); server.wake()   # SIGSTOP and SIGCONT to all of its processes

All but the one under test sleep, so that nobody's idle work is in anybody's block.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .load import Ask, worst_gap
from .machine import tree
from .models import Made
from .venvs import PEERS, environment

HERE = Path(__file__).parent / "peers"
TOLERANCE = {"onnx": 1e-3, "torch": 5e-3}  # of a logit
START_S = 90.0


@dataclass(frozen=True)
class Case:
    """One input in the forms that servers take, and the logits that are right. row: by name; image: a file."""

    logits: list[float]
    row: dict[str, float] = field(default_factory=dict)
    image: bytes = b""
    media: str = "image/png"


@dataclass(frozen=True)
class Knobs:
    wait_ms: float = 0.0
    batch: int = 16

    def __str__(self) -> str:
        return f"wait {self.wait_ms:g} ms, batch {self.batch}"


@dataclass(frozen=True)
class Setup:
    """What all contestants of a lane have in common."""

    work: Path
    made: Made
    cases: Sequence[Case]
    kind: str  # row | image
    threads: int = 1
    engine: str = "onnx"


def _scores(read: Callable[[Any], Any]) -> Callable[[bytes, list[float]], float]:
    def check(body: bytes, wanted: list[float]) -> float:
        found = read(json.loads(body))
        found = found if isinstance(found, list) else [found]
        return max(abs(a - b) for a, b in zip(found, wanted, strict=True))

    return check


SCORES = _scores(lambda d: d["scores"])


@dataclass(frozen=True)
class Wire:
    """path, media type and body of a case for one peer; read: its answer -> logits."""

    form: Callable[[Case], tuple[str, str, bytes]]
    check: Callable[[bytes, list[float]], float]
    command: Callable[[str, Path], list[str]]  # (interpreter, folder of its own)
    batches: bool = True


def _multipart(name: str, case: Case) -> tuple[str, bytes]:
    mark = "5f0c1e"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\nContent-Type: {case.media}\r\n\r\n'
    )
    return f"multipart/form-data; boundary={mark}", head.encode() + case.image + f"\r\n--{mark}--\r\n".encode()


def _named(case: Case) -> bytes:
    return json.dumps({"inputs": case.row}).encode()


JSON = "application/json"


def _litserve(case: Case) -> tuple[str, str, bytes]:
    return ("/predict", JSON, _named(case)) if case.row else ("/predict", *_multipart("image", case))


def _bentoml(case: Case) -> tuple[str, str, bytes]:
    if case.row:
        return "/classify", JSON, json.dumps({"rows": [case.row]}).encode()
    return "/classify", *_multipart("images", case)


def _mosec(case: Case) -> tuple[str, str, bytes]:
    return ("/inference", JSON, _named(case)) if case.row else ("/inference", case.media, case.image)


def _ray(case: Case) -> tuple[str, str, bytes]:
    return ("/", JSON, _named(case)) if case.row else ("/", case.media, case.image)


def _fastapi(case: Case) -> tuple[str, str, bytes]:
    return ("/row", JSON, _named(case)) if case.row else ("/image", case.media, case.image)


def _kserve(case: Case) -> tuple[str, str, bytes]:
    path = "/v1/models/m:predict"
    if case.row:
        return path, JSON, json.dumps({"instances": [list(case.row.values())]}).encode()
    return path, case.media, case.image


def _mlserver(case: Case) -> tuple[str, str, bytes]:
    import base64

    if case.row:
        tensor: dict[str, Any] = {"name": "record", "shape": [1, len(case.row)], "datatype": "FP32"}
        tensor["data"] = list(case.row.values())
    else:
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        tensor["data"] = [base64.b64encode(case.image).decode()]
    return "/v2/models/m/infer", JSON, json.dumps({"inputs": [tensor]}).encode()


def _script(name: str) -> Callable[[str, Path], list[str]]:
    return lambda python, folder: [python, str(HERE / f"{name}_server.py")]


def _mosec_command(python: str, folder: Path) -> list[str]:
    return [python, str(HERE / "mosec_server.py"), "--port", "PORT", "--address", "127.0.0.1", "--log-level", "warning",
            "--timeout", "30000"]  # fmt: skip


def _bentoml_command(python: str, folder: Path) -> list[str]:
    return [str(Path(python).parent / "bentoml"), "serve", "bentoml_server:Classifier", "--working-dir", str(HERE),
            "--host", "127.0.0.1", "--port", "PORT"]  # fmt: skip


def _mlserver_command(python: str, folder: Path) -> list[str]:
    return [str(Path(python).parent / "mlserver"), "start", str(folder)]


WIRES = {
    "litserve": Wire(_litserve, SCORES, _script("litserve")),
    "bentoml": Wire(_bentoml, _scores(lambda d: d[0]), _bentoml_command),
    "mosec": Wire(_mosec, SCORES, _mosec_command),
    "mlserver": Wire(_mlserver, _scores(lambda d: d["outputs"][0]["data"]), _mlserver_command),
    "kserve": Wire(_kserve, _scores(lambda d: d["predictions"][0]), _script("kserve"), batches=False),
    "fastapi": Wire(_fastapi, SCORES, _script("fastapi"), batches=False),
    "ray": Wire(_ray, SCORES, _script("ray")),
}


class Server:
    """A process group on a port. asks: its requests, each with its check."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.name, self.setup = name, setup
        self.port = free_port()
        self.asks: list[Ask] = []
        self.pid: int | None = None
        self.folder = setup.work / "run" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tolerance = TOLERANCE[setup.engine]
        self.gap = 0.0

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    def __enter__(self) -> "Server":
        with open(self.folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=self.environment(), cwd=self.folder, start_new_session=True
            )
        self.pid = self._process.pid
        try:
            self._await()
        except BaseException:  # a signal to stop too
            self.close()
            raise
        return self

    def _await(self) -> None:
        """Raises: RuntimeError: no answer in time, or other numbers."""
        end, last = time.monotonic() + START_S, ""
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.gap = worst_gap(self.asks, self.port)
                break
            except (OSError, EOFError, ValueError, KeyError, AssertionError) as error:
                last = f"{type(error).__name__}: {error}"
                time.sleep(0.3)
        else:
            text = (self.folder / "log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self.name} does not answer ({last}):\n{text}")
        if self.gap > self.tolerance:
            raise RuntimeError(f"{self.name} answers other numbers: off by {self.gap:.3g}")

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm(self, times: int) -> None:
        self.gap = max(self.gap, worst_gap(self.asks, self.port, times=times))

    def check(self) -> float:
        """Raises: RuntimeError: the answers are no longer the reference's."""
        self.gap = max(self.gap, worst_gap(self.asks[:4], self.port))
        if self.gap > self.tolerance:
            raise RuntimeError(f"{self.name} answers other numbers: off by {self.gap:.3g}")
        return self.gap

    def sleep(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.pid is not None
        for process in tree(self.pid):
            try:
                process.send_signal(number)
            except psutil.Error:
                continue

    def batch_sizes(self) -> dict[str, int]:
        """Histogram since the start."""
        return {}

    def close(self) -> None:
        if self.pid is None:
            return
        below = tree(self.pid)
        self._signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        for process in below:  # what the first one left behind; all of them our own children
            try:
                process.kill()
            except psutil.Error:
                continue
        self._process.wait(15)
        self.pid = None


class Peer(Server):
    def __init__(self, name: str, setup: Setup, knobs: Knobs = Knobs()) -> None:
        super().__init__(name, setup)
        self.knobs, self._wire = knobs, WIRES[name]
        check = self._wire.check
        self.asks = [
            Ask(*self._wire.form(case), lambda body, wanted=case.logits: check(body, wanted)) for case in setup.cases
        ]

    def command(self) -> list[str]:
        if self.name == "mlserver":
            self._mlserver_files()
        python = str(environment(PEERS[self.name]))
        return [str(self.port) if word == "PORT" else word for word in self._wire.command(python, self.folder)]

    def environment(self) -> dict[str, str]:
        setup = self.setup
        batches = self.folder / "batches.json"
        batches.unlink(missing_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return kept | {
            "MODEL_ONNX": str(setup.made.graph),
            "WEIGHTS": str(setup.made.weights),
            "ENGINE": setup.engine,
            "KIND": setup.kind,
            "FIELDS": json.dumps(list(setup.cases[0].row)),
            "THREADS": str(setup.threads),
            "OMP_NUM_THREADS": str(setup.threads),
            "MAX_BATCH": str(self.knobs.batch),
            "MAX_WAIT_MS": f"{self.knobs.wait_ms:g}",
            "PORT": str(self.port),
            "BATCHES": str(batches),
            "PYTHONPATH": str(HERE),
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        }

    def _mlserver_files(self) -> None:
        settings = {"parallel_workers": 0, "gzip_enabled": False, "debug": False, "http_port": self.port,
                    "grpc_port": free_port(), "metrics_port": free_port(), "host": "127.0.0.1"}  # fmt: skip
        model = {"name": "m", "implementation": "mlserver_server.Classifier", "max_batch_size": self.knobs.batch,
                 "max_batch_time": self.knobs.wait_ms / 1e3}  # fmt: skip
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(model))

    def batch_sizes(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.folder / "batches.json").read_text())
        except OSError:
            return {}
        return found


POLICY = "requests_per_s: 2000"


class Ours(Server):
    """audit: durable (the product as it is) or memory. form: json, image, or tensor (of Open Inference Protocol).
    replicas: processes on the port."""

    def __init__(
        self, setup: Setup, *, audit: str = "durable", name: str = "", home: Path, form: str = "", replicas: int = 1
    ) -> None:
        super().__init__(name or f"medserve-{audit}", setup)
        self.audit, self.home, self.replicas = audit, home, replicas
        self.form = form or ("json" if setup.kind == "row" else "image")
        self._prepare()

    def _prepare(self) -> None:
        from medserve.access.keys import KeyRing
        from medserve.settings import Settings

        settings = Settings(home=self.home)
        import medserve.access

        given = (Path(medserve.access.__file__).parent / "policy.yaml").read_text()
        assert POLICY in given
        settings.folder()
        (self.home / "policy.yaml").write_text(given.replace(POLICY, "requests_per_s: 1000000"))  # one key sends it all
        ring = KeyRing.open(settings)
        self.key = ring.create("benchmark", days=1).key
        ring.close()
        model = self.setup.made.open(settings, threads=1)
        self.asks = [self._ask(case, model) for case in self.setup.cases]

    def _ask(self, case: Case, model: Any) -> Ask:
        auth = (("Authorization", f"Bearer {self.key}"),)
        path = f"/v1/models/{model.name}/predict"
        if self.form == "json":
            body, media = json.dumps({"inputs": case.row}).encode(), JSON
        elif self.form == "image":
            body, media = case.image, case.media
        else:
            tensor = {"name": model.spec.inputs[0].name, "shape": [1, *model.spec.shape], "datatype": "UINT8"}
            tensor["parameters"] = {"binary_data_size": len(case.image)}
            header = json.dumps({"inputs": [tensor], "outputs": [{"name": "probability"}]}).encode()
            auth += (("Inference-Header-Content-Length", str(len(header))),)
            path, body, media = f"/v2/models/{model.name}/infer", header + case.image, "application/octet-stream"
        wanted = _probability(case.logits[0], model)
        return Ask(path, media, body, lambda found: abs(_positive(found, model) - wanted), auth)

    def command(self) -> list[str]:
        script = Path(__file__).parent / "medserve_server.py"
        return [sys.executable, str(script), str(self.home), str(self.port), str(self.setup.threads), self.audit,
                str(self.replicas), str(self.setup.made.folder)]  # fmt: skip

    def warm(self, times: int) -> None:
        for _ in range(1 if self.replicas == 1 else 4 * self.replicas):  # a connection is one replica's
            super().warm(times)

    def environment(self) -> dict[str, str]:
        return os.environ | {"OMP_NUM_THREADS": str(self.setup.threads)}


def _probability(logit: float, model: Any) -> float:
    import math

    calibration = model.spec.calibration
    return 1 / (1 + math.exp(-(logit / calibration.temperature + calibration.shift)))


def _positive(body: bytes, model: Any) -> float:
    """The probability of the second label, of either wire."""
    found = json.loads(body)
    label = model.spec.output.labels[1]
    if "model_version" in found or "model_name" in found:
        values = next(o for o in found["outputs"] if o["name"] == "probability")
        return float(values["data"][-1])
    return float(next(o for o in found["outputs"] if o["label"] == label)["probability"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
