"""Small graphs and packages on which engines may differ: a convolution, a record, an operator that only one knows."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from safetensors.numpy import save_file
from tiny_package import SIDE, spec, write_package

from medserve.models.package import GRAPH, MANIFEST, SELFCHECK, SIGNATURE, seal
from medserve.models.signing import Signer
from medserve.models.spec import Calibration, ModelSpec
from medserve.runtime.engine import Engine
from medserve.settings import Settings


def _model(nodes, inputs, outputs, constants) -> bytes:
    initial = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    opsets = [h.make_opsetid("", 18), h.make_opsetid("ai.onnx.ml", 3)]
    model = h.make_model(h.make_graph(nodes, "g", inputs, outputs, initial), opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def conv_graph() -> bytes:
    """Two convolutions with arbitrary weights: what bfloat16 rounds. Outputs logits, distance and cam."""
    rng = np.random.default_rng(0)
    constants = {
        "full": np.float32(255),
        "w1": rng.normal(size=(8, 1, 5, 5)).astype(np.float32) * 0.3,
        "w2": rng.normal(size=(1, 8, 3, 3)).astype(np.float32) * 0.4,
        "flat": np.array([-1, 1]),
        "line": np.array([-1]),
        "axes": np.array([1, 2, 3]),
        "near": np.float32(0.5),
        "row": np.array([-1, SIDE * SIDE]),
        "mean_of": np.full((SIDE * SIDE, 1), 1 / SIDE**2, np.float32),
        "whiten": np.ones((1, 1), np.float32),
        "sharp": np.float32(1000),  # a small difference made large, as a distance is
        "gain": np.float32(4),
        "middle": np.float32(6),  # half of the films are on either side of 0
    }
    nodes = [
        h.make_node("Cast", ["image"], ["raw"], to=T.FLOAT),
        h.make_node("Div", ["raw", "full"], ["x"]),
        h.make_node("Conv", ["x", "w1"], ["a"]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("Conv", ["b", "w2"], ["c"]),
        h.make_node("Mul", ["c", "gain"], ["d"]),
        h.make_node("Sub", ["d", "middle"], ["cam"]),
        h.make_node("GlobalAveragePool", ["cam"], ["mean"]),
        h.make_node("Reshape", ["mean", "flat"], ["logits"]),
        h.make_node("Reshape", ["x", "row"], ["pixels"]),
        h.make_node("MatMul", ["pixels", "mean_of"], ["level"]),
        h.make_node("ReduceMean", ["b", "axes"], ["active"]),
        h.make_node("Reshape", ["active", "flat"], ["extra"]),
        h.make_node("Sub", ["level", "near"], ["small"]),
        h.make_node("Mul", ["small", "sharp"], ["large"]),
        h.make_node("MatMul", ["large", "whiten"], ["white"]),
        h.make_node("Add", ["white", "extra"], ["far"]),
        h.make_node("Reshape", ["far", "line"], ["distance"]),
    ]
    inputs = [h.make_tensor_value_info("image", T.UINT8, ["B", 1, SIDE, SIDE])]
    side = SIDE - 6
    outputs = [h.make_tensor_value_info(n, T.FLOAT, s)
               for n, s in (("logits", ["B", 1]), ("distance", ["B"]), ("cam", ["B", 1, side, side]))]  # fmt: skip
    return _model(nodes, inputs, outputs, constants)


def record_graph() -> bytes:
    """logits = (record - 0) / 1 * w: the steps that do nothing are folded away by an engine, with their names."""
    w = np.arange(1, 4, dtype=np.float32)[:, None]
    constants = {"zero": np.float32(0), "one": np.float32(1), "w": w}
    nodes = [
        h.make_node("Sub", ["record", "zero"], ["sub"]),
        h.make_node("Div", ["sub", "one"], ["div"]),
        h.make_node("MatMul", ["div", "w"], ["logits"]),
    ]
    inputs = [h.make_tensor_value_info("record", T.FLOAT, ["B", 3])]
    return _model(nodes, inputs, [h.make_tensor_value_info("logits", T.FLOAT, ["B", 1])], constants)


def forest_graph() -> bytes:
    """A tree of ai.onnx.ml: x0 <= 0.5 gives 1, else 2."""
    leaves = {
        "nodes_nodeids": [0, 1, 2], "nodes_treeids": [0, 0, 0], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_ids": [0, 0], "target_nodeids": [1, 2], "target_treeids": [0, 0], "target_weights": [1.0, 2.0],
    }  # fmt: skip
    nodes = [h.make_node("TreeEnsembleRegressor", ["record"], ["logits"], domain="ai.onnx.ml", n_targets=1, **leaves)]
    inputs = [h.make_tensor_value_info("record", T.FLOAT, ["B", 3])]
    return _model(nodes, inputs, [h.make_tensor_value_info("logits", T.FLOAT, ["B", 1])], {})


def films(n: int, seed: int = 0) -> np.ndarray:
    """(n, 1, SIDE, SIDE) uint8, smooth shades of many levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 1, 4, 4))
    return coarse.repeat(SIDE // 4, 2).repeat(SIDE // 4, 3).astype(np.uint8)


def conv_spec(**changes: object) -> ModelSpec:
    """Nothing is out of distribution, nothing abstains: what is left are thresholds."""
    return spec(ood=None, operating_points=[], calibration=Calibration(method="temperature", n=200), **changes)


def conv_package(folder: Path, settings: Settings) -> Path:
    """A signed package of `conv_graph`, with a self-check of its own."""
    write_package(folder, settings, conv_spec())
    for name in (MANIFEST, SIGNATURE):
        (folder / name).unlink()
    (folder / GRAPH).write_bytes(conv_graph())
    images = films(4, seed=9)
    scores = Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=1).score(images, cam=True)
    stored = {"image": images, "logits": scores.logits, "distance": scores.distance, "cam": scores.cam}
    save_file(stored, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder
