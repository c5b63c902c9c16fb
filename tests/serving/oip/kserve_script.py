"""What a program that knows only KServe's client does; run with the interpreter of .venv-kserve.

python kserve_script.py FOLDER     # FOLDER/asked.json: addresses, keys, files; prints what was answered, as JSON
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

ASKED = json.loads((Path(sys.argv[1]) / "asked.json").read_text())
URL = f"http://{ASKED['http']}"
PICTURE = base64.b64decode(ASKED["picture"])
PREPARED = np.array(ASKED["prepared"], np.uint8)
CASES = {
    "file": ("tiny", {"image": np.array([PICTURE], object)}, True),
    "prepared": ("tiny", {"image": PREPARED}, True),
    "json": ("tiny", {"image": PREPARED}, False),
    "table": ("ward", {"age": np.array([ASKED["age"]]), "ward": np.array([ASKED["ward"]], object)}, True),
    "text": ("notes", {"text": np.array([ASKED["text"]], object)}, False),
}


def request(model: str, values: dict, binary: bool) -> InferRequest:
    inputs = []
    for name, value in values.items():
        datatype = {"O": "BYTES", "u": "UINT8", "f": "FP64"}[value.dtype.kind]
        tensor = InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value, binary_data=binary)
        inputs.append(tensor)
    return InferRequest(model, inputs, request_id="w-7")


def said(response) -> dict:
    found = {out.name: out.as_numpy() for out in response.outputs}
    answers = [value if isinstance(value, str) else bytes(value).decode() for value in found["answer"]]
    return {
        "probability": found["probability"].tolist(), "answer": [json.loads(answer) for answer in answers],
        "echo": [response.model_name, response.id],
    }  # fmt: skip


async def http() -> dict:
    def key() -> dict[str, str]:
        return {"authorization": f"Bearer {ASKED['key']}"}

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found = {
            "live": await client.is_server_live(URL),
            "ready": await client.is_server_ready(URL),
            "model": await client.is_model_ready(URL, "tiny", headers=key()),
        }
        for name, (model, values, binary) in CASES.items():
            asked = request(model, values, binary)
            found[name] = said(await client.infer(URL, asked, model_name=model, headers=key()))
    return found


async def grpc() -> dict:
    key = (("authorization", f"Bearer {ASKED['key']}"),)
    async with InferenceGRPCClient(ASKED["grpc"]) as client:
        found = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.is_model_ready("tiny", headers=key),
        }
        for name, (model, values, binary) in CASES.items():
            found[name] = said(await client.infer(request(model, values, binary), headers=key))
    return found


sys.stdout.write(json.dumps({"http": asyncio.run(http()), "grpc": asyncio.run(grpc())}))
