"""A dose with its interval: warfarin, ten times five folds, beside the published pharmacogenetic equation.

    python benchmarks/warfarin.py --data FOLDER [--repeats 10] [--jobs 2] [--work DIR] [--out dist/warfarin.json]

FOLDER holds `warfarin.csv` of the International Warfarin Pharmacogenetics Consortium (PharmGKB, CC BY-SA 4.0). Of the
5,700 patients those are taken whose stable dose, age, height and weight are known, so that the equation (N Engl J Med
360:753, 2009) answers for every one of them. Each fold is one `medserve train` with the declaration below; the trained
package answers the patients that it had not seen, and so does the equation. The difference of their absolute errors is
paired by patient, over the mean of the repeats, and its interval is a bootstrap of patients. A patient whom one of the
repeats refused, for a genotype that its training part lacks or as unlike it, is left out of both; how often that was is
printed.
"""

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medserve.errors import Refusal
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.settings import Settings

UNASKED = Standing(None, "doses are compared with those of the past, and none is offered", required=False)
FOLDS = 5
BANDS = (21, 49)  # mg a week, as the consortium tells doses apart
FEWEST = 100
YES_NO = {
    "diabetes": "Diabetes",
    "heart_failure": "Congestive Heart Failure and/or Cardiomyopathy",
    "valve": "Valve Replacement",
    "aspirin": "Aspirin",
    "simvastatin": "Simvastatin (Zocor)",
    "atorvastatin": "Atorvastatin (Lipitor)",
    "amiodarone": "Amiodarone (Cordarone)",
    "carbamazepine": "Carbamazepine (Tegretol)",
    "phenytoin": "Phenytoin (Dilantin)",
    "rifampin": "Rifampin or Rifampicin",
    "sulfonamide": "Sulfonamide Antibiotics",
    "macrolide": "Macrolide Antibiotics",
    "azole": "Anti-fungal Azoles",
    "smoker": "Current Smoker",
}
GENES = {
    "cyp2c9": "CYP2C9 consensus",
    "vkorc1": "VKORC1 -1639 consensus",
    "vkorc1_497": "VKORC1 497 consensus",
    "vkorc1_1173": "VKORC1 1173 consensus",
    "vkorc1_1542": "VKORC1 1542 consensus",
    "vkorc1_3730": "VKORC1 3730 consensus",
    "vkorc1_2255": "VKORC1 2255 consensus",
    "vkorc1_4451": "VKORC1 -4451 consensus",
}
YAML = """
name: warfarin
source: International Warfarin Pharmacogenetics Consortium, by PharmGKB
licence: CC BY-SA 4.0
citation: N Engl J Med 360:753 (2009)
table: patients.csv
patient: patient
split: part
inputs:
  age: {{kind: number, unit: a, range: [10, 99]}}
  height: {{kind: number, unit: cm, range: [100, 230]}}
  weight: {{kind: number, unit: kg, range: [20, 300]}}
  gender: {{kind: category}}
  race: {{kind: category}}
  target_inr: {{kind: number}}
{more}
target:
  column: dose
  kind: number
  unit: mg/wk
  scale: sqrt
  range: [1, 350]
  bands: [21, 49]
  interval_by: race
  medicine: B01AA03
subgroups: [race, gender]
public: true
"""


def patients(folder: Path) -> list[dict[str, str]]:
    """Rows of the table that is trained on; empty where a value is not known."""
    with open(folder / "warfarin.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        said = {k: "" if v in ("NA", "Unknown") else v for k, v in row.items()}
        needed = ("Therapeutic Dose of Warfarin", "Age", "Height (cm)", "Weight (kg)")
        if said["Subject Reached Stable Dose of Warfarin"] != "1" or not all(said[name] for name in needed):
            continue
        one = {"patient": said["PharmGKB Subject ID"], "dose": said["Therapeutic Dose of Warfarin"]}
        one |= {"age": said["Age"][:2], "height": said["Height (cm)"], "weight": said["Weight (kg)"]}
        one |= {"gender": said["Gender"], "race": row["Race"], "target_inr": said["Target INR"]}
        one |= {name: said[column] for name, column in (GENES | YES_NO).items()}
        found.append(one)
    return found


def equation(row: Mapping[str, str]) -> float:
    """mg a week by the consortium's pharmacogenetic equation (supplementary appendix, section S1e)."""
    said = 5.6044 - 0.2614 * int(row["age"][:1]) + 0.0087 * float(row["height"]) + 0.0128 * float(row["weight"])
    said += {"A/G": -0.8677, "A/A": -1.6974, "G/G": 0.0}.get(row["vkorc1"], -0.4854)
    said += {
        "*1/*1": 0.0, "*1/*2": -0.5211, "*1/*3": -0.9357, "*2/*2": -1.0616, "*2/*3": -1.9206, "*3/*3": -2.3312,
    }.get(row["cyp2c9"], -0.2188)  # fmt: skip
    said += {"Asian": -0.1092, "Black or African American": -0.2760, "White": 0.0}.get(row["race"], -0.1032)
    said += 1.1816 * any(row[name] == "1" for name in ("carbamazepine", "phenytoin", "rifampin"))
    said -= 0.5503 * (row["amiodarone"] == "1")
    return said**2


def train(rows: list[dict[str, str]], parts: list[str], work: Path, seed: int, recipe: str | None) -> LoadedModel:
    data, out, home = work / "data", work / "package", work / "home"
    shutil.rmtree(data, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    data.mkdir()
    with open(data / "patients.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "part"])
        writer.writeheader()
        writer.writerows({**row, "part": part} for row, part in zip(rows, parts, strict=True))
    more = "\n".join(f"  {name}: {{kind: category}}" for name in GENES | YES_NO)
    (data / "dataset.yaml").write_text(YAML.format(more=more), encoding="utf-8")
    command = [sys.executable, "-m", "medserve.cli", "train", str(data), "--out", str(out), "--seed", str(seed)]
    command += ["--audit", "none", "--home", str(home), "--json", *(["--recipe", recipe] if recipe else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr[-2000:])
    settings = Settings(home=home)
    return LoadedModel.open(out, Trust.load(settings), threads=1, rules=UNASKED)


def answers(model: LoadedModel, rows: list[dict[str, str]]) -> list[dict[str, Any] | None]:
    """What the package says of each patient, by the way of a request; None where it refuses."""
    names = [said.name for said in model.spec.inputs]
    numbers = {said.name for said in model.spec.inputs if said.kind == "number"}
    found = []
    for row in rows:
        inputs = {n: float(row[n]) if n in numbers else row[n] for n in names if row[n]}
        try:
            record = model.load(json.dumps({"inputs": inputs}).encode(), media="application/json")
            found.append(model.answer(model.score(record[None]), case=record)["outputs"][0])
        except Refusal:  # a genotype that training never saw, or a patient unlike all others
            found.append(None)
    return found


def inside(n: int, repeat: int, k: int) -> np.ndarray:
    """The patients of fold k, by number."""
    return np.flatnonzero(np.random.default_rng(repeat).permutation(n) % FOLDS == k)


def fold(rows: list[dict[str, str]], repeat: int, k: int, work: Path, recipe: str | None) -> dict[str, Any]:
    """What a package trained on the other folds says of fold k; kept in `work`, and not run again.

    answers: value, low and high of each patient in mg a week, NaN where it refuses. calibrated: cases behind the
    intervals of each group.
    """
    work = work / "-".join([str(repeat), str(k), *([recipe] if recipe else [])])
    kept = work / "fold.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    work.mkdir(parents=True, exist_ok=True)
    began, judged = time.monotonic(), inside(len(rows), repeat, k)
    parts = np.where(np.isin(np.arange(len(rows)), judged), "test", "train").tolist()
    model = train(rows, parts, work, repeat, recipe)
    conformal = model.spec.calibration.conformal
    assert conformal is not None
    none = [math.nan] * 3
    found = {
        "answers": [
            none if one is None else [one["value"], *one["interval"]]
            for one in answers(model, [rows[i] for i in judged])
        ],
        "calibrated": {name: n for name, (_, n) in (conformal.by_group or {}).items()} | {"all": conformal.n},
        "offered": model.spec.architecture.name,
        "seconds": time.monotonic() - began,
    }
    kept.write_text(json.dumps(found))
    return found


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    random = np.random.default_rng(seed)
    drawn = [values[random.integers(0, len(values), len(values))].mean() for _ in range(2000)]
    return [round(float(v), 3) for v in (values.mean(), *np.quantile(drawn, [0.025, 0.975]))]


def band_of(n: int, evaluated: int, share: float = 0.9) -> tuple[float, float]:
    """95 % band of the share covered, of `evaluated` patients, where `n` calibrated each fold."""
    random = np.random.default_rng(0)
    k = min(n, int(np.ceil((n + 1) * share)))
    each = random.beta(k, n + 1 - k, (20_000, FOLDS))
    hit = random.binomial(evaluated // FOLDS, each).sum(axis=1) / (evaluated // FOLDS * FOLDS)
    low, high = np.quantile(hit, [0.025, 0.975])
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--recipe")
    parser.add_argument("--jobs", type=int, default=1, help="folds at once")
    parser.add_argument("--work", type=Path, help="keep what each fold said here; a second run goes on from it")
    parser.add_argument("--out", type=Path, default=Path("dist/warfarin.json"))
    args = parser.parse_args()
    rows = patients(args.data)
    truth = np.array([float(row["dose"]) for row in rows])
    published = np.array([equation(row) for row in rows])
    ours = np.full((args.repeats, len(rows)), np.nan)
    held = np.zeros((args.repeats, len(rows)), bool)
    wide = np.zeros((args.repeats, len(rows)))
    calibrated: dict[str, list[int]] = {}
    chosen: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        work = args.work or Path(temporary)
        every = [(repeat, k) for repeat in range(args.repeats) for k in range(FOLDS)]
        said = pool.map(lambda one: fold(rows, *one, work, args.recipe), every)
        for (repeat, k), one in zip(every, said, strict=True):
            at = inside(len(rows), repeat, k)
            ours[repeat, at], low, high = np.array(one["answers"], float).T
            wide[repeat, at], held[repeat, at] = high - low, (low <= truth[at]) & (truth[at] <= high)
            for name, n in one["calibrated"].items():
                calibrated.setdefault(name, []).append(n)
            chosen.append(one["offered"])
            mae = float(np.nanmean(np.abs(ours[repeat, at] - truth[at])))
            sys.stderr.write(f"{repeat}.{k}: {chosen[-1]}, MAE {mae:.2f}, {one['seconds']:.0f} s\n")
    answered = ~np.isnan(ours).any(axis=0)
    refused = float(np.isnan(ours).mean())
    rows = [row for row, kept in zip(rows, answered, strict=True) if kept]
    truth, published = truth[answered], published[answered]
    ours, held, wide = ours[:, answered], held[:, answered], wide[:, answered]
    error, theirs = np.abs(ours - truth), np.abs(published - truth)
    near, near_theirs = error <= 0.2 * truth, theirs <= 0.2 * truth
    groups, bands = {}, {}
    for name in sorted({row["race"] for row in rows}):
        own = np.array([row["race"] == name for row in rows])
        if own.sum() < FEWEST:
            continue
        n = int(np.median(calibrated.get(name, calibrated["all"])))
        low, high = band_of(n, int(own.sum()))
        cover = held[:, own].mean(axis=1)
        groups[name] = {
            "n": int(own.sum()), "mae": round(float(error[:, own].mean()), 2),
            "equation": round(float(theirs[own].mean()), 2),
            "difference": interval((error[:, own] - theirs[own]).mean(axis=0)),
            "coverage": round(float(cover.mean()), 3), "band": [round(low, 3), round(high, 3)],
            "repeats_inside": int(((cover >= low) & (cover <= high)).sum()), "own_interval": name in calibrated,
        }  # fmt: skip
    edges = np.digitize(truth, BANDS)
    for k, name in enumerate((f"<= {BANDS[0]}", f"{BANDS[0]} to {BANDS[1]}", f">= {BANDS[1]}")):
        own = edges == k
        bands[name] = {"n": int(own.sum()), "within_20": round(float(near[:, own].mean()), 3),
                       "equation": round(float(near_theirs[own].mean()), 3)}  # fmt: skip
    result = {
        "patients": len(rows),
        "refused": round(refused, 4),
        "repeats": args.repeats,
        "models": {name: chosen.count(name) for name in sorted(set(chosen))},
        "mae": round(float(error.mean()), 3),
        "mae_equation": round(float(theirs.mean()), 3),
        "difference": interval((error - theirs).mean(axis=0)),
        "within_20": round(float(near.mean()), 3),
        "within_20_equation": round(float(near_theirs.mean()), 3),
        "width": round(float(np.median(wide)), 1),
        "groups": groups,
        "bands": bands,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1))
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
