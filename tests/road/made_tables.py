"""Invented tables, times to an event, and histories, and one run of the road on them."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medserve.models.signing import Trust
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

INPUTS = """
  age: {kind: number, unit: a, range: [0, 120]}
  creatinine: {kind: number, unit: umol/L, range: [10, 2000]}
  lactate: {kind: number, unit: mmol/L, range: [0, 40]}
  ward: {kind: category}"""
TABLE = f"""
name: clinic
table: visits.csv
patient: person
inputs:{INPUTS}
target: {{column: sepsis, kind: binary, classes: ["no", "yes"]}}
"""
SURVIVAL = f"""
name: clinic-time
table: visits.csv
patient: person
inputs:{INPUTS}
target: {{kind: survival, column: days, event: died, unit: d}}
"""
STAYS = """
name: icu
table: stays.csv
patient: person
prediction_time: 24
inputs:
  stay: {kind: timeline, table: events.csv, patient: person, time: hours, code: item, value: x, event_unit: unit}
target: {column: died, kind: binary, classes: ["0", "1"]}
"""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Made:
    data: Path
    package: Path
    settings: Settings
    result: dict[str, Any]

    @property
    def model(self) -> LoadedModel:
        return LoadedModel.open(self.package, Trust.load(self.settings), threads=1)


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def visits(n: int = 240, seed: int = 0) -> Rows:
    """Two visits a patient; every fifth creatinine is unknown; sepsis and the days to death follow age and lactate."""
    random = np.random.default_rng(seed)
    age, lactate = random.integers(20, 90, n), random.lognormal(0.5, 0.4, n).round(2)
    ward = np.array(["icu", "general", "er"])[np.arange(n) % 3]
    creatinine = random.normal(90, 20, n).round(1)
    logit = 0.08 * (age - 55) + 3 * (lactate - 1.8) + (ward == "icu")
    sepsis = np.where(random.random(n) < 1 / (1 + np.exp(-logit)), "yes", "no")
    time, end = random.exponential(100 * np.exp(-0.5 * logit)), random.uniform(50, 400, n)
    columns = {"age": age, "lactate": lactate, "ward": ward, "creatinine": [v if i % 5 else "" for i, v in
               enumerate(creatinine)], "sepsis": sepsis, "days": np.minimum(time, end).round(1) + 1,
               "died": (time < end).astype(int), "person": [f"patient-{i // 2:04d}" for i in range(n)]}  # fmt: skip
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def histories(n: int = 90, *, planted: bool = False) -> tuple[Rows, Rows]:
    """Stays, and events of two days: a pulse that goes with death.

    planted: after 24 h other values, and a drug for those who died, too late to be known.
    """
    random = np.random.default_rng(4)
    stays, events = [], []
    for i in range(n):
        died, who = int(random.random() < 0.5), f"p{i:03d}"
        stays.append({"person": who, "died": died})
        for hour in (*np.sort(random.uniform(0, 24, 4)), 30.0, 40.0):
            pulse = random.normal(80 + 25 * died, 8) + (400 if planted and hour > 24 else 0)
            events.append({"person": who, "hours": round(hour, 2), "item": "HR", "x": round(pulse, 1), "unit": "/min"})
        if planted and died:
            events.append({"person": who, "hours": 24.5, "item": "morphine", "x": 10, "unit": "mg"})
    return stays, events


def train(folder: Path, yaml: str, settings: Settings, name: str = "model", **more: Any) -> Made:
    (folder / "data" / "dataset.yaml").write_text(yaml)
    options = Options(**{"recipe": "boosting", "audit": "none", "keep": "recipe", "seed": 1} | more)
    result = train_package(folder / "data", folder / name, settings=settings, options=options)
    return Made(folder / "data", folder / name, settings, result)
