"""A package's graph as an executable on this machine's processor: one face, several engines behind it.

    engine = Engine(read_graph(path), shape=(1, 224, 224), width=1)
    scores = engine.score(images)              # images: (B, C, H, W) uint8; records: (B, F) float32
    scores = engine.score(images, cam=True)    # class activation maps of the same pass
    faster = Engine(graph, shape=shape, width=1, choice=Choice(engine="openvino", precision="bf16"))

ONNX Runtime is the default and always there; OpenVINO is an extra. Which one is fastest, and whether bfloat16 or int8
may be used, `medserve tune` finds out (see `tuner`). Long batches run in several passes, so that memory stays bounded.
No training framework is imported.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, Protocol

import msgspec
import numpy as np

from medserve.errors import BadPackage, Fault
from medserve.models.package import Package
from medserve.types import Array, Scores

EngineName = Literal[
    "onnxruntime", "openvino", "torch", "inductor", "torch-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt"
]
Precision = Literal["fp32", "bf16", "int8"]
INPUTS = {"image": "uint8", "record": "float32"}
TITLES: dict[str, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "inductor": "PyTorch compiled",
    "torch-cuda": "PyTorch CUDA",
    "onnxruntime-cuda": "ONNX Runtime CUDA",
    "onnxruntime-tensorrt": "ONNX Runtime TensorRT",
}
_ORT, _TORCH = ("onnxruntime", "onnxruntime-gpu"), ("torch",)
_SHIPPED: dict[str, tuple[str, ...]] = {  # engine -> the distributions that may bring it
    "onnxruntime": _ORT, "onnxruntime-cuda": _ORT[1:], "onnxruntime-tensorrt": _ORT[1:], "openvino": ("openvino",),
    "torch": _TORCH, "inductor": _TORCH, "torch-cuda": _TORCH,
}  # fmt: skip
LARGE_GRAPH, LARGE_BATCH = 2**25, 8  # bytes; attention over 512 pieces of a text takes 12 MB a layer
PIXELS = 64 * 64 * 64  # of one pass: bounds the memory of its activations; 64 pictures of 64x64, 5 of 224x224


class Choice(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a graph is run.

    streams: passes that run side by side, each on its share of the threads. batch: most cases of one pass; 0 leaves
    it to the size of the input. shared (ONNX Runtime): a lone pass has all threads; of several side by side each has
    the one that calls it, and they share what is left. second: what lies near a limit is scored again by the reference
    (see `second`).
    """

    engine: EngineName = "onnxruntime"
    precision: Precision = "fp32"
    streams: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    batch: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    shared: bool = False
    second: bool = False

    def __str__(self) -> str:
        return f"{TITLES[self.engine]} {self.precision}{' with a second look' if self.second else ''}"


DEFAULT = Choice()
_AGAIN = "Ask again; if it stays, load the model anew or tune it again."
OVERLAP = 2  # passes at least where they share the threads: while one waits for Python, another one computes


class Unfit(Fault):
    """This engine, or this precision, cannot run this graph on this machine; another one can."""


class Session(Protocol):
    """What an engine must give. `run` may be called from several threads at once.

    inputs: (name, numpy dtype) of each. outputs: their names. threads: of one pass.
    """

    inputs: list[tuple[str, str]]
    outputs: tuple[str, ...]

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]: ...


