"""A graph in two: what the answer needs, which may run in reduced precision, and the distance, which may not.

    trunk, tail = split(core, graph)       # tail is None where the graph has no distance

The distance to the training data is a sum of squares of small differences; in bfloat16 it is noise, and every case
would be refused. So what only the distance needs runs in fp32: on the pixels straight from the input, and on the
activations that the trunk hands over as its last outputs, in the order of the tail's inputs after the first.
"""

from typing import Any

_HEAVY = {"Convolution", "GroupConvolution", "MatMul", "LSTMSequence", "GRUSequence", "RNNSequence"}


def split(core: Any, graph: bytes) -> tuple[Any, Any | None]:
    """Two models of OpenVINO. graph: bytes of an ONNX file."""
    import openvino as ov
    from openvino import opset13

    trunk, tail = core.read_model(graph), core.read_model(graph)
    results = {_ours(output.names): output.node for output in tail.outputs}
    if "distance" not in results or "logits" not in results:
        return trunk, None
    shared = _above([node for name, node in results.items() if name != "distance"])
    heavy: dict[str, bool] = {}
    for node in tail.get_ordered_ops():
        above = [i.get_source_output().get_node().get_friendly_name() for i in node.inputs()]
        heavy[node.get_friendly_name()] = node.get_type_name() in _HEAVY or any(heavy[name] for name in above)
    joints: dict[tuple[str, int], Any] = {}
    for name, node in _above([results["distance"]]).items():
        if name in shared:
            continue
        for target in node.inputs():
            source = target.get_source_output()
            key = (source.get_node().get_friendly_name(), source.get_index())
            if key[0] in shared and heavy[key[0]]:
                if key not in joints:
                    joints[key] = opset13.parameter(source.get_partial_shape(), source.get_element_type())
                target.replace_source_output(joints[key].output(0))
    ops = {node.get_friendly_name(): node for node in trunk.get_ordered_ops()}
    kept = [output.node for output in trunk.outputs if _ours(output.names) != "distance"]
    handed = [opset13.result(ops[name].output(at)) for name, at in joints]
    inputs = trunk.get_parameters()
    return (
        ov.Model([*kept, *handed], inputs, "trunk"),
        ov.Model([results["distance"]], [*tail.get_parameters(), *joints.values()], "distance"),
    )


def _above(nodes: list[Any]) -> dict[str, Any]:
    """These nodes and all that they need, by name."""
    found: dict[str, Any] = {}
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node
            todo += [i.get_source_output().get_node() for i in node.inputs()]
    return found


def _ours(names: set[str]) -> str:
    known = names & {"logits", "distance", "cam"}
    return min(known or names or {""})
