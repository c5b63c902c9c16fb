"""Triton's and KServe's own clients, unmodified, each from a virtual environment of its own, against `medserve serve`.

Their pins of protobuf and others fight ours; `make test` builds .venv-triton, `make test-all` .venv-kserve too. Another
place is said with MEDSERVE_TEST_TRITON and MEDSERVE_TEST_KSERVE: the path of an interpreter.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from real_server import RealServer
from tensors import same
from tiny_package import png, ramp

from medserve.access.keys import KeyRing

ROOT = Path(__file__).parents[3]
RECORD, TEXT = {"age": 71.25, "ward": "icu"}, "The mother had no cancer. 😀"


@dataclass
class Real:
    """A service in a process of its own; folder: with what the clients are to ask."""

    server: RealServer
    folder: Path
    key: str

    def run(self, script: str, python: str) -> dict:
        command = [python, str(Path(__file__).parent / script), str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"]})
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def predicted(self, model: str, content: bytes, media: str) -> dict:
        headers = {"authorization": f"Bearer {self.key}", "content-type": media}
        return httpx2.post(f"{self.server.url}/v1/models/{model}/predict", content=content, headers=headers).json()

    def wanted(self) -> dict[str, dict]:
        """What /v1 answers about the same bytes."""
        record = json.dumps({"inputs": RECORD}).encode()
        picture = self.predicted("tiny", png(ramp()), "image/png")
        return {
            "file": picture, "prepared": picture, "table": self.predicted("ward", record, "application/json"),
            "text": self.predicted("notes", TEXT.encode(), "text/plain"),
        }  # fmt: skip


def python_of(name: str) -> str:
    """The interpreter that has a client."""
    path = Path(os.environ.get(f"MEDSERVE_TEST_{name.upper()}") or ROOT / f".venv-{name}" / "bin" / "python")
    if not path.exists():
        pytest.fail(f"{path} is not there: run `make .venv-{name}/ok`, or say MEDSERVE_TEST_{name.upper()}=PYTHON")
    return str(path)


@pytest.fixture(scope="module")
def real(folders, tmp_path_factory) -> Iterator[Real]:
    settings, packages = folders
    root = tmp_path_factory.mktemp("real")
    (root / "home").symlink_to(settings.home)
    keys = KeyRing.open(settings)
    key, operator = keys.create("clients").key, keys.create("operator", role="ml-engineer").key
    keys.close()
    server = RealServer(root, packages, more=("--grpc-port", "0"))
    server.start()
    asked = {
        "http": server.url.removeprefix("http://"), "grpc": server.said["grpc"], "key": key, "operator": operator,
        "picture": base64.b64encode(png(ramp())).decode(), "prepared": ramp()[None, None].tolist(),
        "text": TEXT, **RECORD,
    }  # fmt: skip
    (root / "asked.json").write_text(json.dumps(asked))
    try:
        yield Real(server, root, key)
        assert server.stop() == 0
    finally:
        server.close()


def test_tritons_client_over_http_and_grpc(real):
    """Health, metadata, the repository, inference: BYTES and UINT8, JSON and binary, table and text, in both ways, and
    every answer is the one of /v1, to the last digit."""
    found, wanted = real.run("triton_script.py", python_of("triton")), real.wanted()
    older = wanted["file"]["model"] | {"version": "1"}
    for way in ("http", "grpc"):
        told = found[way]
        assert (told["live"], told["ready"], told["model"]) == (True, True, True)
        assert told["server"] == "medserve" and told["inputs"] == ["age", "protein", "ward"]
        assert told["index"] == ["notes READY", "tiny READY", "tiny READY", "ward READY"]
        assert (told["unloaded"], told["loaded"]) == (False, True)
        assert told["echo"] == ["tiny", "1"]
        for name, want in wanted.items():
            (answer,), (status,), (row,) = told[name]["answer"], told[name]["status"], told[name]["probability"]
            assert same(answer, want) and status == want["status"], (way, name)
            assert row == [output["probability"] for output in want["outputs"]]
        assert told["json"]["answer"][0]["model"]["version"] == older["version"]
        assert told["json"]["probability"] == told["prepared"]["probability"]
        assert "unknown-model" in told["none"] and "401" in told["stranger"] or "UNAUTHENTICATED" in told["stranger"]


@pytest.mark.slow
def test_kserves_client_over_http_and_grpc(real):
    """Health, readiness of a model, inference in binary, in JSON and in typed contents: the answers of /v1."""
    found, wanted = real.run("kserve_script.py", python_of("kserve")), real.wanted()
    for way in ("http", "grpc"):
        told = found[way]
        assert (told["live"], told["ready"], told["model"]) == (True, True, True)
        for name, want in (wanted | {"json": wanted["prepared"]}).items():
            (answer,), (row,) = told[name]["answer"], told[name]["probability"]
            assert same(answer, want) and told[name]["echo"] == [want["model"]["name"], "w-7"], (way, name)
            assert row == [output["probability"] for output in want["outputs"]]
