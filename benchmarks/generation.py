"""Molecules written from the 29,782 of the DRD2 optimisation set, and molecules made to score well within a budget.

    python benchmarks/generation.py FOLDER --out RUNS [--budget 3000]   # FOLDER holds mols.txt and train_pairs.txt

Everything by the verbs' own calls, on one core, resumable: the same command goes on. One: a prior is trained on 90 % of
the molecules, each standard form once, and writes 10,000. Two: oracles A and B are trained on molecules of the pairs
(right column active, left not) that share no scaffold; the prior is optimised by A; B judges, beside the best by A of
as many molecules of the prior. Prints one JSON object and exits 1 where a figure of `TARGETS` is missed.

Data: Jin, Barzilay and Jaakkola, ICML 2020 (hgraph2graph). No DRD2 activity was measured: labels are a classifier's.
"""

import argparse
import csv
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from medserve.data.molecules.scaffolds import scaffold
from medserve.data.molecules.standard import standardise
from medserve.errors import Refusal
from medserve.progress import Progress
from medserve.road.generate import write_molecules
from medserve.road.optimise import optimise
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings

TARGETS = {"valid": 0.90, "unique": 0.99, "novel": 0.85, "auroc": 0.85}
PARTS = ("train",) * 90 + ("val",) * 4 + ("calibration",) * 3 + ("test",) * 3
PER_ORACLE = 2500  # molecules
HEAD = "independent: true\nsource: hgraph2graph, data/drd2\nlicence: MIT\npublic: true\n"


def chance(text: str, of: int) -> int:
    """A number below `of` that the text alone decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % of


def standard(text: str) -> str | None:
    try:
        return standardise(text).smiles
    except Refusal:
        return None


def prior_data(folder: Path, out: Path) -> Path:
    if not (out / "dataset.yaml").is_file():
        out.mkdir(parents=True, exist_ok=True)
        forms = {standard(s) for s in (folder / "mols.txt").read_text().split()}
        lines = [f"{s},{PARTS[chance(s, 100)]}" for s in sorted(form for form in forms if form is not None)]
        (out / "molecules.csv").write_text("smiles,part\n" + "\n".join(lines) + "\n")
        (out / "dataset.yaml").write_text(
            f"name: drd2-molecules\ntable: molecules.csv\nsplit: part\n{HEAD}"
            "inputs: {smiles: {kind: molecule}}\ntarget: {kind: generate}\n"
        )
    return out


def oracle_data(folder: Path, out: Path) -> tuple[Path, Path]:
    """Two data sets that share no scaffold; a molecule that stands in both columns is left out."""
    sides = out / "a", out / "b"
    if all((side / "dataset.yaml").is_file() for side in sides):
        return sides
    pairs = [line.split() for line in (folder / "train_pairs.txt").read_text().splitlines()]
    active, not_active = {p[1] for p in pairs}, {p[0] for p in pairs}
    labelled = [(s, "active") for s in active - not_active] + [(s, "inactive") for s in not_active - active]
    labelled.sort(key=lambda row: chance(row[0], 2**60))
    rows: tuple[list[str], list[str]] = ([], [])
    for smiles, label in labelled:
        form = standard(smiles)
        if form is None:
            continue
        side = rows[chance(scaffold(form), 2)]
        if len(side) < PER_ORACLE:
            side.append(f"{form},{label}")
        if all(len(found) == PER_ORACLE for found in rows):
            break
    for side, found in zip(sides, rows, strict=True):
        side.mkdir(parents=True, exist_ok=True)
        (side / "molecules.csv").write_text("smiles,label\n" + "\n".join(found) + "\n")
        (side / "dataset.yaml").write_text(
            f"name: drd2-oracle-{side.name}\ntable: molecules.csv\nsplit: {{by: scaffold, test: 0.2}}\n{HEAD}"
            "inputs: {smiles: {kind: molecule}}\ntarget: {column: label, kind: binary, classes: [inactive, active]}\n"
        )
    return sides


def trained(data: Path, out: Path, settings: Settings, progress: Progress, recipe: str | None = None) -> dict[str, Any]:
    kept = out.with_suffix(".json")
    if not kept.is_file():
        options = Options(recipe=recipe, audit="none")
        kept.write_text(json.dumps(train_package(data, out, settings=settings, options=options, progress=progress)))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def written(prior: Path, out: Path, settings: Settings, data: Path, progress: Progress) -> dict[str, Any]:
    if not out.is_file():
        write_molecules(prior, out, count=10_000, settings=settings, progress=progress)
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    with open(out, newline="") as file:
        different = [row["smiles"] for row in csv.DictReader(file) if row["valid"] == "1"]
    with open(data / "molecules.csv", newline="") as file:
        every = {standard(row["smiles"]) for row in csv.DictReader(file)}
    return found | {"novel_of_all": sum(s not in every for s in different) / len(different)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=3000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings, out = Settings(home=given.out / "home"), given.out
    began, wall = time.process_time(), time.monotonic()
    with Progress() as progress:
        data = prior_data(given.folder, out / "data" / "prior")
        prior = trained(data, out / "prior", settings, progress)
        plain = written(out / "prior", out / "written.csv", settings, data, progress)
        progress.say(json.dumps({name: plain[name] for name in ("valid", "unique", "novel", "novel_of_all")}))
        sides = oracle_data(given.folder, out / "data")
        a, b = (trained(side, out / f"oracle-{side.name}", settings, progress) for side in sides)
        table = out / "best.csv"
        if not table.is_file():
            optimise(out / "prior", table, objectives=[f"{out / 'oracle-a'}:active>"], budget=given.budget,
                     judge=f"{out / 'oracle-b'}:active>", settings=settings, progress=progress)  # fmt: skip
    best = json.loads(table.with_suffix(".json").read_text())
    auroc = [one["metrics"]["auroc"] for one in (a, b)]
    reached = {
        "valid": plain["valid"] >= TARGETS["valid"],
        "unique@10k": plain["unique"] >= TARGETS["unique"],
        "novel": plain["novel_of_all"] >= TARGETS["novel"],
        "auroc": min(one["value"] for one in auroc) >= TARGETS["auroc"],
        "judged better than screening": best["judged"]["difference"]["low"] > 0,
    }
    print(
        json.dumps(
            {
                "prior": {"parts": prior["parts"], "test": prior["metrics"], "seconds": prior["seconds"]},
                "written": {k: v for k, v in plain.items() if k not in ("files", "model")},
                "oracles": {"auroc": auroc, "parts": [a["parts"], b["parts"]], "chosen": [a["chosen"], b["chosen"]]},
                "optimised": {
                    k: best[k]
                    for k in ("spent", "score", "judged", "gap", "valid", "novel", "diversity", "barred", "warnings")
                },  # fmt: skip
                "reached": reached,
                "cpu_s": round(time.process_time() - began),
                "wall_s": round(time.monotonic() - wall),
            },
            indent=1,
        )
    )
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
