"""An uploaded package, opened for the first time: in a process of its own, with limits, and thrown away afterwards.

    found = examine(archive, staging, signers)       # Examined(folder, name, version, digest, signer, bytes)

Unpacking, parsing, the engine's own parser and the self-check all happen in the child: what breaks there, breaks there.
It has no environment, no keys (it is told the trusted public ones), no descriptors of ours, no network where the kernel
lets us take it away, and limits on memory, processor time and the files it may write. It answers one line of JSON.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medserve.errors import BadPackage, Fault, MedServeError

MEMORY_BYTES = 6 * 2**30  # address space of the child; the engine maps about 1 GiB before it reads a graph
CPU_S, WALL_S = 120, 300
MOST_SAID = 2**16
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # unshare(2)


@dataclass(frozen=True, slots=True)
class Examined:
    """A package that opened and reproduced its self-check. folder: its files, in the staging folder."""

    folder: Path
    name: str
    version: str
    digest: str
    signer: str
    bytes: int


def examine(
    source: Path, staging: Path, signers: Mapping[str, str], *, memory_bytes: int = MEMORY_BYTES, cpu_s: int = CPU_S
) -> Examined:
    """Unpack and judge. The caller removes, or places, the folder.

    Args:
        source: a ZIP file, or the folder of a package, which is then copied.
        staging: a folder on the same disk as the place where packages are kept.
        signers: trusted public keys, as in `Trust`.

    Raises: BadPackage: what the child found; "package-hostile": it broke a limit. Fault "file-unwritable".
    """
    work = Path(tempfile.mkdtemp(dir=staging))
    try:
        said = _ask(source, work, signers, memory_bytes, cpu_s)
        if "error" in said:
            error, folder = said["error"], str(work / "package")
            message = str(error["message"]).replace(f"{folder}/", "").replace(folder, "The archive")
            raise BadPackage(str(error["code"]), message, hint=str(error["hint"]))
        return Examined(work / "package", **said)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _ask(source: Path, work: Path, signers: Mapping[str, str], memory: int, cpu_s: int) -> dict[str, Any]:
    asked = json.dumps({"source": str(source), "work": str(work), "signers": dict(signers), "memory": memory,
                        "cpu": cpu_s})  # fmt: skip
    command = [sys.executable, "-I", "-m", "medserve.runtime.examine"]
    env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(work), "TMPDIR": str(work)}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, cwd=work,
        start_new_session=True, close_fds=True,
    )  # fmt: skip
    try:
        out, _ = child.communicate(asked.encode(), timeout=WALL_S)
    except subprocess.TimeoutExpired:
        out = b""
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    try:
        said = json.loads(out[:MOST_SAID])
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise BadPackage(
            "package-hostile",
            "Opening the package broke a limit of memory or time, or the process that opened it.",
            hint="Nothing of it was kept.",
        )
    return said


def main() -> None:
    """The child's side: one question on stdin, one answer on stdout."""
    without_network()
    asked = json.loads(sys.stdin.buffer.read(2**20))
    answer = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may speak there
    try:
        said = _examined(asked)
    except MedServeError as error:
        said = error.as_dict()
    except MemoryError:
        said = Fault("package-hostile", "Opening the package took more memory than is allowed.").as_dict()
    except Exception as error:
        said = Fault("package-broken", f"The package cannot be opened ({type(error).__name__}).").as_dict()
    answer.write(json.dumps(said).encode())
    answer.flush()


def without_network() -> bool:
    """A network of its own, in which nobody is. False where the kernel does not let us."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    return bool(unshare(_NEW_USER | _NEW_NETWORK) == 0 or unshare(_NEW_NETWORK) == 0)


def _examined(asked: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime  # noqa: F401  before the limits: its own files are ours

    from medserve.models.archive import MAX_BYTES, read_bytes, unpack
    from medserve.models.package import ALTERNATIVE, open_package
    from medserve.models.signing import Trust

    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_AS: asked["memory"], resource.RLIMIT_CPU: asked["cpu"],
              resource.RLIMIT_FSIZE: MAX_BYTES, resource.RLIMIT_NOFILE: 64}  # fmt: skip
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    source, folder = Path(asked["source"]), Path(asked["work"]) / "package"
    if source.is_dir():
        shutil.copytree(source, folder, symlinks=True)
    else:
        unpack(source, folder)
    trust = Trust(asked["signers"])
    opened = [open_package(folder, trust)]
    if (folder / ALTERNATIVE).exists():
        opened.append(open_package(folder / ALTERNATIVE, trust))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    from medserve.runtime.model import LoadedModel

    models = [LoadedModel(package, threads=1) for package in opened]
    model, package = models[0], opened[0]
    return {"name": model.name, "version": model.version, "digest": model.digest, "signer": package.signer,
            "bytes": read_bytes(folder)}  # fmt: skip


if __name__ == "__main__":
    main()
