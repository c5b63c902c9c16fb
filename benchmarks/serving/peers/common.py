"""What every peer shares: one graph, one preprocessing, one thread budget: servers are compared, not models.

Read from the environment: MODEL_ONNX, FIELDS (names of a row, JSON), THREADS, MAX_BATCH, MAX_WAIT_MS, PORT, KIND (row
or image), ENGINE (onnx, or torch: eager, as most documentation teaches), WEIGHTS (of torch), BATCHES (where the
histogram of batch sizes is written: proof that a server batched).
"""

import io
import json
import os
import threading
import time
from collections import Counter

import numpy as np

KIND = os.environ.get("KIND", "row")
PORT = int(os.environ.get("PORT", "8100"))
THREADS = int(os.environ.get("THREADS", "1"))
MAX_BATCH = int(os.environ.get("MAX_BATCH", "16"))
MAX_WAIT_S = float(os.environ.get("MAX_WAIT_MS", "0")) / 1e3
FIELDS = json.loads(os.environ.get("FIELDS", "[]"))
SIDE = 224
_run = None
_batches: Counter[int] = Counter()


def row(inputs: dict) -> np.ndarray:
    """{"age": 63, ...} -> (F,) float32."""
    return np.array([inputs[name] for name in FIELDS], np.float32)


def picture(image) -> np.ndarray:
    """A PIL picture -> (1, 224, 224) uint8, the very pixels that the model was trained on."""
    from PIL import Image

    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.BILINEAR, reducing_gap=1.0))[None]


def decode(body: bytes) -> np.ndarray:
    """PNG, JPEG or DICOM; or the tensor itself, as it is."""
    from PIL import Image

    if len(body) == SIDE * SIDE:
        return np.frombuffer(body, np.uint8).reshape(1, SIDE, SIDE)
    if body[128:132] == b"DICM":
        import pydicom

        values = pydicom.dcmread(io.BytesIO(body)).pixel_array
        return picture(Image.fromarray(np.round(values * (255 / 4095)).astype(np.uint8)))
    return picture(Image.open(io.BytesIO(body)))


def load() -> None:
    global _run
    _run = _torch() if os.environ.get("ENGINE") == "torch" else _onnx()
    if os.environ.get("BATCHES"):
        threading.Thread(target=_tell, daemon=True).start()


def run(batch) -> np.ndarray:
    """(B, ...) -> logits (B, K)."""
    batch = np.ascontiguousarray(batch)
    _batches[len(batch)] += 1
    return _run(batch)


def _onnx():
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(os.environ["MODEL_ONNX"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(["logits"], {name: batch})[0]


def _torch():
    """DenseNet-121 of MONAI with the package's weights, in eager mode."""
    import torch
    from monai.networks.nets import DenseNet121
    from safetensors.torch import load_file

    torch.set_num_threads(THREADS)
    tensors = load_file(os.environ["WEIGHTS"])
    features = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).features
    prefix = "net.backbone.features."
    features.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    head = torch.nn.Linear(1024, len(tensors["net.head.bias"]))
    head.load_state_dict({"weight": tensors["net.head.weight"], "bias": tensors["net.head.bias"]})
    features.eval()
    mean, std = (tensors[name].view(1, -1, 1, 1) for name in ("mean", "std"))

    def forward(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = (torch.from_numpy(batch).float() / 255 - mean) / std
            return head(torch.relu(features(x)).mean((2, 3))).numpy()

    return forward


def _tell() -> None:
    path, last = os.environ["BATCHES"], 0
    while True:
        time.sleep(0.5)
        if (now := sum(_batches.values())) != last:
            last = now
            with open(f"{path}.new", "w") as file:
                json.dump(dict(_batches), file)
            os.replace(f"{path}.new", path)
