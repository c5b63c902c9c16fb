"""Public sets of molecules through `medserve train --choose`, against published figures and a random forest.

    python benchmarks/molecules.py --shared FOLDER --out RUNS [--sets esol-scaffold esol-balanced esol-random
                         lipophilicity-scaffold lipophilicity-balanced bbbp-scaffold tox21-random] [--seeds 0 1 2]

Which recipe is offered, and each recipe's own settings, are decided by nested cross-validation inside the training
side; then the sealed test part is opened once a seed. Of a scaffold split the largest families are trained on, without
chance, and seeds move the models alone; a balanced scaffold split and a random one are drawn anew by each seed. A set
that was run stands in RUNS and is not run again. Prints one JSON object, and a table in Markdown on the error stream.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOLUBILITY = {"file": "esol.csv", "target": "measured log solubility in mols per litre", "metric": "rmse"}
LIPOPHILICITY = {"file": "lipophilicity.csv", "target": "exp", "metric": "rmse"}
LARGEST, BALANCED, RANDOM = "by: scaffold", "by: scaffold, order: balanced, seed: {seed}", "by: random, seed: {seed}"
SETS: dict[str, dict[str, Any]] = {
    "esol-scaffold": SOLUBILITY | {"split": LARGEST, "reach": 0.75},
    "esol-balanced": SOLUBILITY | {"split": BALANCED, "reach": 0.75},
    "esol-random": SOLUBILITY | {"split": RANDOM, "reach": 0.55},
    "lipophilicity-scaffold": LIPOPHILICITY | {"split": LARGEST, "reach": 0.66},
    "lipophilicity-balanced": LIPOPHILICITY | {"split": BALANCED, "reach": 0.66},
    "bbbp-scaffold": {"file": "bbbp.csv", "target": "p_np", "split": LARGEST, "metric": "auroc", "reach": 0.76},
    "tox21-random": {"file": "tox21.csv", "split": RANDOM, "metric": "auroc", "reach": 0.83},
}
CHOOSE = {name: "forest,boosting,molecule-graph" for name in SETS} | {
    "bbbp-scaffold": "forest,boosting,case-network",
    "tox21-random": "forest,case-network",
}  # what a laptop compares in minutes; boosting of twelve labels takes longer (--choose)
FOLDS = 2
LOWER = ("rmse", "mae")


def prepare(name: str, shared: Path, folder: Path, seed: int) -> Path:
    """The set as a user would hold it: its table, and a declaration. seed: of the split, where it has one."""
    said = SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    source = shared / "data" / "moleculenet" / said["file"]
    shutil.copyfile(source, folder / said["file"])
    if "target" in said:
        kind = "number" if said["metric"] == "rmse" else "binary"
        more = "" if kind == "number" else ", classes: ['0', '1']"
        target = f"{{column: '{said['target']}', kind: {kind}{more}}}"
    else:
        with open(source, newline="", encoding="utf-8") as file:
            columns = [c for c in next(csv.reader(file)) if c not in ("mol_id", "smiles")]
        target = f"{{column: [{', '.join(columns)}], kind: multilabel}}"
    split = f"{{{said['split'].format(seed=seed)}, test: 0.1}}"
    (folder / "dataset.yaml").write_text(
        f"name: {name}\ntable: {said['file']}\nindependent: true\npublic: true\nlicence: MIT\nsplit: {split}\n"
        f"citation: Wu et al., MoleculeNet, Chem Sci 9:513 (2018)\ninputs: {{smiles: {{kind: molecule}}}}\n"
        f"target: {target}\n",
        encoding="utf-8",
    )
    return folder


def run(name: str, data: Path, out: Path, seed: int, home: Path, choose: str | None = None) -> dict[str, Any]:
    """One run of the command line, and the evaluation of the test part that the package carries."""
    kept = out / f"{name}-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    package = out / f"{name}-{seed}"
    shutil.rmtree(package, ignore_errors=True)
    command = [sys.executable, "-m", "medserve.cli", "train", str(data), "--out", str(package), "--seed", str(seed)]
    command += ["--choose", choose or CHOOSE[name], "--folds", str(FOLDS), "--audit", "none"]
    command += ["--home", str(home), "--json"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    test = json.loads((package / "evaluation" / "test.json").read_text())
    metric = SETS[name]["metric"]
    other = test["baseline"] or {}
    forest = None
    if other.get("architecture") == "record-forest":
        forest = {"value": other["metrics"].get(metric), "difference": other["difference"].get(metric)}
    beside = next((row for row in test.get("beside") or () if row["architecture"] == "record-forest"), None)
    found = {
        "set": name, "split": told["split"], "seed": seed, "offered": told["recipe"], "parts": told["parts"],
        "metric": metric, "value": test["metrics"][metric], "forest": forest, "beside": beside,
        "labels": test.get("by_label"), "candidates": told["decision"]["candidates"], "conformal": test["conformal"],
        "refused": test.get("refused"), "wall_s": round(time.monotonic() - started, 1),
    }  # fmt: skip
    kept.write_text(json.dumps(found, indent=1))
    print(f"{name} seed {seed}: {told['recipe']} {found['value']}, {found['wall_s']} s", file=sys.stderr, flush=True)
    return found


def reached(said: dict[str, Any], runs: list[dict[str, Any]]) -> bool:
    """Whether the interval of each run, or the spread of several, reaches the figure."""
    lower = said["metric"] in LOWER
    ends = [r["value"]["low" if lower else "high"] for r in runs]
    mean = statistics.mean(ends)
    return mean <= said["reach"] if lower else mean >= said["reach"]


def span(value: dict[str, Any] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--shared", type=Path, required=True)
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    asked.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked.add_argument("--choose", help="recipes to compare, instead of each set's own list")
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    lines = [
        "| set | split | offered | figure | to reach | reached | offered minus forest, paired |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in given.sets:
        runs = []
        for seed in given.seeds:
            data = prepare(name, given.shared, given.out / "data" / f"{name}-{seed}", seed)
            runs.append(run(name, data, given.out, seed, given.out / "home", given.choose))
        found[name] = {"runs": runs, "reach": SETS[name]["reach"], "reached": reached(SETS[name], runs)}
        for r in runs:
            paired = (r["forest"] or {}).get("difference") or (r["beside"] or {}).get("difference")
            lines.append(f"| {name} {r['seed']} | {r['split']} | {r['offered']} | {r['metric']} {span(r['value'])} | "
                         f"{SETS[name]['reach']} | {found[name]['reached']} | {span(paired)} |")  # fmt: skip
    print("\n".join(lines), file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
