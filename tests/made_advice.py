"""Signed packages that advise medicines, made by hand: a dose, arms of a treatment, a set. logits = record W + b."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from safetensors.numpy import save_file

from medserve.data.fields.category import Category
from medserve.data.fields.number import Number
from medserve.models.package import CARD, GRAPH, MODEL, SELFCHECK, SPLIT, WEIGHTS, seal
from medserve.models.signing import Signer
from medserve.models.spec import (
    ATC,
    Alike,
    Calibration,
    Code,
    Conformal,
    Effect,
    InputSpec,
    Leaf,
    Method,
    ModelSpec,
    OutputSpec,
)
from medserve.settings import Settings
from medserve.types import Array, Named

WEIGHT, PAIN = Number("weight", "kg", 20, 200), Number("pain", "1", 0, 10)
AGE, SEX = Number("age", "a", 0, 120), Category("sex", ("female", "male"))
SMOKES, DIABETES = Category("smokes", ("no", "yes")), Category("diabetes", ("absent", "present"))
FHIR_OF = {"age": "Patient.age", "sex": "Patient.gender", "weight": "loinc|29463-7", "pain": "loinc|72514-3",
           "smokes": "loinc|72166-2", "diabetes": "Condition icd10|E11"}  # fmt: skip


def graph(w: Array, b: Array) -> bytes:
    """What is missing counts as 0."""
    nodes = [
        h.make_node("IsNaN", ["record"], ["gone"]),
        h.make_node("Where", ["gone", "zero", "record"], ["known"]),
        h.make_node("MatMul", ["known", "w"], ["moved"]),
        h.make_node("Add", ["moved", "b"], ["logits"]),
    ]
    initial = [h.make_tensor("zero", T.FLOAT, [], [0.0]), h.make_tensor("w", T.FLOAT, w.shape, w.ravel().tolist()),
               h.make_tensor("b", T.FLOAT, b.shape, b.tolist())]  # fmt: skip
    whole = h.make_graph(nodes, "by-hand", [h.make_tensor_value_info("record", T.FLOAT, ["B", len(w)])],
                         [h.make_tensor_value_info("logits", T.FLOAT, ["B", w.shape[1]])], initial)  # fmt: skip
    model = h.make_model(whole, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write(folder: Path, settings: Settings, name: str, fields: list, output: OutputSpec, w: Array, b: Array,
          fhir: dict[str, str] | None = None, **more: object) -> Path:  # fmt: skip
    """fhir: element of each input; all of them take a Bundle then."""
    media = ["application/json"] + (["application/fhir+json"] if fhir else [])
    inputs = [InputSpec(name=f.name, kind=f.kind, shape=(1,), unit=getattr(f, "unit", None), media_types=media,
                        words=list(getattr(f, "levels", ())) or None,
                        **({"fhir": fhir[f.name]} if fhir else {})) for f in fields]  # fmt: skip
    model = ModelSpec(name=name, question="treatment", inputs=inputs, output=output,
                      transforms=[f.named() for f in fields], architecture=Named("by-hand"), **more)  # fmt: skip
    w, b = np.asarray(w, np.float32), np.asarray(b, np.float32)
    folder.mkdir(parents=True)
    records = np.arange(2 * len(w), dtype=np.float32).reshape(2, len(w))
    (folder / MODEL).write_bytes(model.to_json())
    (folder / GRAPH).write_bytes(graph(w, b))
    (folder / CARD).write_text(json.dumps({"name": name, "intended_use": "tests"}))
    (folder / SPLIT).write_text('{"rule": "none"}')
    save_file({"unused": np.zeros(1, np.float32)}, folder / WEIGHTS)
    save_file({"record": records, "logits": records @ w + b, "background": records}, folder / SELFCHECK)
    seal(folder, Signer.load(settings), lineage={"code": "tests"})
    return folder


def write_dose(folder: Path, settings: Settings, name: str = "dose", drug: str = "A10BA02", **more: object) -> Path:
    """20 mg a day for each kg, 200 mg to either side; 80 kg: 1600 mg/d, 1400 to 1800."""
    output = OutputSpec(task="number", labels=["dose"], unit="mg/d", range=(100, 4000),
                        codes={"dose": Code(ATC, drug)})  # fmt: skip
    sure = Calibration(conformal=Conformal(alpha=0.1, n=200, quantile=200.0))
    shap = [Method(name="shapley", verdict="PASS", role="primary")]
    return write(folder, settings, name, [WEIGHT], output, [[20.0]], [0.0], calibration=sure, explanations=shap, **more)


def write_arms(folder: Path, settings: Settings, medicines: dict[str, list[str]], *, favour: int = 1, next: int = 0,
               name: str = "arms", fields: list | None = None, arms: list[str] | None = None,
               **more: object) -> Path:  # fmt: skip
    """The arm `favour` gains pain / 10 - .2 with an interval of .1 to either side, the arm `next`, if any, half of it
    with the same interval, all others lose .5."""
    fields = [PAIN] if fields is None else fields
    labels = arms or list(medicines)
    k, j = len(labels), len(labels) - 1
    facts = Effect(
        outcome="relief", kind="number", better="higher", medicines=medicines,
        overlap=(0.05, 0.95), patients=[50] * k, required=[],
        leaves=[Leaf(rule="everybody", arm=labels[favour], n=40, effect=[0.2] * j, low=[0.1] * j, high=[0.3] * j)],
        alike=[[Alike(n=12, outcome=1.0, low=0.5, high=1.5, inputs={"pain": 5.0})] for _ in labels],
        grid={"pain": [5.0, 9.0]},
    )  # fmt: skip
    b = np.concatenate([np.full(j, -0.5), np.full(j, -0.6), np.full(j, -0.4), np.full(k, 1 / k), np.ones(k),
                        np.zeros(k), [0.0]])  # fmt: skip
    w = np.zeros((len(fields), len(b)))
    pain = [f.name for f in fields].index("pain")
    for arm, share in ((favour, 1.0), (next, 0.5)) if next else ((favour, 1.0),):
        for column, aside in zip((arm - 1, j + arm - 1, 2 * j + arm - 1), (0.0, -0.1, 0.1), strict=True):
            b[column], w[pain, column] = aside - 0.2 * share, 0.1 * share
    output = OutputSpec(task="effect", labels=labels, unit="1", effect=facts)
    told = [Method(name="effect", verdict="PASS", role="primary")]
    return write(folder, settings, name, fields, output, w, b, explanations=told, **more)


def write_set(folder: Path, settings: Settings, drugs: list[str], *, name: str = "set", seed: int = 3,
              uncoded: list[str] | None = None) -> Path:  # fmt: skip
    """Two numbers in [0, 1] move the logit of each medicine by weights drawn at random. uncoded: further labels, which
    are certain and have no code."""
    fields = [Number("a", "1", 0, 1), Number("b", "1", 0, 1)]
    random = np.random.default_rng(seed)
    more = uncoded or []
    output = OutputSpec(task="multilabel", labels=[f"m{i}" for i in range(len(drugs))] + more,
                        codes={f"m{i}": Code(ATC, code.partition("|")[2]) for i, code in enumerate(drugs)})  # fmt: skip
    w, b = random.normal(0, 3, (2, len(drugs))), random.normal(0, 0.5, len(drugs))
    return write(folder, settings, name, fields, output, np.hstack([w, np.zeros((2, len(more)))]),
                 np.concatenate([b, np.full(len(more), 9.0)]))  # fmt: skip
