"""A package's graph in eight-bit integers, for one engine, made on this machine from cases of its training part.

    quantiser = Quantiser(graph, inputs)                # inputs: (N, *shape), as they enter the graph
    data = quantiser.of("openvino")
    Engine(graph, ..., choice=Choice("openvino", "int8"), quantised=data)

Static quantisation needs the range of every activation, taken here from cases of the *training* part, so that the
calibration part, on which the accuracy gate judges, stays unseen. What only the distance to the training data needs
stays in fp32 (see `engines.split`): eight bits would turn it into noise. OpenVINO's form is made by NNCF, and knows by
how much rounding moves every answer alike, which is taken off again; ONNX Runtime's by its own quantiser: QDQ with a
scale a channel where there are convolutions, else matrices whose activations are scaled pass by pass. Nothing of it is
code or pickle: IR in a safetensors file, or ONNX.
"""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medserve.errors import BadPackage
from medserve.runtime.engine import Precision, Unfit
from medserve.runtime.engines import openvino as ov_engine
from medserve.runtime.graphfile import check_graph
from medserve.runtime.tuned import cores
from medserve.types import Array

RANGES = 300  # cases of the training part, at most
PASS = 16  # cases of one pass over them
_STATIC = ["Conv", "Add", "Relu", "MaxPool", "AveragePool", "Concat"]  # not the head: it costs nothing and decides
_DYNAMIC = ["MatMul", "Gemm"]
_HEAVY = {"Conv", "MatMul", "Gemm"}
_NOWHERE = io.TextIOWrapper(io.BytesIO(), write_through=True)


class Quantiser:
    """Quantised forms of one graph, each made once. inputs: (N, *shape) of the training part."""

    def __init__(self, graph: bytes, inputs: Array) -> None:
        self._graph, self.inputs = graph, inputs[:RANGES]
        self._made: dict[str, bytes | Unfit] = {}

    def of(self, engine: str) -> bytes:
        """What `Engine` takes as `quantised`.

        Raises: Unfit "engine-missing": NNCF or onnx is not installed. Unfit "int8-no-data", "int8-nothing",
            "int8-failed": this graph cannot be quantised.
        """
        if engine not in self._made:
            try:
                self._made[engine] = self._make(engine)
            except Unfit as error:
                self._made[engine] = error
        found = self._made[engine]
        if isinstance(found, Unfit):
            raise found
        return found

    def _make(self, engine: str) -> bytes:
        if not len(self.inputs):
            raise Unfit("int8-no-data", "Without cases of the training part the range of no activation is known.")
        try:
            with _quiet():
                return (_openvino if engine == "openvino" else _onnxruntime)(self._graph, self.inputs)
        except Unfit:
            raise
        except ImportError as error:
            hint = "Install it: pip install 'medserve[int8]'"
            raise Unfit("engine-missing", f"{error.name or 'A package'} is not installed.", hint=hint) from error
        except Exception as error:  # the quantisers raise whatever their libraries raise
            raise Unfit("int8-failed", f"The graph cannot be quantised ({type(error).__name__}).") from error


def _openvino(graph: bytes, inputs: Array) -> bytes:
    """NNCF on the trunk; the tail that computes the distance is split off again when the engine opens."""
    ov = ov_engine.load()
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    from safetensors.numpy import save

    from medserve.runtime.engines.split import split

    trunk, _ = split(ov.Core(), graph)
    dataset = nncf.Dataset([inputs[at : at + 1] for at in range(len(inputs))])
    ranges = RangeEstimatorParametersSet.MINMAX  # of a film every shade counts; trimmed ranges cost three times as much
    wide = nncf.OverflowFix.DISABLE if has_vnni() else nncf.OverflowFix.FIRST_LAYER
    advanced = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges, overflow_fix=wide)
    more: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER}
    convolutions = [op for op in trunk.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    if convolutions:  # the first layer and the head are kept: they cost little and decide
        first = convolutions[0].get_friendly_name()
        kept = nncf.IgnoredScope(names=[first], types=["MatMul"], validate=False)
        more = {"ignored_scope": kept, "preset": nncf.QuantizationPreset.MIXED}
    made = nncf.quantize(trunk, dataset, subset_size=len(inputs), advanced_parameters=advanced, **more)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "trunk.xml"
        ov.save_model(made, str(path), compress_to_fp16=False)
        parts = {name: np.frombuffer(path.with_suffix(f".{name}").read_bytes(), np.uint8) for name in ("xml", "bin")}
    return save(parts | _drift(graph, save(parts), inputs))


def _drift(graph: bytes, quantised: bytes, inputs: Array) -> dict[str, Array]:
    """What rounding does to every answer alike, so that the engine can take it off again: "shift" of each logit, its
    median over the cases; "noise", what it adds to the square of the distance, since its errors are independent of
    where the case lies and add up in squares."""
    found: list[dict[str, Array]] = []
    pair: tuple[tuple[Precision, bytes], ...] = (("fp32", b""), ("int8", quantised))
    for precision, data in pair:
        session = ov_engine.OpenVino(graph, cores(), 1, precision, data)
        names = [name for name in ("logits", "distance") if name in session.outputs]
        parts = [inputs[at : at + PASS] for at in range(0, len(inputs), PASS)]
        rows = [session.run(names, {session.inputs[0][0]: part}) for part in parts]
        found.append({name: np.concatenate([row[at] for row in rows]) for at, name in enumerate(names)})
    exact, rounded = found
    out = {"shift": np.median(rounded["logits"] - exact["logits"], axis=0).astype(np.float32)}
    if "distance" in exact:
        noise = np.median(np.square(rounded["distance"]) - np.square(exact["distance"]))
        out["noise"] = np.maximum(noise, 0.0).astype(np.float32).reshape(1)
    return out


def _onnxruntime(graph: bytes, inputs: Array) -> bytes:
    import onnx
    from onnxruntime import quantization as q

    model = onnx.load_from_string(graph)
    for at, node in enumerate(model.graph.node):
        node.name = f"n{at}"  # the quantiser knows nodes by name
    beside = _beside(model.graph)
    kinds = {node.op_type for node in model.graph.node if node.name not in beside}
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "int8.onnx"
        if "Conv" in kinds:
            q.quantize_static(
                model, str(out), _Reader(model.graph.input[0].name, inputs), quant_format=q.QuantFormat.QDQ,
                op_types_to_quantize=_STATIC, nodes_to_exclude=sorted(beside | _light(model.graph)), per_channel=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                extra_options={"QDQDisableWeightAdjustForInt32Bias": True, "QDQKeepRemovableActivations": True},
            )  # fmt: skip
        elif kinds & set(_DYNAMIC):
            q.quantize_dynamic(
                model, str(out), op_types_to_quantize=_DYNAMIC, nodes_to_exclude=sorted(beside), per_channel=True,
                weight_type=q.QuantType.QInt8,
            )  # fmt: skip
        else:
            raise Unfit("int8-nothing", "The graph has no convolution or matrix that could be quantised.")
        made = onnx.load(str(out))
    _keep_exact(made.graph, beside)
    data: bytes = made.SerializeToString()
    try:
        check_graph(data)
    except BadPackage as error:
        raise Unfit("int8-failed", error.message) from error
    return data


def has_vnni() -> bool:
    """Whether sums of eight-bit products have room in this processor's instructions; else weights get seven bits."""
    try:
        return re.search(r"\b(avx512_vnni|avx_vnni|i8mm|asimddp)\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


class _Reader:
    """The cases one by one, as the quantiser asks for them."""

    def __init__(self, name: str, inputs: Array) -> None:
        self._cases = iter([{name: inputs[at : at + 1]} for at in range(len(inputs))])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._cases, None)


def _beside(graph: Any) -> set[str]:
    """Nodes that only the distance needs, by name."""
    makers = {out: node for node in graph.node for out in node.output}

    def above(names: list[str]) -> set[str]:
        found: set[str] = set()
        todo = list(names)
        while todo:
            node = makers.get(todo.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                todo += node.input
        return found

    outputs = [output.name for output in graph.output]
    return above(["distance"]) - above([name for name in outputs if name != "distance"])


def _light(graph: Any) -> set[str]:
    """Nodes up to the first heavy one, with it: the normalisation and the first layer cost little and decide."""
    heavy: set[str] = set()  # tensors
    light: set[str] = set()
    for node in graph.node:
        if heavy & set(node.input):
            heavy |= set(node.output)
            continue
        light.add(node.name)
        if node.op_type in _HEAVY:
            heavy |= set(node.output)
    return light


def _keep_exact(graph: Any, beside: set[str]) -> None:
    """Let the distance read what was there before it was rounded to eight bits."""
    before = {}
    makers = {out: node for node in graph.node for out in node.output}
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is not None and maker.op_type == "QuantizeLinear":
            before[node.output[0]] = maker.input[0]
    for node in graph.node:
        if node.name in beside:
            for at, name in enumerate(node.input):
                node.input[at] = before.get(name, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantisers log every step and draw bars of their own. NNCF keeps what it found as standard output when it
    was imported, so that this must stay open."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(_NOWHERE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
