"""One virtual environment for each peer, made here and nowhere else: none of them is a dependency of the product.

    python = environment(PEERS["litserve"])          # benchmarks/.venvs/litserve/bin/python, made on the first call

Versions are pinned; onnxruntime is the very version that this process has, so that every server runs the same engine.
`uv` makes them where it is found (its path in the variable UV, else on PATH), else pip does, more slowly.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / ".venvs"
SHARED = ("onnxruntime", "numpy", "pillow", "pydicom")
TORCH = ("torch", "monai", "safetensors")  # the lane "as its documentation teaches"


@dataclass(frozen=True)
class Peer:
    """name: also of its environment and of `peers/NAME_server.py`. pins: what is installed beside the shared packages.

    free: shared packages whose version the peer's own needs decide.
    """

    name: str
    title: str
    pins: tuple[str, ...]
    torch: bool = False
    free: tuple[str, ...] = ()

    @property
    def wants(self) -> list[str]:
        names = SHARED + (TORCH if self.torch else ())
        same = [name if name in self.free else f"{name}=={version(name).partition('+')[0]}" for name in names]
        return [*same, *self.pins]


HTTP = ("uvloop", "httptools")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("litserve", "LitServe", ("litserve==0.2.19", "python-multipart", *HTTP), torch=True),
        Peer("bentoml", "BentoML", ("bentoml==1.4.39", *HTTP), torch=True),
        Peer("mosec", "mosec", ("mosec==0.9.8", "msgspec")),
        Peer("mlserver", "MLServer", ("mlserver==1.7.1", *HTTP)),
        Peer("kserve", "KServe", ("kserve==0.21.0", *HTTP)),
        Peer("fastapi", "FastAPI", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"), torch=True),
        Peer("ray", "Ray Serve", ("ray[serve]==2.60.0", *HTTP)),
    )
}


def environment(peer: Peer) -> Path:
    """The interpreter of a peer's environment, made or renewed where its pins have changed."""
    folder = ROOT / peer.name
    python, mark = folder / "bin" / "python", folder / "pins"
    wanted = hashlib.sha256("\n".join(peer.wants).encode()).hexdigest()
    if python.exists() and mark.exists() and mark.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    ROOT.mkdir(parents=True, exist_ok=True)
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
        install = [uv, "pip", "install", "-q", "--python", python]
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, *peer.wants], check=True)
    mark.write_text(wanted)
    return python


def versions(peer: Peer) -> dict[str, str]:
    """What stands in the environment, of those that matter for speed."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    own = [pin.partition("==")[0].partition("[")[0] for pin in peer.pins]
    names = sorted({*SHARED, *TORCH, *own, "uvicorn", "starlette", "pydantic", "uvloop", "httptools"})
    done = subprocess.run([environment(peer), "-c", code, *names], check=True, capture_output=True)
    import json

    found: dict[str, str] = json.loads(done.stdout)
    return found
