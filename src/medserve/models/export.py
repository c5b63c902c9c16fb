"""The served network as one ONNX file that gives the same numbers.

    names = export_onnx(served, shape=(1, 28, 28), path=folder / "graph.onnx", samples=images)

One self-contained file (no external data), dynamic batch, input `image` (uint8) or `record` (float32, one axis),
outputs `logits`, then `distance` and `cam` where the network has them. The file is run once beside torch before it
counts as written.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medserve.errors import Fault
from medserve.models.record.trees import NUMBERED, OPERATOR, Forest
from medserve.models.served import ServedNet
from medserve.types import Array

OPSET = 20
TOLERANCE = 1e-3  # largest absolute difference of a logit
MAX_BYTES = 2**31 - 1  # protobuf's limit for one file


def export_onnx(
    served: ServedNet, shape: Sequence[int], path: Path, *, samples: Array | None = None, tolerance: float = TOLERANCE
) -> tuple[str, ...]:
    """Write the graph and check it against torch.

    Args:
        shape: (C, H, W) or (C, D, H, W) of one input.
        samples: (N, *shape), inputs to check with beside random ones; the first 8 are used. Records need them.
        tolerance: largest absolute difference allowed for a logit; distances and maps are held to the same share of
            their own size.

    Returns: the names of the graph's outputs.
    Raises: Fault "export-failed", "export-too-large", "export-differs"; no file stays behind.
    """
    served = served.eval()
    names = served.outputs(shape)
    try:
        _write(served, shape, path, names, samples)
        if path.stat().st_size > MAX_BYTES:
            raise Fault("export-too-large", f"The graph takes {path.stat().st_size} bytes; one ONNX file holds 2 GB.")
        check_onnx(served, shape, path, samples=samples, tolerance=tolerance)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return names


class _Step(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, letter: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found: tuple[torch.Tensor, torch.Tensor] = self.net.step(letter, state)  # type: ignore[operator]
        return found


def export_step(net: torch.nn.Module, path: Path) -> None:
    """Write one step of a model that writes: `letter` (B,) int64 and `state` (B, S) in, `logits` (B, V) and `next` out.

    Raises: Fault "export-failed", "export-differs"; no file stays behind.
    """
    import onnxruntime

    step = _Step(net).eval()
    letter, state = torch.tensor([0, 1]), net.start(2)  # type: ignore[operator]
    try:
        write_graph(step, {"letter": letter, "state": state}, ["logits", "next"], path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        letter, state = torch.tensor([1, 0, 2]), net.start(3) + 0.5  # type: ignore[operator]
        given = session.run(None, {"letter": letter.numpy(), "state": state.numpy()})
    except (RuntimeError, ValueError, torch.onnx.OnnxExporterError) as error:
        path.unlink(missing_ok=True)
        raise Fault("export-failed", f"The step cannot be written as ONNX: {type(error).__name__}.") from error
    with torch.no_grad():
        wanted = step(letter, state)
    gap = max(float((torch.from_numpy(a) - b).abs().max()) for a, b in zip(given, wanted, strict=True) if b.numel())
    if not gap <= TOLERANCE:
        path.unlink(missing_ok=True)
        raise Fault("export-differs", f"The step's graph differs from the trained network by {gap:.2g}.")


class _Present(torch.nn.Module):
    """The outputs that exist, without the Nones."""

    def __init__(self, served: ServedNet) -> None:
        super().__init__()
        self.served = served

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(value for value in self.served(image) if value is not None)


def _write(served: ServedNet, shape: Sequence[int], path: Path, names: tuple[str, ...], samples: Array | None) -> None:
    if len(shape) == 1:
        assert samples is not None and len(samples) >= 2
        example = torch.from_numpy(np.ascontiguousarray(samples[:2], np.float32))
    else:
        example = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    try:
        write_graph(_Present(served).eval(), {input_name(shape): example}, names, path)
    except OSError as error:
        raise Fault("export-failed", f"Cannot write {path.name}: {error.strerror}.", hint="Free some space.") from error
    except (RuntimeError, ValueError, torch.onnx.OnnxExporterError) as error:
        raise Fault("export-failed", f"The network cannot be written as ONNX: {type(error).__name__}.") from error


def write_graph(net: torch.nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], path: Path) -> None:
    """One file with a free batch. inputs: name -> example, by position.

    Raises: OSError, RuntimeError, ValueError, torch.onnx.OnnxExporterError.
    """
    batch = torch.export.Dim("batch", min=1, max=65536)
    forests = [module for module in net.modules() if isinstance(module, Forest)]
    for number, forest in enumerate(forests):
        forest.number = number
    with _quiet():
        program = torch.onnx.export(
            net, tuple(inputs.values()), dynamo=True, input_names=list(inputs), output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs), opset_version=OPSET, external_data=False, verbose=False,
        )  # fmt: skip
        assert program is not None
        for node in program.model.graph.all_nodes():
            if node.op_type == OPERATOR:
                _plant(node, forests[node.attributes[NUMBERED].as_ints()[0]])
            node.metadata_props.clear()  # source lines and paths of the machine that exports
        program.save(str(path), external_data=False)


def _plant(node: Any, forest: Forest) -> None:
    """The tables of a forest into the operator that stands for it: far too long for the exporter to carry."""
    import onnx_ir as ir

    for name, values in forest.attributes().items():
        make: Any = {int: ir.AttrInt64s, float: ir.AttrFloat32s, str: ir.AttrStrings}[type(values[0])]
        node.attributes[name] = make(name, values)


def input_name(shape: Sequence[int]) -> str:
    """ "record" for a flat vector, "image" for anything with axes of its own."""
    return "record" if len(shape) == 1 else "image"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on stdout, in warnings and in logs; none of it is for our reader."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_onnx(
    served: ServedNet,
    shape: Sequence[int],
    path: Path,
    *,
    samples: Array | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Run the file beside torch on random pictures and the given ones.

    Returns: the largest absolute difference of a logit.
    Raises: Fault "export-differs", naming the output and the difference.
    """
    import onnxruntime

    rng = np.random.default_rng(0)
    images: Array
    if len(shape) == 1:
        assert samples is not None
        images = np.ascontiguousarray(samples[:8], np.float32)
    else:
        images = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
        images = images if samples is None else np.concatenate([images, samples[:8]])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = session.run(None, {input_name(shape): images})
    except Exception as error:  # the engine's own exceptions share no base class
        raise Fault("export-failed", f"The written graph does not run: {type(error).__name__}.") from error
    expected = served.scores(images)
    worst = 0.0
    for output, value in zip(session.get_outputs(), given, strict=True):
        wanted = getattr(expected, output.name)
        gap = float(np.abs(value - wanted).max())
        limit = tolerance if output.name == "logits" else tolerance * max(1.0, float(np.abs(wanted).max()))
        if not gap <= limit or value.shape != wanted.shape:
            raise Fault(
                "export-differs",
                f"The graph's {output.name} differs from the trained network by {gap:.2g} (at most {limit:.2g}).",
                hint="Report the architecture and the versions of torch and onnxruntime.",
            )
        worst = max(worst, gap) if output.name == "logits" else worst
    return worst
