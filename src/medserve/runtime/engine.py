"""A package's graph as an executable: ONNX Runtime on this machine's processor.

    engine = Engine(read_graph(path), shape=(1, 224, 224), width=1)
    scores = engine.score(images)              # images: (B, C, H, W) uint8; records: (B, F) float32
    scores = engine.score(images, cam=True)    # class activation maps of the same pass

Long batches run in several passes, so that memory stays bounded. No training framework is imported.
"""

import os

import numpy as np

from medserve.errors import BadPackage, Fault
from medserve.types import Array, Scores

INPUTS = {"image": ("tensor(uint8)", np.dtype(np.uint8)), "record": ("tensor(float)", np.dtype(np.float32))}
LARGE_GRAPH, LARGE_BATCH = 2**25, 8  # bytes; attention over 512 pieces of a text takes 12 MB a layer
PIXELS = 64 * 64 * 64  # of one pass: bounds the memory of its activations; 64 pictures of 64x64, 5 of 224x224


class Engine:
    """One loaded graph. `score` releases the interpreter lock while it runs and may be called from any thread.

    Args:
        graph: bytes of a self-contained ONNX file (see `graphfile.read_graph`). Passing bytes, not a path, leaves the
            engine no folder to look for other files in.
        shape: (C, H, W) or (C, D, H, W) of one picture, (F,) of one record.
        width: columns of the logits.
        threads: processor threads of one pass; 0 means all cores.
    """

    def __init__(self, graph: bytes, *, shape: tuple[int, ...], width: int, threads: int = 0) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
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
        self.shape, self.width = tuple(shape), width
        self.max_batch = max(1, min(64, PIXELS // max(1, int(np.prod(shape[1:])))))
        if len(graph) > LARGE_GRAPH:
            self.max_batch = min(self.max_batch, LARGE_BATCH)
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        inputs = self._session.get_inputs()
        self.input = "record" if len(self.shape) == 1 else "image"
        wanted, self._dtype = INPUTS[self.input]
        if [(i.name, i.type) for i in inputs] != [(self.input, wanted)] or "logits" not in self.outputs:
            raise BadPackage(
                "graph-signature", f"graph.onnx must take one {wanted} named {self.input!r} and give 'logits'."
            )

    @property
    def has_cam(self) -> bool:
        return "cam" in self.outputs

    def score(self, images: Array, *, cam: bool = False) -> Scores:
        """Raw scores of a batch.

        Args:
            images: (B, *shape) as the package's transforms leave them: uint8 pictures or float32 records; long
                batches run in several passes.
            cam: also compute the class activation maps, where the graph has them.

        Raises: Fault "engine-failed": the engine broke on this batch, or a score is not finite.
        """
        if images.dtype != self._dtype or images.shape[1:] != self.shape:
            raise Fault("engine-input", f"The engine takes (B, {', '.join(map(str, self.shape))}) {self._dtype}.")
        parts = [images[at : at + self.max_batch] for at in range(0, len(images), self.max_batch)] or [images]
        return Scores.concat([self._pass(part, cam) for part in parts])

    def _pass(self, images: Array, cam: bool) -> Scores:
        names = ["logits"]
        names += ["distance"] if "distance" in self.outputs else []
        names += ["cam"] if cam and self.has_cam else []
        try:
            values = self._session.run(names, {self.input: np.ascontiguousarray(images)})
        except Exception as error:
            raise Fault("engine-failed", f"The engine could not run the model ({type(error).__name__}).") from error
        found = dict(zip(names, values, strict=True))
        logits = np.asarray(found["logits"], np.float32).reshape(len(images), -1)
        if logits.shape[1] != self.width or not np.isfinite(logits).all():
            raise Fault("engine-failed", "The model gave scores that are not finite, or not of its declared width.")
        distance = found.get("distance")
        distance = None if distance is None else np.asarray(distance, np.float32).reshape(len(images))
        return Scores(logits, distance, found.get("cam"))
