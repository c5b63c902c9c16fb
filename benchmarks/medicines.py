"""Medicines of a visit on generated patients, against repeating the last visit: `python benchmarks/medicines.py`.

    pip install --no-deps clinosim==0.6.5       # a hospital simulator, MIT; needed to generate alone
    python benchmarks/medicines.py generate --data DATA [--people 5000]
    python benchmarks/medicines.py train --data DATA --work WORK [--seed 0] [--plain] [--out medicines.json]

generate: a year of a catchment population, of whom some two thirds come to the hospital: clinic dates, emergencies and
stays, written as the two tables and the `dataset.yaml` that a user would write. The simulator's medicines are names;
each is looked up in the starter table of safety (its ATC code), a combination by its parts, and else in the simulator's
own list of RxNorm; what neither knows, and infusions, are left out and counted. Diagnoses are those made on admission,
at that time; the list of chronic conditions stands at the first visit; what is told at discharge, at discharge.

train: one run of the road; with --plain the loss holds nothing of interactions. The figures are agreement with a
simulator's prescribing: they show that the parts work and nothing about medicine.
"""

import argparse
import csv
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medserve.models import heads
from medserve.progress import Progress
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.safety.envelope import Envelope
from medserve.settings import Settings

YEAR = ("2024-01-01", "2024-12-31")
DATASET = """name: generated-prescribing
source: clinosim {version}, {people} people of one catchment area, {start} to {end}, seed {seed}
licence: MIT (the simulator)
synthetic: every person is generated
table: patients.csv
patient: person
inputs:
  sex: {{kind: category}}
  age: {{kind: number, unit: a, range: [0, 120]}}
  history: {{kind: timeline, table: events.csv, patient: person, time: time, code: code, value: value,
            event_unit: unit}}
target: {{kind: medicines}}
subgroups: [sex]
"""
VITALS = {"heart_rate": ("loinc|8867-4", "/min"), "systolic_bp": ("loinc|8480-6", "mm[Hg]"),
          "temperature_celsius": ("loinc|8310-5", "Cel"), "spo2": ("loinc|2708-6", "%")}  # fmt: skip
INFUSION = re.compile(r"iv_fluid|saline|ringer|crystalloid|\bns\b|dextrose", re.I)
_DOSE = re.compile(r"\s+[\d.,/-]+\s*(mg|g|mcg|ml|units?|%|iu).*$", re.I)
Rows = list[tuple[Any, ...]]


def generate(data: Path, people: int, seed: int) -> dict[str, Any]:
    """Write the data set. Returns: counts."""
    from importlib.metadata import PackageNotFoundError, version

    from clinosim.simulator.engine import run_beta
    from clinosim.types.config import SimulatorConfig

    started = time.process_time()
    config = SimulatorConfig(catchment_population=people, time_range=YEAR, random_seed=seed, country="US",
                             snapshot_date=YEAR[1])  # fmt: skip
    by: dict[str, list[Any]] = defaultdict(list)
    for record in run_beta(config).patients:
        by[record.patient.patient_id].append(record)
    codes, events, patients = Codes(), list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for who, records in sorted(by.items()):
        records.sort(key=lambda record: record.encounters[0].admission_datetime)
        first = records[0]
        patients.append((who, first.patient.sex, first.patient.age))
        at = first.encounters[0].admission_datetime
        events += [(who, at, f"icd10cm|{one.code}", "", "") for one in first.patient.chronic_conditions]
        for record in records:
            events += of_record(who, record, codes)
    data.mkdir(parents=True, exist_ok=True)
    _write(data / "patients.csv", ("person", "sex", "age"), patients)
    _write(data / "events.csv", ("person", "time", "code", "value", "unit"), events)
    try:
        named = version("clinosim")
    except PackageNotFoundError:
        named = "of an unknown version"
    said = DATASET.format(version=named, people=people, start=YEAR[0], end=YEAR[1], seed=seed)
    (data / "dataset.yaml").write_text(said)
    return {"patients": len(by), "records": sum(map(len, by.values())), "events": len(events),
            "prescriptions": codes.told, "cpu_s": round(time.process_time() - started, 1), **codes.account}  # fmt: skip


def of_record(who: str, record: Any, codes: "Codes") -> Iterator[tuple[Any, ...]]:
    """The events of one clinic date, emergency or stay."""
    stay, diagnosis = record.encounters[0], record.clinical_diagnosis
    begun, over = stay.admission_datetime, stay.discharge_datetime
    yield who, begun, f"encounter|{stay.encounter_type.value}", "", ""
    yield who, begun, f"department|{stay.department_id}", "", ""
    if diagnosis is not None and diagnosis.admission_diagnosis_code:
        yield who, begun, f"icd10cm|{diagnosis.admission_diagnosis_code}", "", ""
    if diagnosis is not None and over is not None and diagnosis.discharge_diagnosis_code:
        yield who, over, f"discharge-icd10cm|{diagnosis.discharge_diagnosis_code}", "", ""
    for vital in record.vital_signs:
        if vital.timestamp.hour in (6, 14, 22) or vital is record.vital_signs[0]:
            for name, (code, unit) in VITALS.items():
                if getattr(vital, name, None) is not None:
                    yield who, vital.timestamp, code, getattr(vital, name), unit
    ordered = [(o.ordered_datetime, o.display_name) for o in record.orders if o.order_type.value == "medication"]
    if record.discharge_prescription is not None:
        ordered += [(record.discharge_prescription.issue_date, one["drug_name"])
                    for one in record.discharge_prescription.items]  # fmt: skip
    for at, name in ordered:
        if not name.upper().startswith("DISCONTINUE"):
            yield from ((who, max(at, begun), code, "", "") for code in codes.of(name))


class Codes:
    """Names of medicines -> codes, with an account of those that have none."""

    def __init__(self) -> None:
        import yaml
        from clinosim import codes

        self.knowledge = Envelope.open().knowledge
        listed = yaml.safe_load((Path(codes.__file__).parent / "data" / "rxnorm.yaml").read_text())["codes"]
        self.listed = {re.sub(r"\s*\(.*", "", said["en"]).lower(): code for code, said in listed.items()}
        self.known: dict[str, tuple[str, ...]] = {}
        self.how: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.told = 0

    def of(self, name: str) -> tuple[str, ...]:
        plain = _DOSE.sub("", name.rpartition(": ")[2].replace("_", " ")).strip().lower()
        self.told += 1
        if INFUSION.search(name):
            self.how["infusion, left out"] += 1
            return ()
        if plain not in self.known:
            self.known[plain] = self._find(plain)
        found = self.known[plain]
        how = "unknown, left out" if not found else "by the table of safety" if found[0][:3] == "atc" else "by RxNorm"
        self.how[how] += 1
        if not found:
            self.lost[plain] += 1
        return found

    def _find(self, plain: str) -> tuple[str, ...]:
        words = plain.split()
        for said in (plain, words[0] if words else "", " ".join(words[:2])):
            if (drug := self.knowledge.drug(said)) is not None:
                return (drug.code,)
        parts = [self.knowledge.drug(part.strip()) for part in plain.split("/")]
        if len(parts) > 1 and all(parts):
            return tuple(part.code for part in parts if part is not None)
        code = self.listed.get(plain) or self.listed.get(words[0] if words else "")
        return (f"rxnorm|{code}",) if code else ()

    @property
    def account(self) -> dict[str, Any]:
        return {"coded": dict(self.how), "left_out": dict(self.lost.most_common(12))}


def train(data: Path, work: Path, seed: int, epochs: int | None) -> dict[str, Any]:
    """One run of the road. Returns: what its report says."""
    settings = Settings(home=work / "home")
    started, cpu = time.perf_counter(), time.process_time()
    out = work / f"medicines-{seed}"
    with Progress() as progress:
        result = train_package(data, out, settings=settings, options=Options(seed=seed, audit="quick", epochs=epochs),
                               progress=progress)  # fmt: skip
    told = json.loads((out / "evaluation" / "test.json").read_text())
    history = told["history"]
    return {
        "label": told["medicines"]["called"], "parts": result["parts"], "chosen": result["chosen"],
        "decision": result["decision"], "test": {"visits": told["n"], "patients": told["n_patients"]},
        "metrics": told["metrics"], "medicines": told["medicines"], "labels": len(told["labels"]),
        "epochs": len(history["epochs"]) if history and "epochs" in history else None,
        "refused": told["answers"]["refused_before_scoring"],
        "seconds": round(time.perf_counter() - started), "cpu_s": round(time.process_time() - cpu),
        "claims": told["claims"],
    }  # fmt: skip


def _write(path: Path, head: tuple[str, ...], rows: Rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generate", "train"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--people", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.what == "generate":
        found = generate(asked.data, asked.people, asked.seed)
    else:
        heads.INTERACTIONS = 0.0 if asked.plain else heads.INTERACTIONS
        found = train(asked.data, asked.work, asked.seed, asked.epochs)
    text = json.dumps(found, indent=1)
    if asked.out:
        asked.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
