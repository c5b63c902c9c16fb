"""ONNX Runtime: the reference. It runs every graph that a package may hold.

session = OnnxRuntime(graph, threads=2, streams=1)
"""

from collections.abc import Sequence

import numpy as np

from medserve.errors import BadPackage
from medserve.types import Array

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxRuntime:
    """A `Session`. Its threads are shared by passes that run at once: streams get `threads // streams` each."""

    def __init__(self, graph: bytes, threads: int, streams: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, threads // streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a broken graph speaks through the error below
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores free
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the engine's own family of errors has no common public base
            raise BadPackage(
                "graph-broken",
                f"The engine cannot load graph.onnx ({type(error).__name__}).",
                hint="Train again, or update onnxruntime.",
            ) from error
        self.inputs = [(i.name, _DTYPES.get(i.type, i.type)) for i in self._session.get_inputs()]
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        return [np.asarray(value) for value in self._session.run(list(names), feed)]
