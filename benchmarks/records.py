"""The default recipes on public sets of records, through `medserve train` alone, against published figures.

    python benchmarks/records.py --shared FOLDER --out RUNS [--sets breast gbsg metabric ecg200 twoleadecg physionet2012
                                                                    diabetes130] [--seeds 0 1 2]

Each set is written out as a user would hold it (a table with a dataset.yaml, or the files as published), trained on
its official split, or by five folds of patients, and reported as the package itself evaluates its sealed test part:
the model that is offered, and the recipe's own figure where the simple model is offered instead. Prints one JSON
object. The breast biopsies are scikit-learn's copy; every other set is looked for in --shared. GBSG and METABRIC are
HDF5 files and want `pip install h5py`, which MedServe itself does not need; without it nothing is started.
"""

import argparse
import csv
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDS = 5


def train(data: Path, out: Path, home: Path, seed: int, *more: str) -> dict[str, Any]:
    """One run of the command line: its JSON, and the evaluation of the test part that the package carries."""
    command = [sys.executable, "-m", "medserve.cli", "train", str(data), "--question", "diagnosis", "--out", str(out)]
    command += ["--seed", str(seed), "--audit", "none", "--home", str(home), "--json", *more]
    started = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{data.name}: {done.stdout}{done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    offered = json.loads((out / "evaluation" / "test.json").read_text())
    recipe = offered
    if told["chosen"] == "baseline":
        recipe = json.loads((out / "alternative" / "evaluation" / "test.json").read_text())
    found = {"chosen": told["chosen"], "recipe_name": told["recipe"], "parts": told["parts"]}
    print(f"{data.name} seed {seed}: {told['chosen']}, {told['seconds']} s", file=sys.stderr, flush=True)
    return found | {"offered": offered, "recipe": recipe, "wall_s": round(time.monotonic() - started, 1)}


def figures(run: dict[str, Any], *names: str) -> dict[str, Any]:
    """The named metrics with their intervals, of the offered model and of the recipe."""
    kept = {k: run[k] for k in ("chosen", "recipe_name", "parts", "wall_s")}
    for side in ("offered", "recipe"):
        kept[side] = {name: run[side]["metrics"][name] for name in names if name in run[side]["metrics"]}
    return kept


def write(folder: Path, rows: Sequence[dict[str, Any]], yaml: str, name: str = "cases.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    (folder / "dataset.yaml").write_text(yaml, encoding="utf-8")
    return folder


def fold_column(keys: Sequence[str], fold: int) -> list[str]:
    """ "test" for the patients of one fold of five, "train" for the others."""
    order = {key: i for i, key in enumerate(np.random.default_rng(0).permutation(sorted(set(keys))))}
    return ["test" if order[key] % FOLDS == fold else "train" for key in keys]


def breast(shared: Path, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    runs = []
    for fold in range(FOLDS):
        parts = fold_column([str(i) for i in range(len(found.data))], fold)
        rows = [
            dict(zip(found.feature_names, x, strict=True)) | {"diagnosis": found.target_names[y], "part": part}
            for x, y, part in zip(found.data.tolist(), found.target, parts, strict=True)
        ]
        yaml = "table: cases.csv\nindependent: true\nsplit: part\n"
        yaml += "target: {column: diagnosis, kind: binary, classes: [benign, malignant]}\n"
        data = write(out / f"breast-{fold}", rows, yaml)
        runs.append(figures(train(data, out / f"breast-model-{fold}", out / "home", 0), "auroc", "accuracy"))
    return {"folds": runs, "auroc": mean(runs, "auroc"), "target": 0.99, "reference": "none published here"}


def survival(name: str, file: str, columns: list[str], target: float) -> Callable[..., dict[str, Any]]:
    def run(shared: Path, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
        import h5py

        rows = []
        with h5py.File(shared / "data" / "deepsurv_survival" / file) as stored:
            for part in ("train", "test"):
                x, t, e = (stored[part][key][:] for key in ("x", "t", "e"))
                for values, time_, event in zip(x.tolist(), t.tolist(), e.tolist(), strict=True):
                    row = dict(zip(columns, values, strict=True))
                    rows.append(row | {"time": time_, "event": int(event), "part": part})
        yaml = "table: cases.csv\nindependent: true\nsplit: part\n"
        yaml += "target: {kind: survival, column: time, event: event, unit: mo}\n"
        data = write(out / name, rows, yaml)
        wanted = ("c_index", "c_uno", "calibration_slope", "expected_observed")
        runs = [figures(train(data, out / f"{name}-{s}", out / "home", s), *wanted) for s in seeds]
        return {"seeds": runs, "c_index": median(runs, "c_index"), "target": target, "reference": "DeepSurv"}

    return run


def ucr(name: str, target: float, reference: str) -> Callable[..., dict[str, Any]]:
    def run(shared: Path, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
        data = shared / "data" / "ecg_ucr" / name
        runs = [figures(train(data, out / f"{name}-{s}", out / "home", s), "accuracy", "auroc") for s in seeds]
        error = {side: round(1 - value, 4) for side, value in median(runs, "accuracy").items()}
        return {"seeds": runs, "error": error, "target": target, "reference": reference}

    return run


def physionet2012(shared: Path, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Five folds by patient; the score of event 1 at the threshold chosen for it on the validation part."""
    source = shared / "data" / "physionet2012_set_a"
    rows = list(csv.DictReader((source / "Outcomes-a.txt").open()))
    inputs = {
        "Age": "{kind: number, unit: a, range: [0, 120]}", "Gender": "{kind: category}",
        "Height": "{kind: number, unit: cm, range: [100, 230]}", "Weight": "{kind: number, unit: kg, range: [20, 350]}",
        "stay": "{kind: timeline, form: physionet2012, table: set-a.zip, window: 48}",
    }  # fmt: skip
    yaml = "table: cases.csv\npatient: RecordID\nprediction_time: 48\nsplit: part\ninputs:\n"
    yaml += "".join(f"  {k}: {v}\n" for k, v in inputs.items())
    yaml += 'target: {column: In-hospital_death, kind: binary, classes: ["0", "1"]}\n'
    runs, events, totals = [], [], np.zeros(3)  # deaths flagged, deaths, flagged
    for fold in range(FOLDS):
        parts = fold_column([row["RecordID"] for row in rows], fold)
        kept = ("RecordID", "In-hospital_death", "SAPS-I")
        table = [{k: row[k] for k in kept} | {"part": part} for row, part in zip(rows, parts, strict=True)]
        data = write(out / f"physionet-{fold}", table, yaml)
        shutil.copy(source / "set-a.zip", data)
        run = train(data, out / f"physionet-model-{fold}", out / "home", 0)
        rule = next(r for r in run["offered"]["threshold_rules"]["rows"] if r["rule"].startswith("sensitivity-equals-"))
        events.append(min(rule["sensitivity"]["value"], rule["ppv"]["value"]))
        died = sum(r["part"] == "test" and r["In-hospital_death"] == "1" for r in table)
        hits = rule["sensitivity"]["value"] * died
        totals += np.array([hits, died, hits / rule["ppv"]["value"]])
        found = figures(run, "auroc", "auprc", "calibration_slope")
        runs.append(found | {"event_1": events[-1], "against_saps": against_saps(out, fold, table)})
    gain = [r["against_saps"] for r in runs]
    return {
        "folds": runs,
        "auroc": mean(runs, "auroc"),
        "event_1": round(float(min(totals[0] / totals[1], totals[0] / totals[2])), 4),  # of all folds' decisions
        "event_1_mean_of_folds": round(statistics.mean(events), 4),
        "auroc_minus_saps": {k: round(statistics.mean(g[k] for g in gain), 4) for k in ("value", "low", "high")},
        "target": {"auroc": 0.85, "event_1": 0.50},
        "reference": "GRU .855; best Challenge event-1 .5353; SAPS-I .650/.3125",
    }


def against_saps(out: Path, fold: int, table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """AUROC of the offered model minus that of SAPS-I, on the cases of the fold where that score is known."""
    from sklearn.metrics import roc_auc_score

    from medserve.models.signing import Trust
    from medserve.questions.answers import probabilities
    from medserve.road.collect import list_data
    from medserve.runtime.model import LoadedModel
    from medserve.settings import Settings

    settings = Settings(home=out / "home")
    model = LoadedModel.open(out / f"physionet-model-{fold}", Trust.load(settings))
    listing = list_data(out / f"physionet-{fold}", settings)
    assert model._records is not None and listing.raw is not None
    y, ours, saps = [], [], []
    for item in listing.items:
        row = table[item.row[1]] if item.row else {}
        if row.get("part") != "test" or float(row["SAPS-I"]) < 0:
            continue
        raw = listing.raw(item)
        if raw["stay"] is None:
            continue
        values = {f.name: f.parse(v) if f.kind != "number" else quiet(f, v) for f in model._records.fields
                  for v in [raw.get(f.name)]}  # fmt: skip
        logits = model.score(model._records.encode(values)[None]).logits
        ours.append(float(probabilities(model.spec, logits)[0, 1]))
        y.append(int(row["In-hospital_death"]))
        saps.append(float(row["SAPS-I"]))
    a, b, c = np.array(y), np.array(ours), np.array(saps)
    random = np.random.default_rng(0)
    draws = []
    for _ in range(500):
        pick = random.integers(0, len(a), len(a))
        if 0 < a[pick].sum() < len(pick):
            draws.append(roc_auc_score(a[pick], b[pick]) - roc_auc_score(a[pick], c[pick]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(roc_auc_score(a, b) - roc_auc_score(a, c)), "low": float(low), "high": float(high)}


def quiet(field: Any, raw: Any) -> Any:
    """As when data is prepared: a value that is refused counts as missing."""
    from medserve.errors import Refusal

    try:
        return field.parse(raw)
    except Refusal:
        return None


def diabetes130(shared: Path, out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Readmission within 30 days, split by patient; encounters that ended in death or hospice left out."""
    with zipfile.ZipFile(shared / "data" / "diabetes130" / "dataset_diabetes.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith("diabetic_data.csv") and "__MACOSX" not in n)
        rows = list(csv.DictReader(archive.read(name).decode().splitlines()))
    gone = {"11", "13", "14", "19", "20", "21"}
    words = ("admission_type_id", "discharge_disposition_id", "admission_source_id")
    table = []
    for row in rows:
        if row["discharge_disposition_id"] in gone:
            continue
        kept = {k: ("" if v == "?" else v) for k, v in row.items() if k not in ("encounter_id", "weight", "readmitted")}
        kept |= {k: f"code {kept[k]}" for k in words}  # numbers that are names
        table.append(kept | {"early": "yes" if row["readmitted"] == "<30" else "no"})
    yaml = "table: cases.csv\npatient: patient_nbr\nsplit: {by: patient, test: 0.2, seed: 7}\n"
    yaml += "target: {column: early, kind: binary, classes: [no_, yes_]}\n".replace("no_", '"no"').replace(
        "yes_", '"yes"'
    )
    data = write(out / "diabetes130", table, yaml)
    run = figures(train(data, out / "diabetes130-0", out / "home", 0), "auroc", "auprc", "calibration_slope", "ece")
    return {"run": run, "target": {"auroc": 0.65, "calibration_slope": [0.8, 1.25]}, "reference": "no agreed score"}


def median(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    return {s: round(statistics.median(r[s][name]["value"] for r in runs), 4) for s in ("offered", "recipe")}


def mean(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    return {s: round(statistics.mean(r[s][name]["value"] for r in runs), 4) for s in ("offered", "recipe")}


GBSG = ["hormone", "size", "postmenopausal", "age", "nodes", "pgr", "er"]
METABRIC = ["MKI67", "EGFR", "PGR", "ERBB2", "hormone", "radio", "chemo", "er_positive", "age"]
SETS: dict[str, Callable[..., dict[str, Any]]] = {
    "breast": breast,
    "gbsg": survival("gbsg", "gbsg_cancer_train_test.h5", GBSG, 0.668),
    "metabric": survival("metabric", "metabric_IHC4_clinical_train_test.h5", METABRIC, 0.643),
    "ecg200": ucr("ECG200", 0.12, "1-NN .120, FCN .111"),
    "twoleadecg": ucr("TwoLeadECG", 0.02, "1-NN .253"),
    "physionet2012": physionet2012,
    "diabetes130": diabetes130,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data, the packages and a MEDSERVE_HOME")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if {"gbsg", "metabric"} & set(given.sets) and importlib.util.find_spec("h5py") is None:
        parser.error("gbsg and metabric are HDF5 files: pip install h5py, or leave them out of --sets")
    given.out.mkdir(parents=True, exist_ok=True)
    found = {name: SETS[name](given.shared, given.out.absolute(), given.seeds) for name in given.sets}
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
