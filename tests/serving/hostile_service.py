"""A service for hostile input: `medserve serve` as its own process with three packages made by hand, and its memory.

with hostile(root) as service:
    service.ask("ward", body, media)          # an httpx2.Response
    service.peak                              # bytes: most resident memory so far, of the server and its workers

film     one picture: PNG, JPEG, DICOM, TIFF, NIfTI
block    one volume: NIfTI, DICOM, TIFF
ward     a record of an age, a note, a history, an ECG and a picture
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import onnx
import psutil
from onnx import TensorProto as T
from onnx import helper as h
from real_server import RealServer
from safetensors.numpy import save_file
from tiny_package import SIDE, spec, write_package

from medserve.access.keys import KeyRing
from medserve.data.fields import Records
from medserve.data.transforms import default_transforms
from medserve.models.package import CARD, GRAPH, MODEL, SELFCHECK, SPLIT, WEIGHTS, seal
from medserve.models.signing import Signer
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.settings import Settings
from medserve.types import Named

PICTURES = ["image/png", "image/jpeg", "application/dicom", "image/tiff", "application/x-nifti"]
WAVES = ["application/dicom", "application/edf", "application/bdf", "application/zip", "text/csv"]
WORDS = ["no", "fever", "cough", "pain", "short", "of", "breath", ".", "since", "days"]
STEP_S = 0.02


def record_spec() -> ModelSpec:
    channel = {"code": "loinc|8867-4", "name": "heart rate", "unit": "/min", "low": 10, "high": 300}
    named = [
        Named("number", {"name": "age", "unit": "a", "low": 0, "high": 120}),
        Named("text", {"name": "note", "length": 16, "words": WORDS}),
        Named("timeline", {"name": "history", "bins": 4, "window_h": 24.0, "channels": [channel]}),
        Named("waveform", {"name": "ecg", "leads": ["I", "II"], "hz": 100.0, "samples": 200, "unit": "mV",
                           "band": [0.5, 40.0], "shortest": 20, "limit": 20.0}),
        Named("image", {"name": "film", "shape": [1, SIDE, SIDE]}),
    ]  # fmt: skip
    blocks = Records.build(named).blocks
    media = {"text": ["text/plain"], "timeline": ["application/fhir+json"], "waveform": WAVES}
    inputs = [
        InputSpec(name=b.name, kind=b.kind, shape=b.shape, media_types=["application/json", *media.get(b.kind, [])])  # type: ignore[arg-type]
        for b in blocks
    ]
    labels = OutputSpec(task="binary", labels=["well", "ill"])
    return ModelSpec(
        name="ward", inputs=inputs, output=labels, transforms=named, architecture=Named("tiny-by-hand"),
        calibration=spec().calibration,
    )  # fmt: skip


def record_graph(width: int) -> bytes:
    """logit = the mean of what is there, squashed."""
    nodes = [
        h.make_node("IsNaN", ["record"], ["gone"]),
        h.make_node("Where", ["gone", "zero", "record"], ["there"]),
        h.make_node("Tanh", ["there"], ["small"]),
        h.make_node("ReduceMean", ["small", "axis"], ["logits"], keepdims=1),
    ]
    initial = [h.make_tensor("zero", T.FLOAT, [], [0.0]), h.make_tensor("axis", T.INT64, [1], [1])]
    inputs = [h.make_tensor_value_info("record", T.FLOAT, ["B", width])]
    outputs = [h.make_tensor_value_info("logits", T.FLOAT, ["B", 1])]
    made = h.make_model(
        h.make_graph(nodes, "ward", inputs, outputs, initial), opset_imports=[h.make_opsetid("", 18)], ir_version=10
    )
    onnx.checker.check_model(made)
    return made.SerializeToString()


def write_records(folder: Path, settings: Settings) -> Path:
    made = record_spec()
    width = made.shape[0]
    folder.mkdir(parents=True)
    rows = Records.build(made.transforms).examples(3)
    logits = np.tanh(np.nan_to_num(rows)).mean(1, keepdims=True).astype(np.float32)
    (folder / MODEL).write_bytes(made.to_json())
    (folder / GRAPH).write_bytes(record_graph(width))
    (folder / CARD).write_text(json.dumps({"name": "ward", "intended_use": "tests"}))
    (folder / SPLIT).write_text('{"rule": "none"}')
    save_file({"unused": np.zeros(1, np.float32)}, folder / WEIGHTS)
    save_file({"record": rows, "logits": logits}, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder


def volume_graph(shape: tuple[int, ...]) -> bytes:
    nodes = [
        h.make_node("Cast", ["image"], ["x"], to=T.FLOAT),
        h.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        h.make_node("Div", ["mean", "full"], ["one"]),
        h.make_node("Reshape", ["one", "flat"], ["logits"]),
    ]
    initial = [h.make_tensor("axes", T.INT64, [4], [1, 2, 3, 4]), h.make_tensor("full", T.FLOAT, [], [255.0]),
               h.make_tensor("flat", T.INT64, [2], [-1, 1])]  # fmt: skip
    inputs = [h.make_tensor_value_info("image", T.UINT8, ["B", *shape])]
    outputs = [h.make_tensor_value_info("logits", T.FLOAT, ["B", 1])]
    made = h.make_model(
        h.make_graph(nodes, "block", inputs, outputs, initial), opset_imports=[h.make_opsetid("", 18)], ir_version=10
    )
    return made.SerializeToString()


def write_block(folder: Path, settings: Settings) -> Path:
    shape = (1, 8, 8, 8)
    made = ModelSpec(
        name="block",
        inputs=[InputSpec(kind="volume", shape=shape, media_types=PICTURES[2:])],
        output=OutputSpec(task="binary", labels=["well", "ill"]),
        transforms=[*default_transforms(shape=shape, colour=False, unit=None)],
        architecture=Named("tiny-by-hand"),
    )
    folder.mkdir(parents=True)
    images = np.stack([np.full(shape, level, np.uint8) for level in (0, 90, 255)])
    (folder / MODEL).write_bytes(made.to_json())
    (folder / GRAPH).write_bytes(volume_graph(shape))
    (folder / CARD).write_text(json.dumps({"name": "block", "intended_use": "tests"}))
    (folder / SPLIT).write_text('{"rule": "none"}')
    save_file({"unused": np.zeros(1, np.float32)}, folder / WEIGHTS)
    logits = images.reshape(3, -1).mean(1, dtype=np.float32)[:, None] / np.float32(255)
    save_file({"image": images, "logits": logits}, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder


def write_film(folder: Path, settings: Settings) -> Path:
    inputs = [InputSpec(shape=(1, SIDE, SIDE), media_types=PICTURES)]
    return write_package(folder, settings, spec(name="film", inputs=inputs, ood=None))


class Service:
    """A running service, asked with a key of the role `service`."""

    def __init__(self, server: RealServer, key: str) -> None:
        self.server, self.key = server, key
        self.http = httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=30)
        self.peak = 0
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    def ask(self, model: str, body: bytes, media: str, query: str = "") -> httpx2.Response:
        headers = {"content-type": media}
        return self.http.post(f"/v1/models/{model}/predict{query}", content=body, headers=headers)

    @property
    def resident(self) -> int:
        """Bytes, of the server and all that it started."""
        top = psutil.Process(self.server.pid)
        total = 0
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    @property
    def stderr(self) -> str:
        return (self.server.root / "log" / "stderr").read_text()

    def _sample(self) -> None:
        while not self._stop.wait(STEP_S):
            with contextlib.suppress(psutil.Error):
                self.peak = max(self.peak, self.resident)

    def close(self) -> None:
        self._stop.set()
        self._watch.join()
        self.http.close()


@contextlib.contextmanager
def hostile(root: Path) -> Iterator[Service]:
    settings = Settings(home=root / "home")
    folders = [
        write_film(root / "film", settings),
        write_block(root / "block", settings),
        write_records(root / "ward", settings),
    ]
    keys = KeyRing.open(settings)
    key = keys.create("hostile").key
    keys.close()
    server = RealServer(root, folders)
    try:
        server.start()
        service = Service(server, key)
        try:
            yield service
        finally:
            service.close()
            server.stop()
    finally:
        server.close()
