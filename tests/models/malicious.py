"""Model packages made to do harm, each beside a harmless twin that differs in one thing.

    for case in CASES:
        case.poison(bench)        # changes the folder of a sound package, or gives the archive itself
        case.twin(bench)

Everything is made when a test runs; nothing harmful is stored. What could run code would make the file `bench.canary`.
"""

import gzip
import io
import json
import os
import pickle
import socket
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from tiny_package import SIDE, graph

from medserve.models import package as pk
from medserve.models.signing import Signer
from medserve.settings import Settings

FAR = 2**40


@dataclass
class Bench:
    """A sound package to work on. zip: the archive to send instead of the packed folder."""

    folder: Path
    settings: Settings
    stranger: Settings
    zip: bytes | None = None

    @property
    def canary(self) -> Path:
        return self.folder.parent / "canary"

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def seal(self, signer: Signer | None = None) -> None:
        """Signed by one whom the service trusts: the signature is no defence here."""
        for name in (pk.MANIFEST, pk.SIGNATURE):
            (self.folder / name).unlink(missing_ok=True)
        pk.seal(self.folder, signer or Signer.load(self.settings), lineage={"code": "tests"})

    def sign(self, manifest: bytes) -> None:
        """Any bytes as a manifest, signed."""
        self.write(pk.MANIFEST, manifest)
        self.write(pk.SIGNATURE, Signer.load(self.settings).sign(manifest))

    def pickle(self, protocol: int = 2) -> bytes:
        return pickle.dumps(Evil(f"touch {self.canary}"), protocol=protocol)

    def members(self) -> dict[str, bytes]:
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


Work = Callable[[Bench], None]


def untouched(bench: Bench) -> None:
    """The sound package itself."""


@dataclass
class Case:
    """code: what the refusal says. folder: whether it can lie on a disk (else it is an archive only)."""

    kind: str
    name: str
    code: str
    poison: Work
    twin: Work = untouched
    folder: bool = True
    door_code: str = ""  # where an archive of it is refused with another one
    door: bool = True


CASES: list[Case] = []


def case(kind: str, name: str, code: str, poison: Work, twin: Work = untouched, **more) -> None:
    CASES.append(Case(kind, name, code, poison, twin, **more))


def put(name: str, make: Callable[[Bench], bytes]) -> Work:
    """One member replaced, everything signed."""

    def work(bench: Bench) -> None:
        bench.write(name, make(bench))
        bench.seal()

    return work


# -- pickles, in every form and member -------------------------------------------------------------------------------


def _zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


def _tarred(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _npy(bench: Bench) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Evil(f"touch {bench.canary}")], object), allow_pickle=True)
    return out.getvalue()


FORMS: dict[str, Callable[[Bench], bytes]] = {
    "protocol 0": lambda b: b.pickle(0),
    "protocol 2": lambda b: b.pickle(2),
    "protocol 5": lambda b: b.pickle(5),
    "torch zip": lambda b: _zipped("archive/data.pkl", b.pickle()),
    "torch tar": lambda b: _tarred(b.pickle()),
    "npy of objects": _npy,
    "npz of objects": lambda b: _zipped("w.npy", _npy(b)),
    "joblib, zlib": lambda b: zlib.compress(b.pickle()),
    "gzip": lambda b: gzip.compress(b.pickle()),
    "hdf5": lambda b: b"\x89HDF\r\n\x1a\n" + bytes(40) + b.pickle(),
    "keras zip with a lambda": lambda b: _zipped("config.json", b'{"class_name": "Lambda", "config": "4wAAAA=="}'),
    "behind a header": lambda b: (2).to_bytes(8, "little") + b"{}" + b.pickle(),
}
for _form, _make in FORMS.items():
    case("pickle", f"weights as {_form}", "package-tensors", put(pk.WEIGHTS, _make))
for _member, _code in ((pk.SELFCHECK, "package-tensors"), (pk.GRAPH, "graph-broken"), (pk.MODEL, "package-json"),
                       (pk.CARD, "package-json"), (pk.SPLIT, "package-json")):  # fmt: skip
    case("pickle", f"{_member} as pickle", _code, put(_member, FORMS["protocol 2"]))
case("pickle", "a page as pickle", "package-json", put("evaluation/test.json", FORMS["protocol 2"]),
     put("evaluation/test.json", lambda b: b"{}"))  # fmt: skip
