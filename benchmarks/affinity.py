"""Affinity of kinase inhibitors on the Davis set, through the road: concordance, squared error, minutes of CPU.

    python benchmarks/affinity.py --data FOLDER [--recipe NAME] [--split folds|drug|target] [--seed 0]

FOLDER holds the files of the DeepDTA repository: the text matrix of Kd (68 drugs x 442 kinases), ligands_can.txt,
proteins.txt and folds/. They are written as a table with a declaration, and then nothing but `train` is called: four of
DeepDTA's training folds train, the fifth is halved into validation and calibration, their test fold is opened once.
Without `--recipe` it is the default of `medserve train`, and validation chooses; with it the recipe is kept.
`--split drug` and `--split target` keep whole drugs, or whole sequences, out of training instead: other questions, with
other figures. Intervals are bootstraps that draw whole drugs (`--intervals target`: whole sequences).

Variants of a kinase share a sequence, so that one pair of molecule and sequence may stand in two folds. The road takes
such pairs off the training side (`--leaks drop`), which makes the task harder than the published one; `--leaks keep` is
theirs.

Prints one JSON object. Targets on `folds`: CI 0.87 within 40 minutes of CPU (the default); on a GPU CI 0.89 and MSE
0.23 (recipe affinity-full). Published on the same folds: DeepDTA .878 / .261, GraphDTA .893 / .229, KronRLS .871 /
.379.
"""

import argparse
import csv
import json
import math
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medserve.progress import SILENT
from medserve.questions.recipes import RECIPES
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings

MATRIX = "drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt"
SHOWN = ("concordance", "mse", "rm2", "rmse", "spearman")
SPLITS = {
    "folds": "split: part\n",
    "drug": "split: {by: column, column: smiles, test: 0.2}\n",
    "target": "split: {by: column, column: sequence, test: 0.2}\n",
}


def write_davis(source: Path, folder: Path, split: str, intervals: str) -> Path:
    """The set as a table with a declaration; pKd = 9 - log10(Kd / nM)."""
    drugs = json.loads((source / "ligands_can.txt").read_text())
    proteins = json.loads((source / "proteins.txt").read_text())
    matrix = [[float(kd) for kd in line.split()] for line in (source / MATRIX).read_text().splitlines()]
    parts = {pair: "test" for pair in json.loads((source / "folds" / "test_fold_setting1.txt").read_text())}
    for number, fold in enumerate(json.loads((source / "folds" / "train_fold_setting1.txt").read_text())):
        parts |= dict.fromkeys(fold, "val" if number == 4 else "train")
    folder.mkdir()
    sequences = {s: f"p{i}" for i, s in enumerate(dict.fromkeys(proteins.values()))}  # variants share a sequence
    with open(folder / "davis.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["drug", "kinase", "protein", "smiles", "sequence", "pkd", "part"])
        for i, (drug, smiles) in enumerate(drugs.items()):
            for j, (kinase, sequence) in enumerate(proteins.items()):
                pkd, part = 9 - math.log10(matrix[i][j]), parts[i * len(proteins) + j]
                out.writerow([drug, kinase, sequences[sequence], smiles, sequence, f"{pkd:.6f}", part])
    (folder / "dataset.yaml").write_text(
        "name: davis\ntable: davis.csv\nindependent: true\npublic: true\n"
        + f"intervals: {'protein' if intervals == 'target' else 'drug'}\n"
        + SPLITS[split]
        + "inputs:\n  smiles: {kind: molecule}\n  sequence: {kind: protein, residues: 1200}\n"
        + "target: {column: pkd, kind: number}\n"
    )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe")
    parser.add_argument("--split", choices=sorted(SPLITS), default="folds")
    parser.add_argument("--intervals", choices=["drug", "target"], default="drug")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--leaks", choices=["drop", "keep"], default="drop", help="pairs that stand in two parts")
    parser.add_argument("--audit", choices=["full", "quick", "none"], default="none")
    parser.add_argument("--out", type=Path, help="keep the package here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        data = write_davis(arguments.data, root / "davis", arguments.split, arguments.intervals)
        began, clock = time.process_time(), time.monotonic()
        result = train_package(
            data, arguments.out or root / "package", settings=Settings(home=root / "home"),
            options=Options(recipe=arguments.recipe, seed=arguments.seed, keep="recipe" if arguments.recipe else None,
                            audit=arguments.audit, epochs=arguments.epochs, leaks=arguments.leaks), progress=SILENT,
        )  # fmt: skip
        found: dict[str, Any] = {
            "recipe": result["recipe"], "offered": result["chosen"], "split": result["split"], "parts": result["parts"],
            "seed": arguments.seed, "leaks": arguments.leaks, "left_training_side": result["left_training_side"],
            **{name: result["metrics"][name] for name in SHOWN if name in result["metrics"]},
            "intervals": f"95 %, drawing whole {arguments.intervals}s",
            "beside": RECIPES[result["recipe"]].baseline,
            "against_it": {k: result["decision"]["difference"][k] for k in ("value", "low", "high")},
            "cpu_minutes": round((time.process_time() - began) / 60, 1),
            "wall_minutes": round((time.monotonic() - clock) / 60, 1),
            "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