class Engine:
    """One loaded graph. `score` releases the interpreter lock while it runs and may be called from any thread.

    Args:
        graph: bytes of a self-contained ONNX file (see `graphfile.read_graph`). Passing bytes, not a path, leaves the
            engine no folder to look for other files in.
        shape: (C, H, W) or (C, D, H, W) of one picture, (F,) of one record.
        width: columns of the logits.
        threads: processor threads of all streams together; 0 means all cores.
        quantised: for int8, what `quantise` made of this graph for this engine.
        package: for PyTorch, which takes the weights and not the graph.

    Raises: BadPackage "graph-broken", "graph-signature"; Unfit "engine-missing", "engine-precision", "engine-graph".
    """

    def __init__(
        self,
        graph: bytes,
        *,
        shape: tuple[int, ...],
        width: int,
        threads: int = 0,
        choice: Choice = DEFAULT,
        quantised: bytes = b"",
        package: Package | None = None,
    ) -> None:
        self.shape, self.width, self.choice = tuple(shape), width, choice
        self.second: Callable[[Array, Scores, bool], Scores] | None = None
        self.max_batch = choice.batch or default_batch(self.shape, len(graph))
        self._session = _open(graph, threads or os.cpu_count() or 1, choice, quantised, package)
        self.outputs = self._session.outputs
        self.input = "record" if len(self.shape) == 1 else "image"
        wanted = INPUTS[self.input]
        self._dtype = np.dtype(wanted)
        if self._session.inputs != [(self.input, wanted)] or "logits" not in self.outputs:
            raise BadPackage(
                "graph-signature", f"graph.onnx must take one {wanted} tensor named {self.input!r} and give 'logits'."
            )

    @property
    def on_caller(self) -> bool:
        """Whether a pass computes on the thread that calls it, with others or alone."""
        return self.choice.engine in ("onnxruntime", "torch", "inductor")

    @property
    def has_cam(self) -> bool:
        return "cam" in self.outputs

    def score(self, images: Array, *, cam: bool = False) -> Scores:
        """Raw scores of a batch.

        Args:
            images: (B, *shape) as the package's transforms leave them: uint8 pictures or float32 records; long
                batches run in several passes, side by side where there are several streams.
            cam: also compute the class activation maps, where the graph has them.

        Raises: Fault "engine-failed": the engine broke on this batch, or a score is not finite.
        """
        if images.dtype != self._dtype or images.shape[1:] != self.shape:
            raise Fault("engine-input", f"The engine takes (B, {', '.join(map(str, self.shape))}) {self._dtype}.")
        scores = self._scores(images, cam)
        return scores if self.second is None else self.second(images, scores, cam)

    def _scores(self, images: Array, cam: bool) -> Scores:
        parts = [images[at : at + self.max_batch] for at in range(0, len(images), self.max_batch)] or [images]
        if min(len(parts), self.choice.streams) == 1:
            return Scores.concat([self._pass(part, cam) for part in parts])
        with ThreadPoolExecutor(self.choice.streams) as pool:
            return Scores.concat(list(pool.map(lambda part: self._pass(part, cam), parts)))

    def _pass(self, images: Array, cam: bool) -> Scores:
        names = ["logits"]
        names += ["distance"] if "distance" in self.outputs else []
        names += ["cam"] if cam and self.has_cam else []
        try:
            values = self._session.run(names, {self.input: np.ascontiguousarray(images)})
        except Exception as error:
            raise Fault(
                "engine-failed", f"The engine could not run the model ({type(error).__name__}).", hint=_AGAIN
            ) from error
        found = dict(zip(names, values, strict=True))
        logits = np.asarray(found["logits"], np.float32).reshape(len(images), -1)
        if logits.shape[1] != self.width or not np.isfinite(logits).all():
            raise Fault(
                "engine-failed",
                "The model gave scores that are not finite, or not of its declared width.",
                hint=_AGAIN,
            )
        distance = found.get("distance")
        distance = None if distance is None else np.asarray(distance, np.float32).reshape(len(images))
        return Scores(logits, distance, found.get("cam"))


def default_batch(shape: Sequence[int], graph_bytes: int = 0) -> int:
    """Most cases of one pass, by the size of one input and of the graph."""
    most = max(1, min(64, PIXELS // max(1, int(np.prod(shape[1:])))))
    return min(most, LARGE_BATCH) if graph_bytes > LARGE_GRAPH else most


def usual(shape: Sequence[int], graph_bytes: int, threads: int) -> Choice:
    """What runs a graph that the tuner has not measured here.

    Large pictures pass one by one, several at once: they gain nothing from a common pass, and lose the time in which
    it is put together. One a thread, and no more than one pass would have held, so that the memory is the same.
    """
    together = default_batch(shape, graph_bytes)
    if len(shape) != 3 or not 1 < together <= LARGE_BATCH:
        return DEFAULT
    return Choice(streams=min(max(OVERLAP, threads or os.cpu_count() or 1), together), batch=1, shared=True)


def versions() -> dict[str, str]:
    """The installed engines, and their versions."""
    found = {}
    for engine, distributions in _SHIPPED.items():
        for name in distributions:
            with contextlib.suppress(PackageNotFoundError):
                found[engine] = version(name)
                break
    return found


def _open(graph: bytes, threads: int, choice: Choice, quantised: bytes, package: Package | None) -> Session:
    if choice.precision == "int8" and not quantised:
        raise Unfit("int8-no-data", "There is no quantised graph: it is made from cases of the training part.")
    if choice.engine == "openvino":
        from medserve.runtime.engines.openvino import OpenVino

        return OpenVino(graph, threads, choice.streams, choice.precision, quantised)
    if choice.engine in ("torch", "inductor", "torch-cuda"):
        from medserve.runtime.engines.torch_net import TorchNet

        if package is None or (choice.precision != "fp32" and choice.engine != "torch-cuda"):
            raise Unfit(
                "engine-precision", f"PyTorch runs a package's network here in fp32, not in {choice.precision}."
            )
        device, compiled = "cuda" if choice.engine == "torch-cuda" else "cpu", choice.engine == "inductor"
        return TorchNet(package, threads, device=device, precision=choice.precision, compiled=compiled)
    from medserve.runtime.engines.ort import OnnxRuntime

    reduced = choice.precision == "bf16"
    if reduced and choice.engine != "onnxruntime-tensorrt":
        raise Unfit("engine-precision", f"ONNX Runtime runs the graph in fp32 or int8, not in {choice.precision}.")
    data = quantised if choice.precision == "int8" else graph
    each = threads if choice.shared else max(1, threads // choice.streams)
    beside = max(1, threads - choice.streams + 1) if choice.shared else 0
    return OnnxRuntime(data, each, engine=choice.engine, reduced=reduced, beside=beside)