case("pickle", "the manifest as pickle", "package-altered", lambda b: b.sign(b.pickle()))
case("pickle", "the signature as pickle", "package-signature", lambda b: b.write(pk.SIGNATURE, b.pickle()),
     door_code="archive-too-large")  # fmt: skip

for _name in ("weights.pkl", "model.pt", "__init__.py", "evaluation/run.py", "evaluation/data.pkl", ".profile",
              "evaluation/report.html.exe", "conftest.py", "evaluation/deep/test.json", "libop.so", "MODEL.json",
              "external.bin"):  # fmt: skip
    case("names", f"signed {_name}", "package-unexpected-file", put(_name, lambda b: b"{}"),
         put("evaluation/more.json", lambda b: b"{}"), door_code="archive-names")  # fmt: skip


# -- safetensors -----------------------------------------------------------------------------------------------------


def tensors(header: object, data: bytes = bytes(16), *, length: int | None = None) -> Callable[[Bench], bytes]:
    """A hand-made file; `header` is JSON, or its text."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return lambda bench: (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(shape: object = (4,), offsets: object = (0, 16), dtype: object = "F32", **more) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


PAIR = {"a": one((2,), (0, 8))["w"], "b": one((2,), (8, 16))["w"]}
GOOD = put(pk.WEIGHTS, tensors(PAIR))
_DEEP = '{"w": ' + "[" * 50_000 + "]" * 50_000 + "}"
TENSORS: dict[str, Callable[[Bench], bytes]] = {
    "overlapping": tensors(PAIR | {"b": one((2,), (4, 12))["w"]}),
    "the same bytes twice": tensors(PAIR | {"b": one((2,), (0, 8))["w"]}),
    "a gap": tensors(PAIR | {"b": one((1,), (12, 16))["w"]}),
    "negative offset": tensors(one(offsets=(-16, 0))),
    "offset beyond the end": tensors(one(offsets=(FAR, FAR + 16))),
    "end before start": tensors(one(offsets=(16, 0))),
    "more bytes than declared": tensors(PAIR, bytes(32)),
    "fewer bytes than declared": tensors(PAIR, bytes(8)),
    "header of 100 MB, declared": tensors(PAIR, length=100 * 2**20),
    "header longer than the file": tensors(PAIR, length=2**63),
    "header of nothing": tensors(PAIR, length=0),
    "a tensor twice": tensors('{"w": %s, "w": %s}' % ((json.dumps(one()["w"]),) * 2)),
    "unknown dtype": tensors(one(dtype="OBJECT")),
    "dtype of other size": tensors(one(dtype="F64")),
    "dtype no text": tensors(one(dtype=4)),
    "sizes that overflow": tensors(one((2**62, 4))),
    "negative size": tensors(one((-4,))),
    "size as a fraction": tensors(one((4.0,))),
    "size as a truth": tensors(one((True, 4))),
    "40 axes": tensors(one([1] * 40 + [4])),
    "an unknown key": tensors(one(code="x")),
    "metadata with a list": tensors(PAIR | {"__metadata__": {"a": []}}),
    "header as a list": tensors("[1, 2]"),
    "header nested deep": tensors(_DEEP),
    "header with NaN": tensors('{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}'),
    "25,000 tensors": tensors({f"t{i}": one((0,), (0, 0))["w"] for i in range(25_000)}, b""),
}
for _name, _make in TENSORS.items():
    case("tensors", _name, "package-tensors", put(pk.WEIGHTS, _make), GOOD)
case("tensors", "the self-check lies", "package-tensors", put(pk.SELFCHECK, TENSORS["overlapping"]))


# -- JSON ------------------------------------------------------------------------------------------------------------


def said(name: str, change: Callable[[dict], object]) -> Work:
    """A JSON member changed as a value."""

    def make(bench: Bench) -> bytes:
        value = json.loads(bench.read(name))
        return json.dumps(change(value) or value).encode()

    return put(name, make)


def text(name: str, extra: str) -> Work:
    """`extra` put as text before the last brace of a JSON member."""
    return put(name, lambda b: b.read(name).rstrip()[:-1].rstrip() + f", {extra}}}".encode())


for _file in (pk.CARD, pk.SPLIT):
    for _name, _bad, _fine in (
        ("nested deep", '"x": ' + "[" * 100_000 + "]" * 100_000, '"x": ' + "[" * 50 + "]" * 50),
        ("a key twice", '"x": 1, "x": 2', '"x": 1, "y": 2'),
        ("a number of 100,000 digits", '"x": ' + "9" * 100_000, '"x": ' + "9" * 15),
        ("NaN", '"x": NaN', '"x": "NaN"'),
        ("a number beyond all", '"x": 1e999', '"x": 1e99'),
    ):
        case("json", f"{_file}: {_name}", "package-json", text(_file, _bad), text(_file, _fine))
for _name, _bad in (("nested deep", "[" * 100_000), ("a key twice", '"name": "other"'), ("NaN", '"version": NaN')):
    case("json", f"model.json: {_name}", "package-json", text(pk.MODEL, _bad))
case("json", "a list for a card", "package-json", put(pk.CARD, lambda b: b"[]"))
case("json", "no UTF-8", "package-json", put(pk.CARD, lambda b: b'{"name": "\xff"}'))


def _spec(**changes: object) -> Work:
    return said(pk.MODEL, lambda value: value.update(changes))


def _step(name: str, params: dict, at: int = 0) -> Work:
    def change(value: dict) -> None:
        value["transforms"][at] = {"name": name, "params": params}

    return said(pk.MODEL, change)


_SHOW = _step("show", {"low": 0, "high": 255}, 1)
for _name, _work, _twin in (
    ("an unknown transform", _step("to-shell", {}), _step("to-grey", {})),
    ("a path for a transform", _step("../../evil.py", {}), _step("to-grey", {})),
    ("a module for a transform", _step("os.system", {"command": "id"}), _step("to-grey", {})),
    ("an unknown parameter", _step("show", {"__class__": "x"}, 1), _SHOW),
    ("a parameter of the wrong type", _step("show", {"low": {"a": []}, "high": []}, 1), _SHOW),
    ("resize to 10^9", _step("resize", {"height": 10**9, "width": 10**9}, 2),
     _step("resize", {"height": SIDE, "width": SIDE}, 2)),
    ("resize to 68 billion voxels", _step("resize", {"height": 4096, "width": 4096, "depth": 4096}, 2),
     _step("resize", {"height": SIDE, "width": SIDE}, 2)),
    ("a path for an architecture", _spec(architecture={"name": "/tmp/x.py"}), _spec(architecture={"name": "other"})),
    ("a module for an architecture", _spec(architecture={"name": "os.system"}), _spec(architecture={"name": "other"})),
    ("an unknown key", _spec(code="import os"), _spec(question="diagnosis")),
    ("another format", _spec(format="medserve-package/9"), _spec(format="medserve-package/1")),
    ("no input", _spec(inputs=[]), untouched),
    ("100,000 labels", said(pk.MODEL, lambda v: v["output"].update(labels=["x"] * 100_000)), untouched),
    ("a shape of 2^80", said(pk.MODEL, lambda v: v["inputs"][0].update(shape=[1, FAR, FAR])), untouched),
    ("a negative shape", said(pk.MODEL, lambda v: v["inputs"][0].update(shape=[1, -28, 28])), untouched),
):  # fmt: skip
    case("spec", _name, "package-spec", _work, _twin)
for _name, _text in (("with a slash", "../../etc"), ("with a line end", "a\nb"), ("of 1,000 letters", "x" * 1000)):
    case("spec", f"a name {_name}", "package-name", said(pk.CARD, lambda v, t=_text: v.update(name=t)),
         said(pk.CARD, lambda v: v.update(name="tiny-2")))  # fmt: skip
case("spec", "a version with a slash", "package-name", _spec(version="1/../2"), _spec(version="1-2"))


# -- ONNX ------------------------------------------------------------------------------------------------------------


def onnx_work(change: Callable[[onnx.ModelProto], None]) -> Work:
    def make(bench: Bench) -> bytes:
        model = onnx.load_from_string(graph())
        change(model)
        return model.SerializeToString()

    return put(pk.GRAPH, make)


def _outside(location: str) -> Work:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer.add(name="outside", data_type=T.FLOAT, dims=[1])
        tensor.data_location = T.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return onnx_work(change)


def _tensor(**fields: object) -> Work:
    """A tensor that no node reads."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(T(**({"name": "spare", "data_type": T.FLOAT, "dims": [2]} | fields)))  # type: ignore[arg-type]

    return onnx_work(change)


