"""The tuner's verdict: which engine runs this model fastest on this machine, and what was measured to say so.

    path = write_verdict(settings.folder("tuned"), verdict)
    verdict = find_verdict(settings.home / "tuned", digest, threads=2, warn=print)      # None: ONNX Runtime

One JSON file a model and machine, under MEDSERVE_HOME/tuned: it belongs to the machine and never travels with the
package. It is read as data with bounds. A file that is damaged, or was measured on another machine, for another model
or with other versions of the engines, is ignored with a coded warning. Where int8 was chosen, the quantised graph lies
beside it, bound by its sha256 in the verdict; it can always be made again.
"""

import functools
import hashlib
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from medserve.runtime.engine import OVERLAP, Choice, Unfit, versions
from medserve.runtime.gate import Gate
from medserve.store.files import write_bytes

EXACT = "fp32"
COMPARED = ("inductor",)  # measured, never chosen: it would compile for a minute at each start
MOST_TOLERANCE = 8.0  # share of an output's size by which any engine may ever leave the self-check
_MOST_BYTES = 2**20
_MOST_MORE = 2**24  # bytes by which a quantised graph may be larger than the graph itself
_QUANTISED = ".int8"
Share = Annotated[float, msgspec.Meta(ge=0.0, le=MOST_TOLERANCE)]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One choice: its speed, how far it leaves the self-check, and what keeps it out ("" where nothing does).

    lone_ms: one case alone, all streams idle. gap: output -> largest difference as a share of that output's size.
    again: share of the cases that had a second look.
    """

    choice: Choice
    images_per_s: float | None = None
    lone_ms: float | None = None
    gap: dict[str, float] = {}
    gate: Gate | None = None
    code: str = ""
    reason: str = ""
    again: float = 0.0


class Verdict(msgspec.Struct, forbid_unknown_fields=True):
    """tolerance: output -> what the chosen engine's self-check may differ by. cases: of the gate; 0 without data.
    quantised: sha256 of the int8 graph beside the verdict, "" where the choice needs none. margins: of its second look,
    output -> how near to a limit."""

    format: Literal["medserve-tuned/1"]
    digest: str
    processor: str
    cores: int
    versions: dict[str, str]
    chosen: Choice
    tolerance: dict[str, Share]
    rows: list[Row]
    quantised: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    margins: dict[str, Annotated[float, msgspec.Meta(ge=0.0)]] = {}
    cases: int = 0
    data: str = ""
    note: str = ""
    at: str = ""


@functools.cache
def processor() -> str:
    """The processor's name and a mark of its instructions, which decide both speed and the last bits."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    facts = {key: m[1].strip() for key in ("model name", "cpu family", "model", "flags", "Features")
             if (m := re.search(rf"^{key}\s*:(.*)$", text, re.MULTILINE))}  # fmt: skip
    name = facts.pop("model name", "") or platform.processor() or platform.machine()
    mark = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:8]
    return f"{name} {mark}"


def verdict_path(folder: Path, digest: str, threads: int = 0) -> Path:
    """DIGEST-PROCESSOR-CORES.json. threads: 0 means all cores."""
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")[:80]
    return folder / f"{digest.removeprefix('sha256:')[:16]}-{slug}-{threads or cores()}.json"


def cores() -> int:
    return os.cpu_count() or 1


def write_verdict(folder: Path, verdict: Verdict, quantised: bytes = b"") -> Path:
    """quantised: the int8 graph of the choice; what an earlier verdict left there goes away.

    Raises: Fault "disk-full" or "file-unwritable".
    """
    path = verdict_path(folder, verdict.digest, verdict.cores)
    if quantised:
        write_bytes(path.with_suffix(_QUANTISED), quantised, mode=0o600)
    write_bytes(path, msgspec.json.format(msgspec.json.encode(verdict), indent=1), mode=0o600)
    if not quantised:
        path.with_suffix(_QUANTISED).unlink(missing_ok=True)
    return path


def read_quantised(folder: Path, verdict: Verdict, graph_bytes: int) -> bytes:
    """The int8 graph of the verdict's choice; nothing where the choice needs none.

    Raises: Unfit "tuned-graph": it is missing, too large, or not the one that passed the gate.
    """
    if not verdict.quantised:
        return b""
    path, most = verdict_path(folder, verdict.digest, verdict.cores).with_suffix(_QUANTISED), graph_bytes + _MOST_MORE
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unfit("tuned-graph", f"Its quantised graph {path.name} cannot be read.") from error
    if len(data) > most or hashlib.sha256(data).hexdigest() != verdict.quantised:
        raise Unfit("tuned-graph", f"Its quantised graph {path.name} is not the one that was measured.")
    return data


def find_verdict(folder: Path, digest: str, *, threads: int = 0, warn: Callable[[str], None]) -> Verdict | None:
    """What was measured for this model, processor and number of cores; None where nothing that can be used was."""
    path = verdict_path(folder, digest, threads)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError:
        return None
    try:
        verdict = msgspec.json.decode(data, type=Verdict) if len(data) <= _MOST_BYTES else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        verdict = None
    code, why = _unusable(verdict, digest, threads or cores())
    if not code:
        return verdict
    warn(f"warning {code}: {path.name} {why}; ONNX Runtime runs the model. Measure again: medserve tune DIR")
    return None


def _unusable(verdict: Verdict | None, digest: str, threads: int) -> tuple[str, str]:
    """Code and reason, both empty where the verdict holds here and now."""
    if verdict is None:
        return "tuned-damaged", "is no verdict of the tuner"
    if (verdict.digest, verdict.processor, verdict.cores) != (digest, processor(), threads):
        return "tuned-foreign", "was measured for another model or machine"
    chosen, here = verdict.chosen, versions()
    if chosen.engine not in here:
        return "tuned-engine", f"chose {chosen.engine}, which is not installed"
    if verdict.versions.get(chosen.engine) != here[chosen.engine]:
        return "tuned-stale", f"was measured with another version of {chosen.engine}"
    gated = any(row.choice == chosen and row.gate is not None and row.gate.passed for row in verdict.rows)
    lacking = (chosen.precision == "int8") != bool(verdict.quantised) or chosen.second != ("logits" in verdict.margins)
    if (
        chosen.engine in COMPARED
        or chosen.streams > verdict.cores * (OVERLAP if chosen.shared else 1)
        or (chosen.precision != EXACT and not gated)
        or lacking
    ):
        return "tuned-damaged", "chooses what the tuner would not"
    return "", ""
