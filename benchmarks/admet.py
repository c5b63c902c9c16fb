"""The ADMET panel beside ADMET-AI's own loop: the same molecules, the same ten models, one thread each.

    python benchmarks/admet.py --shared FOLDER                # 10,000 molecules: some twenty minutes
    python benchmarks/admet.py --shared FOLDER --quick        # 1,000, in blocks of 100

FOLDER holds molecule_optimization/drd2/mols.txt, one SMILES a line. Each side is a process that loads its models once
and then answers blocks of 500 in turn, in mirrored order (ours, theirs | theirs, ours). `panel` is everything: reading,
properties, ten networks, percentiles; ours also standardises each molecule, makes its InChIKey and finds the nearest
approved drug, which the library does not. `models` is the ten networks alone, from SMILES to 41 numbers. Reported: the
ratio of processor seconds inside each pair of blocks, its median and 95 % bootstrap interval, wall-clock seconds beside
it, and the largest difference of any answer. Writes dist/admet.json.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BLOCK, SEED = 500, 7
WHAT = ("panel", "models")


def serve_library() -> Any:
    import logging

    logging.disable(logging.WARNING)
    import torch
    from admet_ai import ADMETModel

    torch.set_num_threads(1)
    every = ADMETModel(num_workers=0)
    bare = ADMETModel(num_workers=0, include_physchem=False, drugbank_path=None)

    def answer(what: str, smiles: list[str]) -> Any:
        return (every if what == "panel" else bare).predict(smiles)

    def numbers(found: Any, names: list[str]) -> Any:
        return found[names].to_numpy(np.float64)

    return answer, numbers


def serve_ours() -> Any:
    from medserve.data.molecules.standard import chemistry
    from medserve.progress import SILENT
    from medserve.road.admet.endpoints import PLACES
    from medserve.road.admet.panel import Job, Panel
    from medserve.road.admet.shipped import NAMES

    panel = Panel(Job(os.environ["MEDSERVE_HOME"], [], True, {}), SILENT)
    assert panel.shipped is not None
    shipped = panel.shipped

    def answer(what: str, smiles: list[str]) -> Any:
        if what == "panel":
            return panel(smiles)
        return shipped.run([shipped.letters.read(chemistry().MolFromSmiles(text)) for text in smiles]).values

    def numbers(found: Any, names: list[str]) -> Any:
        if isinstance(found, list):
            return np.array([[one.raw[PLACES[name]] for name in names] for one in found])
        return found[:, [NAMES.index(name) for name in names]]

    return answer, numbers


def serve(side: str) -> None:
    """Answer blocks until the pipe closes; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer, numbers = serve_library() if side == "theirs" else serve_ours()
    for line in sys.stdin:
        asked = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        found = answer(asked["what"], asked["smiles"])
        said = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        answers.write(json.dumps(said | {"numbers": numbers(found, asked["names"]).tolist()}) + "\n")
        answers.flush()


class Side:
    def __init__(self, name: str, home: str) -> None:
        env = dict(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MEDSERVE_HOME": home}
        command = [sys.executable, __file__, "--serve", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )

    def __call__(self, what: str, smiles: list[str], names: list[str]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"what": what, "smiles": smiles, "names": names}) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def chosen(path: Path, count: int) -> list[str]:
    """Molecules in the standard form, so that both sides are asked about the very same."""
    from medserve.data.molecules.standard import standardise
    from medserve.errors import MedServeError

    lines = path.read_text().split()
    random.Random(SEED).shuffle(lines)
    found: dict[str, None] = {}
    for line in lines:
        if len(found) == count:
            break
        try:
            found[standardise(line).smiles] = None
        except MedServeError:
            continue
    return list(found)


def interval(ratios: list[float]) -> list[float]:
    draws = np.random.default_rng(SEED).choice(ratios, (5000, len(ratios)))
    return [round(float(q), 2) for q in np.quantile(np.median(draws, axis=1), (0.025, 0.975))]


def measure(smiles: list[str], block: int, home: str) -> dict[str, Any]:
    from medserve.road.admet.endpoints import ENDPOINTS
    from medserve.road.admet.shipped import NAMES

    names = {"panel": [e.id for e in ENDPOINTS], "models": list(NAMES)}
    sides = {name: Side(name, home) for name in ("ours", "theirs")}
    blocks = [smiles[at : at + block] for at in range(0, len(smiles), block)]
    seconds: dict[str, list[dict[str, dict[str, float]]]] = {what: [] for what in WHAT}
    gap = 0.0
    for side in sides.values():  # the first pass pays for what is made once
        for what in WHAT:
            side(what, blocks[0][:50], names[what])
    for number, some in enumerate(blocks):
        for what in WHAT:
            order = ["ours", "theirs"] if number % 2 == 0 else ["theirs", "ours"]
            told = {name: sides[name](what, some, names[what]) for name in order}
            seconds[what].append({name: {k: told[name][k] for k in ("wall", "cpu")} for name in order})
            gap = max(gap, float(np.abs(np.subtract(told["ours"]["numbers"], told["theirs"]["numbers"])).max()))
        print(f"{number + 1} of {len(blocks)} blocks", file=sys.stderr)
    for side in sides.values():
        side.close()
    found: dict[str, Any] = {"molecules": len(smiles), "largest_difference": gap}
    for what, rounds in seconds.items():
        one: dict[str, Any] = {}
        for clock in ("cpu", "wall"):
            ratios = [r["theirs"][clock] / r["ours"][clock] for r in rounds]
            one[clock] = {
                "ours_s": round(sum(r["ours"][clock] for r in rounds), 1),
                "theirs_s": round(sum(r["theirs"][clock] for r in rounds), 1),
                "times_as_fast": round(float(np.median(ratios)), 2),
                "interval": interval(ratios),
            }
        found[what] = one | {"met": one["cpu"]["interval"][0] >= 1.0}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=os.environ.get("MEDSERVE_SHARED"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", choices=("ours", "theirs"))
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    if given.shared is None:
        parser.error("--shared FOLDER, or MEDSERVE_SHARED")
    folder = Path(given.shared)
    folder = folder / "data" if (folder / "data").is_dir() else folder
    smiles = chosen(folder / "molecule_optimization" / "drd2" / "mols.txt", 1_000 if given.quick else 10_000)
    with tempfile.TemporaryDirectory(prefix="medserve-admet-") as home:
        found = measure(smiles, 100 if given.quick else BLOCK, home)
    Path("dist").mkdir(exist_ok=True)
    Path("dist/admet.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