def _nested(depth: int) -> Work:
    def change(model: onnx.ModelProto) -> None:
        inner = _branch([])
        for level in range(depth):
            node = h.make_node("If", ["yes"], [f"o{level}"], then_branch=inner, else_branch=_branch([], f"n{level}"))
            inner = _branch([node], f"o{level}")
        model.graph.initializer.append(h.make_tensor("yes", T.BOOL, [], [True]))
        model.graph.node.extend(inner.node)

    return onnx_work(change)


def _branch(nodes: list, name: str = "zero_out") -> onnx.GraphProto:
    kept = [*nodes] or [h.make_node("Constant", [], [name], value=h.make_tensor("z", T.FLOAT, [1], [0.0]))]
    return h.make_graph(kept, "g", [], [h.make_tensor_value_info(name, T.FLOAT, [1])])


def _functions(levels: int) -> Work:
    """Each calls the one below ten times: 10^levels nodes when they are expanded."""

    def change(model: onnx.ModelProto) -> None:
        opset = [h.make_opsetid("", 18), h.make_opsetid("ai.onnx.ml", 3)]
        for level in range(levels):
            name = f"F{level - 1}" if level else "Relu"
            nodes = [h.make_node(name, [f"x{i}"], [f"x{i + 1}"], domain="ai.onnx.ml" if level else "")
                     for i in range(10)]  # fmt: skip
            model.functions.append(h.make_function("ai.onnx.ml", f"F{level}", ["x0"], ["x10"], nodes, opset))
        model.graph.node.append(h.make_node(f"F{levels - 1}" if levels else "Relu", ["logits"], ["more"],
                                            domain="ai.onnx.ml" if levels else ""))  # fmt: skip

    return onnx_work(change)


