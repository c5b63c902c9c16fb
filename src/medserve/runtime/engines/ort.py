"""ONNX Runtime: the reference. It runs every graph that a package may hold.

session = OnnxRuntime(graph, threads=2)
session = OnnxRuntime(graph, threads=2, engine="onnxruntime-cuda")     # not measured on this version
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from medserve.errors import BadPackage
from medserve.runtime.engine import Unfit
from medserve.types import Array

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


GPU: dict[str, tuple[str, dict[str, str]]] = {  # engine -> its provider and what it is told
    "onnxruntime-cuda": ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", {"trt_engine_cache_enable": "0"}),
}


class OnnxRuntime:
    """A `Session`. A pass computes on the thread that calls it and on `threads - 1` more, which all passes share.

    Args:
        beside: threads of each of several passes side by side; 0: as many. A layer that is not dealt out costs a tenth
            less of the processor. Takes a second copy of the graph.
        engine: "onnxruntime", or one of `GPU`.
        reduced: of TensorRT: bfloat16 where it likes.

    Raises: BadPackage "graph-broken"; Unfit "engine-missing": this ONNX Runtime has no such provider.
    """

    def __init__(
        self, graph: bytes, threads: int, *, engine: str = "onnxruntime", reduced: bool = False, beside: int = 0
    ) -> None:
        import onnxruntime as ort

        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if engine in GPU:
            provider, told = GPU[engine]
            if provider not in ort.get_available_providers():
                raise Unfit("engine-missing", f"This ONNX Runtime has no {provider}.")
            providers.insert(0, (provider, told | ({"trt_bf16_enable": "1"} if reduced else {})))

        def opened(each: int) -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = each
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # a broken graph speaks through the error below
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores free
            return ort.InferenceSession(graph, options, providers=providers)

        try:
            self._session = opened(threads)
            self._beside = opened(beside) if 0 < beside < threads else None
        except Exception as error:  # the engine's own family of errors has no common public base
            raise BadPackage(
                "graph-broken",
                f"The engine cannot load graph.onnx ({type(error).__name__}).",
                hint="Train again, or update onnxruntime.",
            ) from error
        self._running, self._lock = 0, threading.Lock()
        self.inputs = [(i.name, _DTYPES.get(i.type, i.type)) for i in self._session.get_inputs()]
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        if self._beside is None:
            return [np.asarray(value) for value in self._session.run(list(names), feed)]
        with self._lock:
            session = self._beside if self._running else self._session
            self._running += 1
        try:
            return [np.asarray(value) for value in session.run(list(names), feed)]
        finally:
            with self._lock:
                self._running -= 1
