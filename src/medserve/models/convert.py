"""One foreign checkpoint, known by its hash, turned into safetensors once, in a process of its own.

    convert(Path("efficientnet-lite0.pth"), out, sha256="5793...")
    python -m medserve.models.convert lite0.pth lite0.safetensors --sha256 5793...

The only place where a pickle may be opened at all. Three fences stand around it: the bytes must have the hash that a
person (or our own list) wrote down beforehand; they are read with `weights_only=True`, which builds tensors and plain
containers and calls nothing else; and it happens in a child process with an empty environment, a scratch folder and
hard limits on memory, time, open files and what it may write. Out comes a flat set of tensors, or nothing.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medserve.errors import BadData, Fault, Refusal
from medserve.store.files import write_bytes

MAX_BYTES = 2 * 2**30  # of a checkpoint
MEMORY_BYTES = 12 * 2**30  # address space of the child; importing torch alone maps several GiB
CPU_S = 120
WALL_S = 300

_CHILD = """
import hashlib, io, json, resource, sys
jobs, memory, cpu, size, *inert = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu)))
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
import torch
from safetensors.torch import save_file
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
class Inert:  # in the place of a class that is named beside the tensors: takes what it is given, does nothing
    def __init__(self, *_, **__):
        pass
    def __setstate__(self, state):
        pass
torch.serialization.add_safe_globals([
    (dict if name.endswith("=dict") else type("Inert", (Inert,), {}), name.removesuffix("=dict")) for name in inert
])
for source, out, wanted in json.loads(jobs):
    with open(source, "rb") as file:
        data = file.read(int(size) + 1)
    if hashlib.sha256(data).hexdigest() != wanted:
        sys.exit(3)
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        sys.exit(4)
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        sys.exit(4)
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, out)
"""


def convert(checkpoint: Path, out: Path, *, sha256: str, inert: Sequence[str] = ()) -> Path:
    """Write the tensors of a .pth checkpoint as safetensors.

    Args:
        checkpoint: a state dict saved by torch, plain or under "state_dict".
        out: appears whole or not at all.
        sha256: of the checkpoint's bytes, lower-case hex; mandatory.
        inert: full names of classes that it may mention beside its tensors (hyperparameters, metrics). None of them is
            imported: something empty stands in the place of each; a plain dictionary where the name ends in "=dict".

    Raises: BadData "checkpoint-missing". Refusal "checksum-mismatch", "checkpoint-too-large", "checkpoint-unsafe":
        it holds more than tensors, or reading it broke a limit. Fault "file-unwritable".
    """
    convert_all([(checkpoint, out, sha256)], inert=inert)
    return out


def convert_all(given: Sequence[tuple[Path, Path, str]], *, inert: Sequence[str] = ()) -> None:
    """`convert` for several (checkpoint, out, sha256) of one origin, in one process: all of them or none."""
    for checkpoint, _, sha256 in given:
        _check(checkpoint, sha256)
    with tempfile.TemporaryDirectory(prefix="medserve-convert-") as scratch:
        results = [Path(scratch) / f"{number}.safetensors" for number in range(len(given))]
        jobs = [
            (str(one[0].resolve()), str(result), one[2].lower()) for one, result in zip(given, results, strict=True)
        ]
        code = _run(jobs, Path(scratch), inert)
        for (checkpoint, _, sha256), result in zip(given, results, strict=True):
            if result.exists() and (code == 0 or result != results[-1]):
                continue
            if code == 3:  # changed between our reading and the child's
                raise _mismatch(checkpoint, sha256, "another")
            raise Refusal(
                "checkpoint-unsafe",
                f"{checkpoint.name} is not a plain set of tensors, or reading it took more than is allowed.",
                hint="Ask its author for safetensors.",
            )
        for (_, out, _), result in zip(given, results, strict=True):
            write_bytes(out, result.read_bytes())


def _check(checkpoint: Path, sha256: str) -> None:
    try:
        size = checkpoint.stat().st_size
        if size > MAX_BYTES:
            raise Refusal("checkpoint-too-large", f"{checkpoint.name} holds {size} bytes; at most {MAX_BYTES}.")
        with open(checkpoint, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadData("checkpoint-missing", f"Cannot read {checkpoint.name}: {error.strerror}.") from error
    if found != sha256.lower():
        raise _mismatch(checkpoint, sha256, found)


def _run(jobs: Sequence[tuple[str, str, str]], scratch: Path, inert: Sequence[str]) -> int:
    limits = [str(MEMORY_BYTES), str(CPU_S), str(MAX_BYTES)]
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps(jobs), *limits, *inert]
    quiet = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "HOME": str(scratch), "TMPDIR": str(scratch)}
    try:
        done = subprocess.run(command, cwd=scratch, env=quiet, capture_output=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired:
        return -1
    except OSError as error:
        raise Fault("convert-failed", f"Cannot start the converter: {error.strerror}.") from error
    return done.returncode


def _mismatch(checkpoint: Path, wanted: str, found: str) -> Refusal:
    return Refusal(
        "checksum-mismatch",
        f"{checkpoint.name} has sha256 {found}; {wanted} was expected.",
        hint="It is not the file that was vouched for: fetch it again, or check where it came from.",
    )


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="medserve.models.convert", description="A .pth checkpoint to safetensors.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sha256", required=True, help="of the checkpoint, as its author published it")
    given = parser.parse_args()
    convert(given.checkpoint, given.out, sha256=given.sha256)
