"""PubMedQA: does the abstract answer its question with yes, no or maybe? From the text alone, without its conclusion.

    python benchmarks/pubmedqa.py FOLDER --out RUNS      # holds ori_pqal.json and test_ground_truth.json

Writes the questions and the last parts of their abstracts (the results; the long answer is held back, as the task
demands) as a table with a dataset.yaml, and goes through `medserve train` alone. Which recipe is used is chosen by
cross-validation within the 500 training items (macro-F1 over all folds); only then the chosen one is trained on all of
them and opens the official 500, once. Prints one JSON object: accuracy and macro-F1 with 95 % intervals (bootstrap
over items).

To compare with, on the same 500 (Jin et al., EMNLP 2019): always "yes" .552 accuracy, .237 macro-F1; BioBERT with
further training sets .681 and .527.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = ("yes", "no", "maybe")
RECIPES = ("text-cnn", "text-frozen")  # each also fits the linear model beside it: on words, and on word pieces
FOLDS, DRAWS = 3, 2000
YAML = """
name: pubmedqa
independent: true
split: part
inputs:
  question: {kind: text, language: en}
  results: {kind: text, language: en}
table: cases.csv
target: {column: answer, kind: multiclass, classes: ["yes", "no", "maybe"]}
"""
Items = list[dict[str, str]]
Array = np.ndarray[Any, Any]


def read(folder: Path) -> tuple[Items, Items]:
    """(train, test) items: question, abstract, its last part, answer."""
    items = json.loads((folder / "ori_pqal.json").read_text())
    official = json.loads((folder / "test_ground_truth.json").read_text())
    train: Items = []
    test: Items = []
    for key, item in items.items():
        parts = item["CONTEXTS"]
        case = {"question": item["QUESTION"], "abstract": " ".join(parts), "results": parts[-1]}
        (test if key in official else train).append(case | {"answer": item["final_decision"]})
    return train, test


def write(folder: Path, train: Items, test: Items) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "cases.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["question", "results", "answer", "part"])
        for part, items in (("train", train), ("test", test)):
            out.writerows([i["question"], i["results"], i["answer"], part] for i in items)
    (folder / "dataset.yaml").write_text(YAML, encoding="utf-8")
    return folder


def run(data: Path, out: Path, recipe: str) -> dict[str, Array]:
    """One `medserve train`. Returns: tables of truth and answer, (3, 3), of the recipe and of the linear model."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "medserve.cli", "train", str(data), "--out", str(out), "--recipe", recipe]
    command += ["--keep", "recipe", "--audit", "none", "--home", str(out.parent / "home"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr[-2000:])
    told = json.loads(done.stdout)
    print(f"{out.name}: {told['seconds']} s", file=sys.stderr, flush=True)
    linear = "linear" if recipe == "text-cnn" else "linear on word pieces"
    return {name: table(folder) for name, folder in ((recipe, out), (linear, out / "alternative"))}


def table(package: Path) -> Array:
    told = json.loads((package / "evaluation" / "test.json").read_text())
    return np.array(told["confusion"]["counts"], int)


def accuracy(cells: Array) -> float:
    return float(np.trace(cells) / cells.sum())


def macro(cells: Array) -> float:
    both = cells.sum(0) + cells.sum(1)
    return float(np.mean(2 * np.diag(cells) / np.maximum(both, 1)))


def interval(cells: Array, measure: Any) -> dict[str, float]:
    """95 %, by drawing as many items again."""
    random = np.random.default_rng(0)
    drawn = random.multinomial(cells.sum(), cells.ravel() / cells.sum(), DRAWS).reshape(-1, 3, 3)
    low, high = np.quantile([measure(d) for d in drawn], (0.025, 0.975))
    return {"value": measure(cells), "low": float(low), "high": float(high)}


def choose(train: Items, out: Path) -> dict[str, dict[str, float]]:
    """Macro-F1 and accuracy of every candidate over the folds of the training items."""
    order = np.random.default_rng(0).permutation(len(train))
    kinds = np.array([ANSWERS.index(train[i]["answer"]) for i in order])
    fold = np.empty(len(train), int)
    for k in range(len(ANSWERS)):
        where = order[kinds == k]
        fold[where] = np.arange(len(where)) % FOLDS
    total: dict[str, Array] = {}
    for f in range(FOLDS):
        inside, outside = ([train[i] for i in np.flatnonzero(rows)] for rows in (fold != f, fold == f))
        data = write(out / f"fold-{f}", inside, outside)
        for recipe in RECIPES:
            for name, cells in run(data, out / f"fold-{f}-{recipe}", recipe).items():
                total[name] = total.get(name, 0) + cells
    return {name: {"macro_f1": macro(cells), "accuracy": accuracy(cells)} for name, cells in total.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    train, test = read(asked.folder)
    inner = choose(train, asked.out)
    best = max(inner, key=lambda name: inner[name]["macro_f1"])
    recipe = {"linear": "text-cnn", "linear on word pieces": "text-frozen"}.get(best, best)
    cells = run(write(asked.out / "official", train, test), asked.out / "final", recipe)[best]
    always = np.zeros((3, 3), int)
    always[:, 0] = cells.sum(1)
    result = {
        "train": len(train), "test": int(cells.sum()), "inner": inner, "chosen": best, "table": cells.tolist(),
        "accuracy": interval(cells, accuracy), "macro_f1": interval(cells, macro),
        "always_yes": {"accuracy": accuracy(always), "macro_f1": macro(always)},
        "published": {"biobert_multi_phase": {"accuracy": 0.681, "macro_f1": 0.527}},
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
