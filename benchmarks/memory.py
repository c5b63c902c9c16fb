"""Does memory grow with the number of files? Peak resident memory of preparing, and of training, few files and many.

    python benchmarks/memory.py --few 1000 --many 5000 [--train] [--epochs 1] [--recipe residual-quick]

Generates 512 x 512 16-bit DICOM files with a table of labels; the small set is the first part of the large one (hard
links). Each step runs in a process of its own; the resident set sizes of that process and of all its children are
summed every 20 ms. Prints one JSON object; `ratio` is many over few.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from medserve.data.phantoms import CLASSES, Phantom, dicom_bytes

SIZE = 512
PREPARE = """
import sys
from pathlib import Path
from medserve.data.forms import list_items
from medserve.data.prepare import prepare, probe
from medserve.data.transforms import default_transforms
listing = list_items(Path(sys.argv[1]))
seen, shape = probe(listing), (1, 224, 224)
cohort = prepare(listing, default_transforms(shape=shape, colour=seen.colour, unit=seen.unit), shape, Path(sys.argv[2]),
                 workers=int(sys.argv[3]))
assert len(cohort) == len(listing.items) and not cohort.refused
"""


def write_files(folder: Path, count: int, seed: int = 7) -> list[list[str]]:
    """Smooth random tissue, noise, and a bright disc in the positives; rows of the table."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    noise = rng.normal(0, 40, (SIZE, SIZE)).astype(np.float32)
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(count):
        coarse = Image.fromarray(rng.normal(1500, 400, (9, 9)).astype(np.float32))
        film = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) + np.roll(noise, index, (0, 1))
        label = index % 2
        if label:
            cy, cx = rng.integers(100, 412, 2)
            film = film + 900 * (np.hypot(y - cy, x - cx) < 45)
        stored = np.clip(film, 0, 4095).astype(np.uint16)
        phantom = Phantom(f"MEM-{index // 2:05d}-{label}", index, stored, label, np.zeros(0, bool), "F", 50, "north")
        name = f"images/{index:05d}.dcm"
        (folder / name).write_bytes(dicom_bytes(phantom, f"2.25.{10**30 + index}"))
        rows.append([name, phantom.patient, CLASSES[label]])
    return rows


def write_table(folder: Path, rows: list[list[str]]) -> None:
    lines = ["file,patient,label", *(",".join(r) for r in rows)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process and all below it now."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


def peak(command: list[str]) -> tuple[float, float]:
    """(peak MiB, seconds) of a command and its children."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ) | {"OMP_NUM_THREADS": "2"})
    watched, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            most = max(most, memory_of(watched))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit(f"{command[:4]} failed with {process.returncode}")
    return most / 2**20, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="worker processes of preparing")
    parser.add_argument("--train", action="store_true", help="measure `medserve train` too")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--recipe", default="residual-quick")
    arguments = parser.parse_args()
    result: dict[str, object] = {"few": arguments.few, "many": arguments.many, "size": SIZE}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sets = {"few": root / "few", "many": root / "many"}
        rows = write_files(sets["many"], arguments.many)
        (sets["few"] / "images").mkdir(parents=True)
        for row in rows[: arguments.few]:
            os.link(sets["many"] / row[0], sets["few"] / row[0])
        write_table(sets["many"], rows)
        write_table(sets["few"], rows[: arguments.few])
        commands = {
            f"prepare, {w} process{'es' if w > 1 else ''}": [sys.executable, "-c", PREPARE, "DATA", "OUT", str(w)]
            for w in arguments.workers
        }
        if arguments.train:
            train = [
                sys.executable,
                "-m",
                "medserve.cli",
                "train",
                "DATA",
                "--out",
                "OUT",
                "--home",
                str(root / "home"),
            ]
            more = ["--epochs", str(arguments.epochs), "--recipe", arguments.recipe, "--audit", "none", "--json"]
            commands[f"train, {arguments.recipe}, {arguments.epochs} epochs"] = train + more
        for what, command in commands.items():
            found = {}
            for size, folder in sets.items():
                out = root / f"out-{size}-{len(result)}"
                filled = [{"DATA": str(folder), "OUT": str(out)}.get(word, word) for word in command]
                found[size] = peak(filled)
            result[what] = {
                "few_mib": round(found["few"][0], 1),
                "many_mib": round(found["many"][0], 1),
                "ratio": round(found["many"][0] / found["few"][0], 4),
                "seconds": [round(found[s][1], 1) for s in sets],
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
