"""PyTorch, from the package's weights: what the graph is compared with, and, with a GPU, an engine of its own.

    session = TorchNet(package, threads=2)                                  # eager
    session = TorchNet(package, threads=2, compiled=True)                   # by its compiler for C++ (inductor)
    session = TorchNet(package, threads=2, device="cuda", precision="bf16")

Needs the training extra; nothing of it is imported until such an engine is opened. On a GPU pictures lie channels
last, the network runs in bfloat16 where that was asked while the distance is computed in fp32, and each size of batch
(a power of two, the rest is padding) is captured once as a CUDA graph and replayed. The GPU's side was not measured on
this version: it was written without a GPU at hand, and only its choice and its sizes are tested.
"""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medserve.errors import MedServeError
from medserve.models.package import WEIGHTS, Package
from medserve.runtime.engine import INPUTS, Precision, Unfit
from medserve.types import Array

if TYPE_CHECKING:
    from torch import Tensor

DRIVER = "/dev/nvidia0"
COMPILERS = ("c++", "g++", "clang++")
_WARM = 3  # passes before a capture


class TorchNet:
    """A `Session`. One pass at a time: PyTorch's threads belong to the whole process.

    Raises: Unfit "engine-missing": no torch, no compiler, or no GPU. Unfit "engine-graph": no network of ours.
    """

    def __init__(
        self,
        package: Package,
        threads: int,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        torch = _import()
        if compiled and not any(map(shutil.which, COMPILERS)):
            raise Unfit("engine-missing", "PyTorch's compiler needs a C++ compiler, and there is none.")
        if device == "cuda" and not torch.cuda.is_available():
            raise Unfit("engine-missing", "PyTorch sees no GPU.")
        self._torch, self._device, self._precision = torch, device, precision
        spec = package.spec
        name = "record" if len(spec.shape) == 1 else "image"
        self.inputs = [(name, INPUTS[name])]
        self._shape, self._lock = tuple(spec.shape), threading.Lock()
        if device == "cpu":
            torch.set_num_threads(threads)
        self._net = _open(package)
        self.outputs = self._net.outputs(self._shape)
        self._net.to(device)
        if device == "cuda" and len(self._shape) == 3:
            self._net.to(memory_format=torch.channels_last)
        self._captured: dict[int, tuple[Any, Tensor, dict[str, Tensor]]] = {}
        self._answer = self._compiled() if compiled else self._forward

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        (images,) = feed.values()
        with self._lock, self._torch.inference_mode():
            found = self._on_gpu(images) if self._device == "cuda" else self._answer(self._torch.from_numpy(images))
            return [found[name].float().cpu().numpy() for name in names]

    def _forward(self, images: "Tensor") -> "dict[str, Tensor]":
        """As `ServedNet.forward`, with the network alone in reduced precision."""
        torch, net = self._torch, self._net
        unit = images.float() / 255 if images.dtype == torch.uint8 else images
        with torch.autocast(self._device, torch.bfloat16, enabled=self._precision == "bf16"):
            features = net.net(net.normalise(unit))
        found = {"logits": features.logits}
        if net.ood is not None:
            found["distance"] = net.ood(features.embedding.float(), unit)
        if "cam" in self.outputs:
            found["cam"] = net.cam(features)
        return found

    def _compiled(self) -> Any:
        """Nothing is kept on disk: what lies there would be code of another process."""
        from torch._inductor import config

        config.fx_graph_cache = False
        return self._torch.compile(self._forward, dynamic=True)

    def _on_gpu(self, images: Array) -> "dict[str, Tensor]":
        graph, given, found = self._capture(bucket(len(images)))
        given[: len(images)].copy_(self._torch.from_numpy(images))
        graph.replay()
        return {name: value[: len(images)] for name, value in found.items()}

    def _capture(self, size: int) -> "tuple[Any, Tensor, dict[str, Tensor]]":
        if size not in self._captured:
            torch = self._torch
            dtype = torch.uint8 if self.inputs[0][1] == "uint8" else torch.float32
            given = torch.zeros((size, *self._shape), dtype=dtype, device="cuda")
            if given.ndim == 4:
                given = given.contiguous(memory_format=torch.channels_last)
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM):
                    self._forward(given)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self._forward(given)
            self._captured[size] = graph, given, found
        return self._captured[size]


def bucket(cases: int) -> int:
    """The size of batch that is captured for so many cases: the next power of two."""
    return 1 << max(0, cases - 1).bit_length()


def gpu_here() -> bool:
    """Whether PyTorch is installed and sees a GPU; it is not imported where no driver is loaded."""
    try:
        return Path(DRIVER).exists() and bool(_import().cuda.is_available())
    except Unfit:
        return False


def _import() -> Any:
    try:
        import torch
    except ImportError as error:
        hint = "Install it: pip install 'medserve[train]'"
        raise Unfit("engine-missing", "PyTorch is not installed.", hint=hint) from error
    return torch


def _open(package: Package) -> Any:
    from safetensors.torch import load

    from medserve.models.served import open_served

    try:
        return open_served(package.spec, load(package.path(WEIGHTS).read_bytes()))
    except (MedServeError, OSError, ValueError, ImportError) as error:
        raise Unfit("engine-graph", f"PyTorch has no network for this package ({type(error).__name__}).") from error
