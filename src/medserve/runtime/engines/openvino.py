"""OpenVINO: often the faster engine on processors of Intel and AMD: fp32, bfloat16 where they have it, int8.

    session = OpenVino(graph, threads=2, streams=1, precision="bf16")
    session = OpenVino(graph, threads=2, streams=1, precision="int8", quantised=data)    # see `quantise`

`import openvino` reports itself to its maker over the network (openvino_telemetry). A service for patients does not:
that package is hidden before the import, and OpenVINO then uses the silent stand-in that it ships.
"""

import queue
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from medserve.runtime.engine import Precision, Unfit
from medserve.runtime.engines.split import split
from medserve.types import Array

_HINTS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "int8": ("f32", "INT8")}  # its hint, its capability
_NAMES = {"image", "record", "logits", "distance", "cam"}


class OpenVino:
    """A `Session` with one request object a stream; a caller beyond them waits for a free one.

    In reduced precision the distance is computed beside it, in fp32 (see `split`).

    Raises: Unfit "engine-missing", "engine-precision", "engine-graph".
    """

    def __init__(self, graph: bytes, threads: int, streams: int, precision: Precision, quantised: bytes = b"") -> None:
        ov = load()
        core = ov.Core()
        hint, capability = _HINTS[precision]
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unfit("engine-precision", f"This processor has no instructions for {precision}.")
        wanted = {
            "INFERENCE_PRECISION_HINT": hint,  # unset, OpenVINO takes bf16 on its own where it can
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with decoding and with other models
        }
        try:
            model = core.read_model(graph)
            trunk, tail = (model, None) if precision == "fp32" else split(core, graph)
            self._shift, self._noise = 0.0, 0.0
            if precision == "int8":
                trunk, self._shift, self._noise = _read(core, quantised)
            answer = core.compile_model(trunk, "CPU", wanted)
            exact = tail and core.compile_model(tail, "CPU", wanted | {"INFERENCE_PRECISION_HINT": "f32"})
            self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(streams):
                self._free.put((answer.create_infer_request(), exact and exact.create_infer_request()))
        except RuntimeError as error:
            raise Unfit("engine-graph", f"OpenVINO cannot run this graph: {_reason(str(error))}.") from error
        self.inputs = [(_name(i.names), i.get_element_type().to_dtype().name) for i in model.inputs]
        self.outputs = tuple(_name(output.names) for output in model.outputs)
        self._order = [name for name in self.outputs if tail is None or name != "distance"]

    def run(self, names: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        given = [feed[name] for name, _ in self.inputs]
        pair = self._free.get()
        try:
            request, exact = pair
            request.infer(given, share_inputs=True, share_outputs=True)
            found = {name: request.get_output_tensor(at).data for at, name in enumerate(self._order)}
            if exact is not None and "distance" in names:
                handed = range(len(self._order), len(request.output_tensors))
                more = [request.get_output_tensor(at).data for at in handed]
                exact.infer([*given, *more], share_inputs=True, share_outputs=True)
                distance = exact.get_output_tensor(0).data
                found["distance"] = np.sqrt(np.maximum(distance**2 - self._noise, 0)) if self._noise else distance
            if np.any(self._shift):
                found["logits"] = found["logits"] - self._shift
            return [np.array(found[name]) for name in names]  # the next pass writes over them
        finally:
            self._free.put(pair)


def _read(core: Any, quantised: bytes) -> tuple[Any, Any, float]:
    """The trunk that `quantise` made, its IR in a safetensors file; what rounding adds to logits, and to the square of
    the distance."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpack

    try:
        parts = unpack(quantised)
        trunk = core.read_model(parts["xml"].tobytes(), parts["bin"].tobytes())
        return trunk, parts.get("shift", 0.0), float(parts.get("noise", np.zeros(1)).item())
    except (SafetensorError, KeyError) as error:
        raise Unfit("engine-graph", "The quantised graph is not readable.") from error


def load() -> Any:
    """The package `openvino`, without the part that reports to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise Unfit(
            "engine-missing", "OpenVINO is not installed.", hint="Install it: pip install 'medserve[openvino]'"
        ) from error
    return openvino


def _name(names: set[str]) -> str:
    """Ours, of the several that one tensor may have."""
    return next((name for name in sorted(names) if name in _NAMES), min(names))


def _reason(text: str) -> str:
    """The one line of OpenVINO's report that names the cause."""
    if named := re.search(r"No conversion rule found for operations: (.+)", text):
        return f"it has no operator {named[1].strip()}"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("Exception", "Check"))]
    return (lines[0] if lines else "it does not say why").rstrip(".")[:200]
