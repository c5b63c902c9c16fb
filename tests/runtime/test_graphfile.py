"""What a graph file may not do is refused before an engine sees it."""

import time

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_package import SIDE, graph

from medserve.errors import BadPackage
from medserve.runtime.engine import Engine
from medserve.runtime.graphfile import check_graph, read_graph


def code_of(data: bytes) -> str:
    with pytest.raises(BadPackage) as caught:
        check_graph(data)
    return caught.value.code


def changed(change) -> bytes:
    model = onnx.load_from_string(graph())
    change(model)
    return model.SerializeToString()


def test_a_self_contained_graph_passes(tmp_path):
    """The bytes come back as they stand in the file."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph())
    assert read_graph(path) == graph()


def external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def nested(model, depth: int) -> None:
    """A tensor inside `depth` graphs inside each other."""
    inner = helper.make_graph([], "g", [], [], [helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])])
    external(inner.initializer[0])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "g", [], [])
    model.graph.node.extend(inner.node)


def constant(model) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    external(tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))


def behind_lists(model) -> None:
    """A tensor of an attribute behind and before long lists of numbers and words in the same message."""
    constant(model)
    hidden = model.graph.node[-1].attribute[0]
    hidden.ints.extend([0, -1, 2**40] * 1000)
    hidden.floats.extend([0.5] * 1000)
    hidden.strings.extend([b"BRANCH_LEQ", b"", b"x" * 300] * 1000)


@pytest.mark.parametrize(
    "hide", [lambda m: external(m.graph.initializer[0]), constant, lambda m: nested(m, 3), behind_lists]
)
def test_tensors_in_other_files_are_refused_wherever_they_hide(hide):
    """External data: in an initializer, a constant, a nested graph, an attribute full of lists."""
    assert code_of(changed(hide)) == "graph-external-data"


def test_the_lists_of_a_forest_are_jumped_over():
    """A million numbers in one attribute take no time, whatever they look like."""
    nodes = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", nodes_values=[0.1] * 300_000,
                             nodes_nodeids=[*range(-50_000, 250_000)], nodes_modes=["LEAF"] * 300_000)  # fmt: skip
    data = changed(lambda model: model.graph.node.append(nodes))
    began = time.process_time()
    check_graph(data)
    assert time.process_time() - began < 0.5


def test_operators_of_foreign_libraries_are_refused():
    """Only standard ONNX."""
    assert code_of(changed(lambda m: setattr(m.graph.node[0], "domain", "evil.ops"))) == "graph-operators"


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"PK\x03\x04 a zip", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 80])
def test_what_is_no_graph_is_refused(data):
    """Empty, garbage, another format, a length beyond the end, an endless number."""
    assert code_of(data) == "graph-broken"


def test_every_truncation_is_refused_or_harmless():
    """Cut anywhere, the walk ends with a code and never with another error."""
    data = graph()
    for end in range(0, len(data), 7):
        try:
            check_graph(data[:end])
        except BadPackage as error:
            assert error.code == "graph-broken"


def test_graphs_nested_too_deeply_are_refused():
    """Depth is bounded, so that no walk of ours or of the engine's runs out of stack."""
    inner = helper.make_graph([], "g", [], [])
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("Loop", ["a"], ["b"], body=inner)], "g", [], [])
    assert code_of(changed(lambda m: m.graph.node.extend(inner.node))) == "graph-broken"


def test_a_file_above_the_cap_is_refused_unread(tmp_path):
    """The size is looked at before the bytes."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph())
    with pytest.raises(BadPackage, match="at most 100") as caught:
        read_graph(path, max_bytes=100)
    assert caught.value.code == "graph-too-large"
    with pytest.raises(BadPackage) as caught:
        read_graph(tmp_path / "none.onnx")
    assert caught.value.code == "graph-missing"


def test_a_graph_of_another_signature_is_refused():
    """One uint8 input named image, and logits."""
    model = onnx.load_from_string(graph())
    model.graph.input[0].name = "picture"
    for node in model.graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]
    with pytest.raises(BadPackage) as caught:
        Engine(model.SerializeToString(), shape=(1, SIDE, SIDE), width=1)
    assert caught.value.code == "graph-signature"
    with pytest.raises(BadPackage) as caught:
        Engine(graph()[:-30], shape=(1, SIDE, SIDE), width=1)
    assert caught.value.code == "graph-broken"