def filled(size: int) -> Work:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(h.make_tensor("much", T.INT64, [1], [size]))
        model.graph.node.append(h.make_node("ConstantOfShape", ["much"], ["filled"]))
        model.graph.output.append(h.make_tensor_value_info("filled", T.FLOAT, None))

    return onnx_work(change)


def _domain(name: str) -> Work:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = name

    return onnx_work(change)


def _sparse(model: onnx.ModelProto) -> None:
    values, places = h.make_tensor("s", T.FLOAT, [1], [1.0]), h.make_tensor("i", T.INT64, [1], [0])
    model.graph.sparse_initializer.append(h.make_sparse_tensor(values, places, [FAR]))


def _trains(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.node.append(h.make_node("Relu", ["x"], ["y"]))


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "other"
    model.graph.node[0].input[0] = "other"


_FLOATS = struct.pack("<2f", 1, 2)
_SPARE = _tensor(raw_data=_FLOATS)
for _place in ("/etc/passwd", "../../../etc/passwd", "http://127.0.0.1/w.bin", "external.bin", "file:///etc/passwd"):
    case("onnx", f"tensors in {_place}", "graph-external-data", _outside(_place), _SPARE)
for _name, _code, _work, _twin in (
    ("a domain of its own", "graph-operators", _domain("evil.ops"), _domain("")),
    ("the runtime's own domain", "graph-operators", _domain("com.microsoft"), _domain("")),
    ("a domain with a line end", "graph-operators", _domain("ai.onnx\n"), _domain("")),
    ("graphs 20 deep", "graph-broken", _nested(20), _nested(2)),
    ("functions that expand to 10^9 nodes", "graph-operators", _functions(9), _functions(0)),
    ("training steps", "graph-operators", onnx_work(_trains), untouched),
    ("a tensor of 2^40 values, declared", "graph-tensors", _tensor(dims=[FAR]), _SPARE),
    ("a tensor whose sizes overflow", "graph-tensors", _tensor(dims=[2**33, 2**33], raw_data=_FLOATS), _SPARE),
    ("a negative size", "graph-tensors", _tensor(dims=[-2], raw_data=_FLOATS), _SPARE),
    ("40 axes", "graph-tensors", _tensor(dims=[1] * 40, raw_data=_FLOATS), _SPARE),
    ("a dtype that lies", "graph-tensors", _tensor(data_type=T.DOUBLE, raw_data=_FLOATS), _SPARE),
    ("an unknown dtype", "graph-tensors", _tensor(data_type=99, raw_data=_FLOATS), _SPARE),
    ("a tensor of text", "graph-tensors", _tensor(data_type=T.STRING, string_data=[b"x", b"y"]), _SPARE),
    ("text beside numbers", "graph-tensors", _tensor(raw_data=_FLOATS, string_data=[b"x"]), _SPARE),
    ("a sparse tensor of 2^40", "graph-tensors", onnx_work(_sparse), _SPARE),
    ("a fill of 4 TiB", "package-selfcheck", filled(FAR), filled(4)),
    ("another input", "graph-signature", onnx_work(_renamed), untouched),
    ("cut short", "graph-broken", put(pk.GRAPH, lambda b: graph()[:-40]), untouched),
    ("empty", "graph-broken", put(pk.GRAPH, lambda b: b""), untouched),
    ("a length without end", "graph-broken", put(pk.GRAPH, lambda b: b"\x3a" + b"\xff" * 9 + b"\x01"), untouched),
    ("a web page", "graph-broken", put(pk.GRAPH, lambda b: b"<script>alert(1)</script>"), untouched),
):
    case("onnx", _name, _code, _work, _twin)


# -- the manifest and its signature ----------------------------------------------------------------------------------


def listed(change: Callable[[dict], object]) -> Work:
    """The manifest changed and signed again by one who is trusted."""

    def work(bench: Bench) -> None:
        value = json.loads(bench.read(pk.MANIFEST))
        change(value)
        bench.sign(json.dumps(value).encode())

    return work


AGAIN = listed(lambda m: None)
_ENTRY = {"sha256": "0" * 64, "bytes": 1}


def _untrusted(bench: Bench) -> None:
    bench.seal(Signer.load(bench.stranger))


def _impostor(bench: Bench) -> None:
    """Says that a trusted one signed, and is signed by another."""
    manifest = bench.read(pk.MANIFEST)
    bench.write(pk.SIGNATURE, Signer.load(bench.stranger).sign(manifest))


def _later(name: str) -> Work:
    """A member changed after signing."""
    return lambda bench: bench.write(name, bench.read(name) + b" ")


def _swapped(bench: Bench) -> None:
    """Weights of another signed package."""
    mine = bench.read(pk.MANIFEST), bench.read(pk.SIGNATURE)
    bench.write(pk.WEIGHTS, tensors(PAIR)(bench))
    bench.write(pk.MANIFEST, mine[0])
    bench.write(pk.SIGNATURE, mine[1])


def _other_signature(bench: Bench) -> None:
    """That of another manifest of the same signer."""
    before = bench.read(pk.SIGNATURE)
    listed(lambda m: m["lineage"].update(code="other"))(bench)
    bench.write(pk.SIGNATURE, before)


for _name, _code, _work, _twin in (
    ("lists ../../passwd", "package-incomplete", listed(lambda m: m["files"].update({"../../passwd": _ENTRY})), AGAIN),
    ("lists /etc/passwd", "package-incomplete", listed(lambda m: m["files"].update({"/etc/passwd": _ENTRY})), AGAIN),
    ("lists itself", "package-incomplete", listed(lambda m: m["files"].update({pk.MANIFEST: _ENTRY})), AGAIN),
    (
        "lists what is missing",
        "package-incomplete",
        listed(lambda m: m["files"].update({"evaluation/x.json": _ENTRY})),
        AGAIN,
    ),
    ("leaves out the weights", "package-unexpected-file", listed(lambda m: m["files"].pop(pk.WEIGHTS)), AGAIN),
    ("a wrong size", "package-altered", listed(lambda m: m["files"][pk.CARD].update(bytes=3)), AGAIN),
    ("a size of 2^60", "package-too-large", listed(lambda m: m["files"][pk.CARD].update(bytes=2**60)), AGAIN),
    ("another digest", "package-altered", listed(lambda m: m.update(digest="sha256:" + "0" * 64)), AGAIN),
    ("an unknown key", "package-altered", listed(lambda m: m.update(run="x")), AGAIN),
    (
        "a key twice",
        "package-json",
        lambda b: b.sign(b.read(pk.MANIFEST).rstrip()[:-1] + b', "digest": "sha256:0"}'),
        AGAIN,
    ),
    ("nested deep", "package-altered", lambda b: b.sign(b"[" * 100_000), AGAIN),
    (
        "lineage nested deep",
        "package-json",
        lambda b: b.sign(b.read(pk.MANIFEST).replace(b'"tests"', b"[" * 200 + b"]" * 200)),
        AGAIN,
    ),
    ("an unknown signer", "package-signer", _untrusted, lambda b: b.seal()),
    ("signed by another than it says", "package-signature", _impostor, AGAIN),
    ("no signature", "package-signature", lambda b: b.write(pk.SIGNATURE, b""), AGAIN),
    ("a signature of 63 bytes", "package-signature", lambda b: b.write(pk.SIGNATURE, bytes(63)), AGAIN),
    ("a signature of zeros", "package-signature", lambda b: b.write(pk.SIGNATURE, bytes(64)), AGAIN),
    ("the signature of another manifest", "package-signature", _other_signature, AGAIN),
    ("changed after signing", "package-signature", _later(pk.MANIFEST), AGAIN),
    ("weights of another package", "package-altered", _swapped, untouched),
    ("a card changed after signing", "package-altered", _later(pk.CARD), untouched),
    ("a graph changed after signing", "package-altered", _later(pk.GRAPH), untouched),
):
    case("manifest", _name, _code, _work, _twin)


# -- what lies in a folder -------------------------------------------------------------------------------------------


def _replaced(make: Callable[[Path, Path], object]) -> Work:
    """The card moved away, and something else in its place: make(place, moved)."""

    def work(bench: Bench) -> None:
        place, moved = bench.folder / pk.CARD, bench.folder.parent / "moved"
        place.rename(moved)
        make(place, moved)

    return work


def _socket(place: Path, moved: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


def _linked_folder(bench: Bench) -> None:
    outside = bench.folder.parent / "outside"
    outside.mkdir()
    (bench.folder / "evaluation").symlink_to(outside)


_COPY = _replaced(lambda place, moved: place.write_bytes(moved.read_bytes()))
for _name, _code, _work in (
    ("a link", "package-unexpected-file", _replaced(lambda place, moved: place.symlink_to(moved))),
    ("a link to nothing", "package-unexpected-file", _replaced(lambda place, moved: place.symlink_to("/none"))),
    ("a hard link", "package-unexpected-file", _replaced(lambda place, moved: os.link(moved, place))),
    ("a pipe", "package-unexpected-file", _replaced(lambda place, moved: os.mkfifo(place))),
    ("a socket", "package-unexpected-file", _replaced(_socket)),
    ("a device", "package-unexpected-file", _replaced(lambda place, moved: place.symlink_to("/dev/zero"))),
    ("a linked folder", "package-unexpected-file", _linked_folder),
    ("a folder for a file", "package-incomplete", _replaced(lambda place, moved: place.mkdir())),
    ("an unsigned file", "package-unexpected-file", lambda b: b.write("evaluation/more.json", b"{}")),
):
    case("folder", _name, _code, _work, _COPY, door=False)


# -- the archive -----------------------------------------------------------------------------------------------------


def zipped(
    bench: Bench,
    add: dict[str, bytes] | None = None,
    *,
    prefix: str = "",
    method: int = zipfile.ZIP_STORED,
    mode: int = 0,
    again: str = "",
) -> bytearray:
    """The package as an archive, with members added. mode: of those. again: a member that stands in it twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in bench.members().items():
            archive.writestr(prefix + name, data)
        if again:
            archive.fp.flush()
            info = zipfile.ZipInfo(again)
            archive.NameToInfo.pop(again)
            archive.writestr(info, bench.read(again))
        for name, data in (add or {}).items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type, info.external_attr = method, mode << 16
            archive.writestr(info, data)
    return bytearray(out.getvalue())


def sent(make: Callable[[Bench], bytes | bytearray]) -> Work:
    def work(bench: Bench) -> None:
        bench.zip = bytes(make(bench))

    return work


ZIPPED = sent(zipped)


def _patched(signature: bytes, at: int, value: bytes, which: int = 0) -> Work:
    """Bytes of a local header (PK 3 4) or of a directory entry (PK 1 2) overwritten."""

    def make(bench: Bench) -> bytearray:
        data, place = zipped(bench), -1
        for _ in range(which + 1):
            place = data.index(signature, place + 1)
        data[place + at : place + at + len(value)] = value
        return data

    return sent(make)


def _overlapping(bench: Bench) -> bytearray:
    """Every directory entry points at the first member."""
    data, place = zipped(bench), 0
    while (place := data.find(b"PK\1\2", place)) >= 0:
        data[place + 42 : place + 46] = bytes(4)
        place += 4
    return data


def _bomb(size: int) -> Work:
    def make(bench: Bench) -> bytes:
        members = bench.members() | {pk.WEIGHTS: None}
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                if data is not None:
                    archive.writestr(name, data)
                    continue
                with archive.open(name, "w") as member:
                    for _ in range(size // 2**20):
                        member.write(bytes(2**20))
        return out.getvalue()

    return sent(make)


_TWIN = sent(lambda b: zipped(b, method=zipfile.ZIP_DEFLATED))
for _name in ("../evil.json", "/tmp/evil.json", "..\\evil.json", "C:\\evil.json", "evaluation/../../evil.json",
              "./model.json", "model.json ", "model.json.", "Model.JSON", "m\u043edel.json", "\uff4dodel.json",
              "model\u200b.json", "mod\u00e9l.json", "evaluation/evil.json\0.html", "evaluation", "alternative/x.pkl",
              "alternative/alternative/model.json", "con", "evaluation/../model.json"):  # fmt: skip
    case("archive", f"a member {_name!r}", "archive-names", sent(lambda b, n=_name: zipped(b, {n: b"{}"})), ZIPPED,
         folder=False)  # fmt: skip
for _name, _mode in (("a link", stat.S_IFLNK), ("a pipe", stat.S_IFIFO), ("a device", stat.S_IFCHR),
                     ("a socket", stat.S_IFSOCK)):  # fmt: skip
    case("archive", f"a member that is {_name}", "archive-names",
         sent(lambda b, m=_mode: zipped(b, {"evaluation/x.json": b"/etc/passwd"}, mode=m | 0o777)), ZIPPED,
         folder=False)  # fmt: skip
for _name, _code, _work in (
    ("a member twice", "archive-names", sent(lambda b: zipped(b, again=pk.CARD))),
    ("members that overlap", "archive-broken", sent(_overlapping)),
    ("300 MB of zeros in 300 kB", "archive-bomb", _bomb(300 * 2**20)),
    ("a zip in a zip", "archive-names", sent(lambda b: zipped(b, {"inner.zip": _zipped("x", bytes(10))}))),
    ("a folder around it", "archive-names", sent(lambda b: zipped(b, prefix="chest/"))),
    ("70 members", "archive-too-large", sent(lambda b: zipped(b, {f"evaluation/{i}.json": b"{}" for i in range(70)}))),
    ("bzip2", "archive-broken", sent(lambda b: zipped(b, method=zipfile.ZIP_BZIP2))),
    ("lzma", "archive-broken", sent(lambda b: zipped(b, method=zipfile.ZIP_LZMA))),
    ("encrypted", "archive-broken", _patched(b"PK\1\2", 8, b"\1\0")),
    ("a wrong checksum", "archive-broken", _patched(b"PK\1\2", 16, b"\0\0\0\0", 1)),
    ("a declared size of 3 GB", "archive-too-large", _patched(b"PK\1\2", 24, (3 * 2**30).to_bytes(4, "little"), 1)),
    ("a size below the real one", "archive-broken", _patched(b"PK\1\2", 24, b"\1\0\0\0", 1)),
    ("another name inside", "archive-broken", _patched(b"PK\3\4", 30, b"x")),
    ("something before it", "archive-broken", sent(lambda b: b"#!/bin/sh\n" + zipped(b))),
    ("cut short", "archive-broken", sent(lambda b: zipped(b)[:-30])),
    ("a tar", "archive-broken", sent(lambda b: _tarred(b.pickle()))),
    ("a gzip", "archive-broken", sent(lambda b: gzip.compress(bytes(zipped(b))))),
    ("a pickle", "archive-broken", sent(lambda b: b.pickle())),
    ("another archive, signed files missing", "package-missing", sent(lambda b: _zipped(pk.CARD, b"{}"))),
):
    case("archive", _name, _code, _work, _TWIN, folder=False)

KINDS = sorted({one_case.kind for one_case in CASES})
