"""A tiny signed package with a graph made by hand, and a live server, so that serving is tested without training.

The graph can be checked on paper: logit = 10 * (mean - 0.5) of the pixels in [0, 1]; distance = the mean absolute step
between neighbours, so that noise is far and a gradient is near; cam = 10 * (4x4 means - 0.5), whose mean is the logit.
"""

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx2
import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from PIL import Image
from safetensors.numpy import save_file

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.data.transforms import default_transforms
from medserve.models.package import CARD, GRAPH, MODEL, SELFCHECK, SPLIT, WEIGHTS, seal
from medserve.models.signing import Signer
from medserve.models.spec import (
    Calibration,
    Conformal,
    InputSpec,
    Method,
    ModelSpec,
    OperatingPoint,
    OutOfDistribution,
    OutputSpec,
)
from medserve.serving.address import Address, listen
from medserve.serving.asgi import Application, Limits
from medserve.serving.bodies import BodyTiming
from medserve.serving.logs import make_log
from medserve.serving.server import Beside, Server
from medserve.serving.strangers import StrangerLimits
from medserve.serving.tls import Tls
from medserve.settings import Settings
from medserve.types import Named

SIDE = 28


def graph(*, cam: bool = True) -> bytes:
    """The ONNX file, as bytes."""
    half, ten, full = (h.make_tensor(n, T.FLOAT, [], [v]) for n, v in (("half", 0.5), ("ten", 10.0), ("full", 255.0)))
    ints = {"one": [1], "last": [2**31], "zero": [0], "minus": [-1], "axis": [3], "flat": [-1, 1], "line": [-1]}
    nodes = [
        h.make_node("Cast", ["image"], ["raw"], to=T.FLOAT),
        h.make_node("Div", ["raw", "full"], ["x"]),
        h.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        h.make_node("Sub", ["pooled", "half"], ["centred"]),
        h.make_node("Mul", ["centred", "ten"], ["cam"]),
        h.make_node("GlobalAveragePool", ["cam"], ["mean"]),
        h.make_node("Reshape", ["mean", "flat"], ["logits"]),
        h.make_node("Slice", ["x", "one", "last", "axis"], ["right"]),
        h.make_node("Slice", ["x", "zero", "minus", "axis"], ["left"]),
        h.make_node("Sub", ["right", "left"], ["step"]),
        h.make_node("Abs", ["step"], ["size"]),
        h.make_node("GlobalAveragePool", ["size"], ["near"]),
        h.make_node("Reshape", ["near", "line"], ["distance"]),
    ]
    outputs = [
        h.make_tensor_value_info("logits", T.FLOAT, ["B", 1]),
        h.make_tensor_value_info("distance", T.FLOAT, ["B"]),
    ]
    if cam:
        outputs.append(h.make_tensor_value_info("cam", T.FLOAT, ["B", 1, SIDE // 4, SIDE // 4]))
    initial = [half, ten, full, *(h.make_tensor(n, T.INT64, [len(v)], v) for n, v in ints.items())]
    inputs = [h.make_tensor_value_info("image", T.UINT8, ["B", 1, SIDE, SIDE])]
    model = h.make_model(
        h.make_graph(nodes, "tiny", inputs, outputs, initial), opset_imports=[h.make_opsetid("", 18)], ir_version=10
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def logit(images: np.ndarray) -> np.ndarray:
    """What the graph computes, by hand. images: (B, 1, SIDE, SIDE) uint8."""
    return 10 * (images.reshape(len(images), -1).mean(axis=1, dtype=np.float64) / 255 - 0.5)


def spec(name: str = "tiny", version: str = "1", **changes: object) -> ModelSpec:
    """A binary model with a guarantee, a threshold, a scope, and one method of each verdict."""
    values: dict[str, object] = {
        "name": name,
        "version": version,
        "inputs": [InputSpec(shape=(1, SIDE, SIDE), modalities=["CR", "DX"])],
        "output": OutputSpec(task="binary", labels=["normal", "bright"]),
        "transforms": [
            *default_transforms(shape=(1, SIDE, SIDE), colour=False, unit=None),
            Named("normalise", {"mean": [0.5], "std": [0.25]}),
        ],
        "architecture": Named("tiny-by-hand"),
        "calibration": Calibration(
            method="temperature", temperature=2.0, n=200, conformal=Conformal(alpha=0.1, n=200, quantile=0.7)
        ),
        "operating_points": [OperatingPoint(label="bright", threshold=0.4, rule="0.5-unless-better")],
        "ood": OutOfDistribution(threshold=0.15, false_alarm=0.01, n=200),
        "explanations": [
            Method(name="cam", verdict="CAUTION", role="coarse region only"),
            Method(name="occlusion", verdict="PASS", role="primary"),
            Method(name="integrated-gradients", verdict="FAIL", role="not offered"),
        ],
    }
    return ModelSpec(**(values | changes))  # type: ignore[arg-type]


def write_package(
    folder: Path, settings: Settings, model: ModelSpec | None = None, *, wrong: bool = False, limits: Sequence[str] = ()
) -> Path:
    """A whole signed package. `wrong`: its self-check holds outputs that the graph does not give. limits: codes of its
    card."""
    model = spec() if model is None else model
    folder.mkdir(parents=True)
    images = np.stack([np.full((1, SIDE, SIDE), level, np.uint8) for level in (0, 90, 255)])
    logits = logit(images).astype(np.float32)[:, None]
    distance = np.zeros(3, np.float32)
    (folder / MODEL).write_bytes(model.to_json())
    (folder / GRAPH).write_bytes(graph())
    (folder / CARD).write_text(
        json.dumps(
            {
                "name": model.name,
                "intended_use": "tests",
                "limits": [{"code": code, "message": "said"} for code in limits],
            }
        )
    )
    (folder / SPLIT).write_text('{"rule": "none"}')
    save_file({"unused": np.zeros(1, np.float32)}, folder / WEIGHTS)
    save_file({"image": images, "logits": logits + wrong, "distance": distance}, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder


def ramp(low: int = 0, high: int = 255) -> np.ndarray:
    """A picture the model knows: a smooth gradient. (SIDE, SIDE) uint8."""
    return np.repeat(np.linspace(low, high, SIDE).astype(np.uint8)[None], SIDE, axis=0)


def noise(seed: int = 0) -> np.ndarray:
    """A picture unlike any the model knows."""
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def png(values: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, format=kind)
    return out.getvalue()


def dicom(values: np.ndarray, modality: str = "CR", patient: str = "PAT-4711") -> bytes:
    """A minimal uncompressed DICOM file."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = modality, patient, "Doe^Jane"
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, values.tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue()


MANY = StrangerLimits(per_s=1e6, burst=1e6, all_per_s=1e6, all_burst=1e6)  # all tests ask from one address
SMALL = Limits(max_upload_bytes=2 * 2**20, deadline_s=20, timing=BodyTiming(stall_s=0.5), strangers=MANY)


@dataclass
class Running:
    url: str
    port: int
    key: str
    settings: Settings
    application: Application
    log: StringIO

    def http(self, **more: object) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=20, **more)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def line(self, trace: str) -> dict:
        """Of one request; it is written just after the answer has left."""
        until = time.monotonic() + 10
        while not (found := [line for line in self.lines() if line["trace"] == trace]):
            assert time.monotonic() < until
            time.sleep(0.01)
        return found[0]


@contextlib.contextmanager
def serving(
    application: Application, tls: Tls | None = None, beside: Beside | None = None, kind: type[Server] = Server
) -> Iterator[int]:
    """The application on a free loopback port, in a thread. beside: another way in."""
    sock = listen(Address(port=0))
    ready = threading.Event()
    server = kind(application, "", lambda url: ready.set(), tls, beside)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert ready.wait(20)
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def asking(settings: Settings, package: Path, name: str = "chemist") -> Iterator[httpx2.Client]:
    """A client with a key of its own, of a real server that holds one package."""
    ring = KeyRing.open(settings)
    key = ring.create(name).key
    application = build(settings, [package], keys=ring, limits=SMALL, threads=1)
    with (
        serving(application) as port,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=60
        ) as client,
    ):
        yield client
    ring.close()


@contextlib.contextmanager
def live_server(root: Path) -> Iterator[Running]:
    """Versions 1 and 2 of `tiny`, on a free loopback port."""
    settings = Settings(home=root / "home")
    folders = [
        write_package(root / "one", settings, spec(version="1")),
        write_package(root / "two", settings, spec(version="2")),
    ]
    keys = KeyRing.open(settings)
    key = keys.create("tests").key
    application = build(settings, folders, keys=keys, limits=SMALL, threads=1)
    log = StringIO()
    application._log = make_log(log)
    with serving(application) as port:
        yield Running(f"http://127.0.0.1:{port}", port, key, settings, application, log)
    keys.close()


def raw(port: int, data: bytes, *, timeout: float = 10) -> bytes:
    """What the server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(OSError):
            while chunk := sock.recv(65536):
                answer += chunk
        return answer
