"""Molecules a second against Chemprop's own `predict`, and the memory of a screen by the number of rows.

    python benchmarks/screening.py speed --shared DATA [--molecules 10000] [--repeats 3] [--workers 2]
    python benchmarks/screening.py memory [--few 10000] [--many 1000000] [--workers 2]

speed: a regression (lipophilicity, of `DATA/data/moleculenet`), asked for the same molecules (the sets of that folder,
those that Chemprop can read). Ours is the whole `medserve screen` of a package with one hit listed, reading and results
included: once of fragments alone (`descriptors: false`), once with descriptors. The peer is the command `chemprop
predict` with a message-passing network of its default size; what it was trained for does not change its time, so it is
not trained. They take turns; `ratio` is the peer's time over ours, the median of the pairs, by the clock and by
processor seconds of the process and its children (on a busy machine the second says more). Target: 3.

memory: a library of enumerated molecules, ranked by likeness to known ones. The resident sizes of the process and its
children are summed every 50 ms; `ratio` is many over few. Target: 1. Prints one JSON object.
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

RINGS = (
    "c1ccc({0})c({1})c1",
    "c1cc({0})nc({1})c1",
    "C1CC({0})CC({1})C1",
    "c1c({0})sc({1})c1",
    "c1c({0})oc({1})c1",
    "C1CN({0})CC({1})C1",
    "c1cc({0})c2ccc({1})cc2c1",
    "C1C({0})OC({1})C1",
    "c1nc({0})nc({1})c1",
    "C1C({0})C1{1}",
)
LINKS = ("", "C", "CC", "O", "N", "OC", "NC", "C(=O)N", "S(=O)(=O)", "C(=O)")
CORES = ("C", "CC", "C(C)C", "CCC", "C9CC9", "CC(F)C")
ENDS = ("", "C", "F", "N", "C#N", "Cl")
BODIES = tuple("".join(parts) for parts in itertools.product(LINKS, CORES, ENDS))
CLOCKS = ("wall_s", "cpu_s")
PEER = """
import sys, warnings
warnings.filterwarnings("ignore")
from chemprop import models, nn
from chemprop.models.utils import save_model
scaled = nn.RegressionFFN(output_transform=nn.transforms.UnscaleTransform([0.0], [1.0]))
save_model(sys.argv[1], models.MPNN(nn.BondMessagePassing(), nn.NormAggregation(), scaled), ["y"])
"""
YAML = """
name: {name}
table: lipophilicity.csv
independent: true
public: true
inputs: {{smiles: {{kind: molecule, descriptors: {descriptors}}}}}
target: {{column: exp, kind: number}}
"""


def medserve(*words: object) -> list[str]:
    return [sys.executable, "-m", "medserve.cli", *map(str, words)]


def timed(command: Sequence[str]) -> dict[str, float]:
    """Seconds by the clock and of the processor, of a command and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall_s": round(took, 2), "cpu_s": round(cpu, 2)}


def molecules_of(folder: Path, count: int) -> list[str]:
    """Distinct ones that RDKit reads, in a fixed order."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                text = row.get("smiles") or ""
                if text and text not in found and Chem.MolFromSmiles(text) is not None:
                    found[text] = None
                if len(found) == count:
                    return list(found)
    return list(found)


def made(count: int) -> Iterator[str]:
    """Distinct SMILES, by enumeration."""
    every = (ring.format(a, b) for ring in RINGS for a in BODIES for b in BODIES)
    return itertools.islice(every, count)


def train(work: Path, data: Path, name: str, descriptors: bool) -> Path:
    folder = work / name
    folder.mkdir()
    shutil.copy(data / "lipophilicity.csv", folder)
    (folder / "dataset.yaml").write_text(YAML.format(name=name, descriptors=str(descriptors).lower()))
    subprocess.run(medserve("train", folder, "--out", work / f"{name}-package", "--audit", "none", "--recipe", "linear",
                            "--home", work / "home", "--json"), check=True, capture_output=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    return work / f"{name}-package"


def speed(asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    data = asked.shared / "data" / "moleculenet"
    rows = molecules_of(data, asked.molecules)
    library = work / "library.csv"
    library.write_text("smiles\n" + "\n".join(rows) + "\n")
    subprocess.run([sys.executable, "-c", PEER, work / "peer.pt"], check=True, capture_output=True)
    chemprop = Path(sys.executable).with_name("chemprop")
    packages = {name: train(work, data, name, name != "fragments") for name in asked.packages}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("chemprop", *packages)}
    for repeat in range(asked.repeats):
        peer = ["--test-path", library, "--smiles-columns", "smiles", "--model-paths", work / "peer.pt", "--preds-path",
                work / "p.csv", "--accelerator", "cpu"]  # fmt: skip
        runs["chemprop"].append(timed([str(chemprop), "predict", *map(str, peer)]))
        for name, package in packages.items():
            words = ["screen", "--library", library, "--model", package, "--top", 1, "--diverse", 0, "--workers",
                     asked.workers, "--home", work / "home", "--json", "--out", work / f"{name}-{repeat}"]  # fmt: skip
            runs[name].append(timed(medserve(*words)))
    ratios = {name: {clock: ratio(runs["chemprop"], runs[name], clock) for clock in CLOCKS} for name in packages}
    return {"molecules": len(rows), "workers": asked.workers, "runs": runs, "ratio": ratios}


def ratio(peer: Sequence[dict[str, float]], ours: Sequence[dict[str, float]], clock: str) -> float:
    return round(statistics.median(a[clock] / b[clock] for a, b in zip(peer, ours, strict=True)), 2)


def memory(asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"workers": asked.workers}
    actives = list(made(2000))[::20]
    (work / "known.smi").write_text("\n".join(actives) + "\n")
    for name, count in (("few", asked.few), ("many", asked.many)):
        library = work / f"{name}.smi"
        with open(library, "w") as file:
            file.writelines(f"{smiles} m{i}\n" for i, smiles in enumerate(made(count)))
        words = ["screen", "--library", library, "--actives", work / "known.smi", "--workers", asked.workers, "--home",
                 work / "home", "--json", "--out", work / name]  # fmt: skip
        began, most = time.perf_counter(), 0
        process = psutil.Popen(medserve(*words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            most = max(most, tree_bytes(process))
            time.sleep(0.05)
        told = json.loads(process.communicate()[0])
        found[name] = {"rows": told["molecules"], "refused": told["refused"], "peak_mb": round(most / 2**20, 1),
                       "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
        shutil.rmtree(work / name)
    found["ratio"] = round(found["many"]["peak_mb"] / found["few"]["peak_mb"], 3)
    return found


def tree_bytes(process: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("what", choices=["speed", "memory"])
    asked.add_argument("--shared", type=Path, default=Path(os.environ.get("MEDSERVE_SHARED", ".")))
    asked.add_argument("--molecules", type=int, default=10_000)
    asked.add_argument("--packages", nargs="+", default=["fragments", "descriptors"])
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--workers", type=int, default=2)
    asked.add_argument("--few", type=int, default=10_000)
    asked.add_argument("--many", type=int, default=1_000_000)
    said = asked.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps((speed if said.what == "speed" else memory)(said, Path(work))))


if __name__ == "__main__":
    main()
