"""What a program that knows only Triton's client does; run with the interpreter of .venv-triton.

python triton_script.py FOLDER     # FOLDER/asked.json: addresses, keys, files; prints what was answered, as JSON
"""

import base64
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

ASKED = json.loads((Path(sys.argv[1]) / "asked.json").read_text())
OPERATOR = {"authorization": f"Bearer {ASKED['operator']}"}
PICTURE = base64.b64decode(ASKED["picture"])
PREPARED = np.array(ASKED["prepared"], np.uint8)


def key() -> dict[str, str]:
    """Made anew for each call: the HTTP client writes headers of its own into what it is given."""
    return {"authorization": f"Bearer {ASKED['key']}"}


def objects(values: list) -> np.ndarray:
    return np.array(values, dtype=object)


def tensors(kind, values: dict, **more) -> list:
    """Arrays as the client's inputs; strings and bytes as BYTES."""
    found = []
    for name, value in values.items():
        datatype = {"O": "BYTES", "u": "UINT8", "f": "FP64"}[value.dtype.kind]
        tensor = kind.InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value, **more)
        found.append(tensor)
    return found


def said(result) -> dict:
    """probability, as it is, and the answers of the wire."""
    return {
        "probability": result.as_numpy("probability").tolist(),
        "status": [str(value, "utf-8") if isinstance(value, bytes) else value for value in result.as_numpy("status")],
        "answer": [json.loads(value) for value in result.as_numpy("answer")],
    }


CASES = {
    "file": ("tiny", {"image": objects([PICTURE])}),
    "prepared": ("tiny", {"image": PREPARED}),
    "table": ("ward", {"age": np.array([ASKED["age"]]), "ward": objects([ASKED["ward"]])}),
    "text": ("notes", {"text": objects([ASKED["text"]])}),
}


def failure(work) -> str:
    try:
        work()
    except InferenceServerException as error:
        return f"{error.status() or ''} {error.message()}"
    return "nothing failed"


def http() -> dict:
    client = over_http.InferenceServerClient(ASKED["http"])
    found = {
        "live": client.is_server_live(key()),
        "ready": client.is_server_ready(key()),
        "model": client.is_model_ready("tiny", "1", key()),
        "server": client.get_server_metadata(key())["name"],
        "inputs": [one["name"] for one in client.get_model_metadata("ward", headers=key())["inputs"]],
        "index": sorted(f"{one['name']} {one['state']}" for one in client.get_model_repository_index(key())),
        "stranger": failure(lambda: client.get_server_metadata()),
        "none": failure(lambda: client.infer("none", tensors(over_http, CASES["text"][1]), headers=key())),
    }
    for name, (model, values) in CASES.items():
        inputs = tensors(over_http, values)
        found[name] = said(client.infer(model, inputs, request_id="w-7", headers=key(), priority=1, timeout=9_000_000))
    plain = [over_http.InferRequestedOutput(name, binary_data=False) for name in ("probability", "status", "answer")]
    listed = tensors(over_http, {"image": PREPARED}, binary_data=False)
    result = client.infer("tiny", listed, model_version="1", outputs=plain, headers=key())
    found["json"] = said(result)
    found["echo"] = [result.get_response()[name] for name in ("model_name", "model_version")]
    client.unload_model("notes", headers=OPERATOR)
    found["unloaded"] = client.is_model_ready("notes", headers=key())
    client.load_model("notes", headers=OPERATOR)
    found["loaded"] = client.is_model_ready("notes", headers=key())
    client.close()
    return found


def grpc() -> dict:
    client = over_grpc.InferenceServerClient(ASKED["grpc"])
    found = {
        "live": client.is_server_live(key()),
        "ready": client.is_server_ready(key()),
        "model": client.is_model_ready("tiny", "1", key()),
        "server": client.get_server_metadata(key()).name,
        "inputs": [one.name for one in client.get_model_metadata("ward", headers=key()).inputs],
        "index": sorted(f"{one.name} {one.state}" for one in client.get_model_repository_index(key()).models),
        "stranger": failure(lambda: client.get_server_metadata()),
        "none": failure(lambda: client.infer("none", tensors(over_grpc, CASES["text"][1]), headers=key())),
    }
    for name, (model, values) in CASES.items():
        inputs = tensors(over_grpc, values)
        found[name] = said(client.infer(model, inputs, request_id="w-7", headers=key(), priority=1, timeout=9_000_000))
    answers: queue.Queue = queue.Queue()
    for _ in range(4):
        client.async_infer(
            "tiny", tensors(over_grpc, {"image": PREPARED}), lambda result, error: answers.put((result, error)),
            model_version="1", headers=key(), client_timeout=20,
        )  # fmt: skip
    together = [answers.get(timeout=20) for _ in range(4)]
    assert all(error is None for _, error in together), together
    found["json"] = said(together[0][0])
    found["echo"] = [together[0][0].get_response().model_name, together[0][0].get_response().model_version]
    client.unload_model("notes", headers=OPERATOR)
    found["unloaded"] = client.is_model_ready("notes", headers=key())
    client.load_model("notes", headers=OPERATOR)
    found["loaded"] = client.is_model_ready("notes", headers=key())
    client.close()
    return found


sys.stdout.write(json.dumps({"http": http(), "grpc": grpc()}))
