"""Signed packages of models of records, made by hand: a table of three inputs, and a text; the logit is a mean."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from safetensors.numpy import save_file

from medserve.data.fields.category import Category
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.models.package import CARD, GRAPH, MODEL, SELFCHECK, SPLIT, WEIGHTS, seal
from medserve.models.signing import Signer
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.settings import Settings
from medserve.types import Named

TABLE = [Number("age", "a", 0, 120), Number("protein", "g/L", 0, 200), Category("ward", ("icu", "general"))]
NOTE = [Text("text", length=8, words=("cancer", "mother", "no"))]


def graph(width: int) -> bytes:
    """logit = sum of the record's values, those that are missing as 0, divided by 100."""
    zero, hundred = h.make_tensor("zero", T.FLOAT, [], [0.0]), h.make_tensor("hundred", T.FLOAT, [], [100.0])
    axes = h.make_tensor("axes", T.INT64, [1], [1])
    nodes = [
        h.make_node("IsNaN", ["record"], ["gone"]),
        h.make_node("Where", ["gone", "zero", "record"], ["known"]),
        h.make_node("ReduceSum", ["known", "axes"], ["sum"], keepdims=1),
        h.make_node("Div", ["sum", "hundred"], ["logits"]),
    ]
    whole = h.make_graph(nodes, "sum", [h.make_tensor_value_info("record", T.FLOAT, ["B", width])],
                         [h.make_tensor_value_info("logits", T.FLOAT, ["B", 1])], [zero, hundred, axes])  # fmt: skip
    model = h.make_model(whole, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_records(folder: Path, settings: Settings, name: str, fields: list) -> Path:
    """A whole signed package."""
    inputs = []
    for field in fields:
        size = field.length if field.kind == "text" else 1
        media = ["application/json", *(["text/plain"] if field.kind == "text" else [])]
        shape, unit = (size,), getattr(field, "unit", None)
        inputs.append(InputSpec(name=field.name, kind=field.kind, shape=shape, unit=unit, media_types=media))
    width = sum(want.shape[0] for want in inputs)
    model = ModelSpec(
        name=name, inputs=inputs, output=OutputSpec(task="binary", labels=["no", "yes"]),
        transforms=[field.named() for field in fields],
        architecture=Named("sum-by-hand"),
    )  # fmt: skip
    folder.mkdir(parents=True)
    records = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    (folder / MODEL).write_bytes(model.to_json())
    (folder / GRAPH).write_bytes(graph(width))
    (folder / CARD).write_text(json.dumps({"name": name, "intended_use": "tests"}))
    (folder / SPLIT).write_text('{"rule": "none"}')
    save_file({"unused": np.zeros(1, np.float32)}, folder / WEIGHTS)
    save_file({"record": records, "logits": records.sum(1, keepdims=True) / 100}, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder
