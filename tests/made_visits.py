"""Invented prescribing: patients whose visits follow rules that can be learned, as the two tables of a data set.

Blood pressure, once found, has ramipril at every visit after it; diabetes metformin. An infection has amoxicillin at
that visit alone. Atrial fibrillation has warfarin, and pain at a visit celecoxib, which interact: to 1 in 4 of those
who have both they are given together, to the others paracetamol is.
"""

import csv
from pathlib import Path

import numpy as np

ATC = {"ramipril": "atc|C09AA05", "metformin": "rxnorm|6809", "amoxicillin": "atc|J01CA04", "warfarin": "atc|B01AA03",
       "celecoxib": "atc|M01AH01", "paracetamol": "atc|N02BE01"}  # fmt: skip
LASTING = {"icd10|I10": "ramipril", "icd10|E11": "metformin", "icd10|I48": "warfarin"}
YAML = """
name: clinic-visits
table: patients.csv
patient: who
inputs:
  sex: {kind: category}
  history: {kind: timeline, table: events.csv, patient: who, time: hours, code: item, value: x, event_unit: u}
target: {kind: medicines}
"""
Row = tuple[object, ...]


def made(folder: Path, patients: int = 60, *, seed: int = 0, yaml: str = YAML) -> Path:
    """Write the data set. Returns: its folder."""
    random = np.random.default_rng(seed)
    events: list[Row] = []
    for number in range(patients):
        events += _visits(f"p{number}", random)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "events.csv", [("who", "hours", "item", "x", "u"), *events])
    _write(folder / "patients.csv", [("who", "sex"), *((f"p{n}", "F" if n % 2 else "M") for n in range(patients))])
    (folder / "dataset.yaml").write_text(yaml)
    return folder


def _visits(who: str, random: np.random.Generator) -> list[Row]:
    events: list[Row] = []
    at, taken = 450_000.0 + float(random.integers(0, 900)), set[str]()
    for _ in range(int(random.integers(2, 7))):
        at += 24.0 * float(random.integers(10, 90))
        found = [code for code in LASTING if random.random() < 0.3]
        found += [code for code in ("icd10|J02", "icd10|M54") if random.random() < 0.3]
        events += [(who, at, code, "", "") for code in found or ["icd10|Z00"]]
        events.append((who, at, "loinc|8480-6", int(random.normal(140, 15)), "mm[Hg]"))
        taken |= {LASTING[code] for code in found if code in LASTING}
        given = set(taken) | ({"amoxicillin"} if "icd10|J02" in found else set())
        if "icd10|M54" in found:
            given.add("celecoxib" if "warfarin" not in taken or random.random() < 0.25 else "paracetamol")
        events += [(who, at + 0.5, ATC[name], "", "") for name in sorted(given)]
    return events


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
