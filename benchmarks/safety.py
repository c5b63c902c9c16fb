"""How long one review of the rules of safety takes, for ten candidates beside ten medicines.

    python benchmarks/safety.py [--reviews 2000] [--rules FOLDER]

Patients, medicines and candidates are drawn from the tables; one thread. Prints one JSON object.
"""

import argparse
import datetime
import json
import random
import time
from pathlib import Path

from medserve.safety.envelope import Envelope
from medserve.safety.patient import Condition, Lab, Medicine, Patient
from medserve.safety.source import STARTER

LABS = {"98979-8": ("mL/min/{1.73_m2}", 15, 110), "35591-7": ("mL/min", 15, 120), "2823-3": ("mmol/L", 3.2, 6.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=2000)
    parser.add_argument("--rules", type=Path, action="append", default=[])
    said = parser.parse_args()
    began = time.perf_counter()
    envelope = Envelope.open([STARTER, *said.rules])
    opened = time.perf_counter() - began
    draw, today = random.Random(1), datetime.date(2026, 12, 1)
    drugs = sorted({drug.code for source in envelope.knowledge.sources for drug in source.drugs})
    codes = sorted({code for source in envelope.knowledge.sources for rule in source.contraindications
                    for code in rule.when if code.startswith("icd10|")})  # fmt: skip
    spent, offered = [], 0
    for _ in range(said.reviews):
        patient = Patient(
            age_years=draw.randrange(18, 90),
            sex=draw.choice(["female", "male"]),
            pregnancy="not-pregnant",
            child_pugh="none",
            conditions=[Condition(draw.choice(codes)) for _ in range(4)],
            labs=[Lab(f"loinc|{code}", draw.uniform(low, high), unit) for code, (unit, low, high) in LABS.items()],
            allergies=[],
            medicines=[Medicine(code) for code in draw.sample(drugs, 10)],
        )
        asked = draw.sample(drugs, 10)
        began = time.perf_counter()
        offered += len(envelope.review(patient, asked, today=today).offered)
        spent.append(time.perf_counter() - began)
    spent.sort()
    rules = sum(1 for source in envelope.knowledge.sources for _ in source.rules)
    print(json.dumps({
        "reviews": len(spent), "rules": rules, "medicines": len(envelope.knowledge), "offered": offered,
        "open_ms": round(opened * 1000, 1), "median_ms": round(spent[len(spent) // 2] * 1000, 3),
        "p99_ms": round(spent[int(len(spent) * 0.99)] * 1000, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
