"""The DICOM files that pydicom ships, damaged again and again by a seed, sent to a running service.

    PYTHONPATH=tests python tests/serving/mutation_campaign.py TIMES SEED          prints one JSON object

Each damage is one to four of: bytes overwritten, bits flipped, a piece cut out, doubled or moved, the end cut off, a
length said to be another. What counts: an answer within 5 s, with a code if it is none; no traceback, no status of 500
or more, and a service that still runs as the same process.
"""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
import pydicom.data
from hostile_service import Service, hostile

FILES = Path(pydicom.data.__file__).parent
SECONDS = 5.0
LARGEST = 2**20  # bytes of a file


def files() -> list[Path]:
    """With and without a suffix, directories of media too."""
    found = [p for p in FILES.rglob("*") if p.is_file() and 0 < p.stat().st_size <= LARGEST]
    return sorted(p for p in found if p.suffix == ".dcm" or p.read_bytes()[128:132] == b"DICM")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Most damage is done to the first 4,096 bytes, where the header is."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not out:
            break
        at = chance.randrange(min(len(out), 4096) if chance.random() < 0.7 else len(out))
        size = min(chance.choice((1, 2, 4, 8, 64, 512)), len(out) - at)
        match chance.randrange(7):
            case 0:
                out[at : at + size] = chance.randbytes(size)
            case 1:
                out[at] ^= 1 << chance.randrange(8)
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size]
            case 4:
                piece = bytes(out[at : at + size])
                del out[at : at + size]
                to = chance.randrange(len(out) + 1)
                out[to:to] = piece
            case 5:
                del out[max(1, at) :]
            case _:
                out[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"))
    return bytes(out)


def send(service: Service, data: bytes) -> tuple[str, str]:
    """Returns: what was answered ("200", or the code), and what is wrong with it ("" for nothing)."""
    began = time.perf_counter()
    try:
        got = service.ask("film", data, "application/dicom")
    except httpx2.HTTPError as error:
        return type(error).__name__, "no answer"
    spent = time.perf_counter() - began
    code = "200" if got.status_code == 200 else got.json().get("error", {}).get("code", "")
    if got.status_code >= 500 or not code:
        return code, f"status {got.status_code}"
    if "Traceback" in got.text:
        return code, "a traceback"
    return code, f"{spent:.1f} s" if spent > SECONDS else ""


def run(service: Service, paths: list[Path], times: int, seed: int) -> dict:
    answers: Counter[str] = Counter()
    wrong, process = [], service.server.pid
    for path in paths:
        data = path.read_bytes()
        for i in range(times):
            said, why = send(service, damaged(data, random.Random(f"{seed} {path.relative_to(FILES)} {i}")))
            answers[said] += 1
            if why:
                wrong.append(f"{path.name} {i}: {said} {why}")
    up = service.http.get("/v2/health/live").status_code == 200 and service.server.pid == process
    return {
        "files": len(paths), "sent": sum(answers.values()), "wrong": wrong, "service_up": up,
        "tracebacks_in_log": service.stderr.count("Traceback"), "answers": dict(answers.most_common()),
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work, hostile(Path(work)) as running:
        found = run(running, files(), int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["wrong"]) or not found["service_up"])
