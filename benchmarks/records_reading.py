"""Reading longitudinal records into timelines, against the plain programs that one would write instead.

    python benchmarks/records_reading.py [--patients 40] [--repeats 7] [--rows 1000000] [--omop PATH]

FHIR: Bundles of one patient each, a life of observations, conditions, prescriptions, encounters and claims. Peers: the
same events picked out of `json.loads` and out of `msgspec.json.decode` into plain objects. OMOP: the given export, or
generated tables; peer: `csv.DictReader` with the concepts joined by a dict. Every peer gives the same number of events,
grouped by patient and sorted by time, which is checked. Ours and the peers alternate; `ratio` is ours over the peer in
patients or rows a second, the median over repeats (target >= 0.8 against each). Memory: a table of `rows` events in
shuffled order of patients, read in a process of its own; `grown_mb` is what its peak resident memory grew by. Prints
one JSON object.
"""

import argparse
import csv
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from medserve.data.readers.records import Account, read_timelines

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
SHORT = {"http://loinc.org": "loinc", "http://snomed.info/sct": "snomed",
         "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm"}  # fmt: skip
OMOP = {"MEASUREMENT": ("measurement", "measurement"), "OBSERVATION": ("observation", "observation"),
        "CONDITION_OCCURRENCE": ("condition", "condition_start"), "DRUG_EXPOSURE": ("drug", "drug_exposure_start"),
        "PROCEDURE_OCCURRENCE": ("procedure", "procedure")}  # fmt: skip
Timelines = dict[str, list[tuple[Any, ...]]]


def hours(text: str) -> float:
    when = datetime.fromisoformat(text)
    return ((when if when.tzinfo else when.replace(tzinfo=EPOCH.tzinfo)) - EPOCH).total_seconds() / 3600


def make_bundle(patient: str, dice: random.Random) -> dict[str, Any]:
    """About 600 resources, with the metadata that real servers add."""
    who = {"reference": f"Patient/{patient}", "display": "A Patient"}

    def concept(system: str, code: str) -> dict[str, Any]:
        return {"coding": [{"system": system, "code": code, "display": f"Name of {code}"}], "text": f"Name of {code}"}

    def one(kind: str, **said: Any) -> dict[str, Any]:
        meta = {"versionId": "1", "lastUpdated": "2024-01-01T00:00:00Z", "profile": [f"http://example.org/{kind}"]}
        return {
            "fullUrl": f"http://example.org/{kind}/{dice.random()}",
            "resource": {"resourceType": kind, "meta": meta, **said},
        }

    def when() -> str:
        day = f"20{dice.randrange(10, 24)}-{dice.randrange(1, 13):02d}-{dice.randrange(1, 28):02d}"
        return f"{day}T08:{dice.randrange(60):02d}:00+02:00"

    loinc, snomed, rxnorm = SHORT
    unit = {"unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    entries = [one("Patient", id=patient, gender="female", birthDate="1950-01-01")]
    for _ in range(400):
        value = {"value": dice.random() * 100, **unit}
        entries.append(one("Observation", status="final", subject=who, effectiveDateTime=when(), issued=when(),
                           code=concept(loinc, f"{dice.randrange(60)}-1"), valueQuantity=value))  # fmt: skip
    for _ in range(50):
        entries.append(
            one("Condition", subject=who, recordedDate=when(), code=concept(snomed, str(dice.randrange(99))))
        )
        entries.append(one("MedicationRequest", status="active", subject=who, authoredOn=when(),
                           medicationCodeableConcept=concept(rxnorm, str(dice.randrange(99)))))  # fmt: skip
        items = [{"sequence": i, "productOrService": concept(snomed, "1"), "net": {"value": 1.5}} for i in range(5)]
        entries.append(one("Claim", status="active", patient=who, created=when(), item=items))
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def plain_fhir(decode: Callable[[bytes], Any]) -> Callable[[Path], Timelines]:
    times = {"Observation": "effectiveDateTime", "Condition": "recordedDate", "MedicationRequest": "authoredOn"}

    def read(folder: Path) -> Timelines:
        found: Timelines = defaultdict(list)
        for path in sorted(folder.glob("*.json")):
            for entry in decode(path.read_bytes())["entry"]:
                said = entry["resource"]
                time_key = times.get(said["resourceType"])
                if time_key is None:
                    continue
                coding = (said.get("code") or said["medicationCodeableConcept"])["coding"][0]
                value = said.get("valueQuantity", {})
                patient = said["subject"]["reference"].split("/")[-1]
                code = f"{SHORT.get(coding['system'], coding['system'])}|{coding['code']}"
                found[patient].append((hours(said[time_key]), code, value.get("value"), value.get("code")))
        for events in found.values():
            events.sort(key=lambda event: event[0])
        return found

    return read


def plain_omop(path: Path) -> Timelines:
    """`csv.DictReader`, one table after the other."""
    found: Timelines = defaultdict(list)
    with zipfile.ZipFile(path) as archive:

        def rows(table: str) -> "csv.DictReader[str]":
            return csv.DictReader(io.TextIOWrapper(archive.open(f"{table}.csv"), "utf-8"))

        names = {row["concept_id"]: (row["vocabulary_id"], row["concept_code"]) for row in rows("CONCEPT")}
        for table, (word, start) in OMOP.items():
            for row in rows(table):
                concept = names.get(row[f"{word}_concept_id"])
                code = f"{concept[0].lower()}|{concept[1]}" if concept else row[f"{word}_source_value"]
                said = row.get("value_as_number")
                unit = names.get(row.get("unit_concept_id", ""), ("", None))[1]
                event = (
                    hours(row[f"{start}_datetime"] or row[f"{start}_date"]),
                    code,
                    float(said) if said else None,
                    unit,
                )
                found[row["person_id"]].append(event)
        for row in rows("VISIT_OCCURRENCE"):
            concept = names.get(row["visit_concept_id"])
            code = f"visit|{concept[1]}" if concept else row["visit_source_value"]
            found[row["person_id"]].append((hours(row["visit_start_datetime"]), code, None, None))
            found[row["person_id"]].append((hours(row["visit_end_datetime"]), f"{code}/end", None, None))
        for row in rows("DEATH"):
            found[row["person_id"]].append((hours(row["death_datetime"]), "death", None, None))
    for events in found.values():
        events.sort(key=lambda event: event[0])
    return found


def write_omop(path: Path, rows: int) -> None:
    """Tables of the shape of a real export, mostly measurements."""
    dice = random.Random(7)
    concepts = "".join(f"{i},Name {i},LOINC,{i}-1\n" for i in range(2000))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PERSON.csv", "person_id,gender_concept_id,year_of_birth\n" + "".join(
            f"{i},8507,1950\n" for i in range(200)))  # fmt: skip
        archive.writestr("CONCEPT.csv", "concept_id,concept_name,vocabulary_id,concept_code\n" + concepts)
        for table, (word, start) in OMOP.items():
            head = (
                f"{word}_id,person_id,{word}_concept_id,{start}_date,{start}_datetime,provider_id,{word}_source_value"
            )
            lines = [f"{head},value_as_number,value_as_concept_id,unit_concept_id,unit_source_value"]
            for i in range(rows if table == "MEASUREMENT" else rows // 10):
                day = f"20{dice.randrange(10, 24)}-{dice.randrange(1, 13):02d}-{dice.randrange(1, 28):02d}"
                code = dice.randrange(1, 2000)
                lines.append(f"{i},{dice.randrange(200)},{code},{day},{day} 08:00:00,3,{code}-1,{i % 300},0,5,mg/dL")
            archive.writestr(f"{table}.csv", "\n".join(lines))
        visits = "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date,"
        archive.writestr("VISIT_OCCURRENCE.csv", visits + "visit_end_datetime,visit_source_value\n")
        archive.writestr("DEATH.csv", "person_id,death_date,death_datetime\n")


def ours(path: Path, form: str) -> tuple[int, Account]:
    account = Account()
    return sum(len(events) for _, _, events in read_timelines(path, form, account=account)), account


def compare(
    path: Path, form: str, peers: dict[str, Callable[[Path], Timelines]], repeats: int, units: int
) -> dict[str, Any]:
    spent: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        count, account = ours(path, form)
        spent["ours"].append(time.perf_counter() - start)
        for name, peer in peers.items():
            start = time.perf_counter()
            found = peer(path)
            spent[name].append(time.perf_counter() - start)
            if repeat == 0:
                theirs = sum(map(len, found.values()))
                assert theirs == count, f"{name} gives {theirs} events, ours {count}"
    for times in spent.values():
        del times[0]
    return {
        "events": count,
        "skipped_share": account.share,
        "ours_per_s": round(units / statistics.median(spent["ours"]), 1),
        "ratio": {
            name: round(statistics.median(t / o for t, o in zip(spent[name], spent["ours"], strict=True)), 2)
            for name in peers
        },
    }


def memory(path: Path) -> dict[str, Any]:
    """In a process of its own, since a peak never falls."""
    columns = {"patient": "who", "time": "t", "code": "item", "value": "x", "unit": "u"}
    before = peak_mb()
    start = time.perf_counter()
    patients = events = 0
    for _, _, found in read_timelines(path, "events", columns=columns):
        patients, events = patients + 1, events + len(found)
    spent = time.perf_counter() - start
    grown = round(peak_mb() - before, 1)
    return {"events": events, "patients": patients, "events_per_s": round(events / spent), "grown_mb": grown}


def peak_mb() -> float:
    """Of this program alone; getrusage would tell the peak of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def write_events(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("who,t,item,x,u\n")
        for i in range(rows):
            file.write(f"p{i * 7919 % 5003},{i % 977 / 10},code{i % 40},{i % 300},mmol/L\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=40, help="FHIR Bundles")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table that is read in bounded memory")
    parser.add_argument("--omop", type=Path, help="a zip of OMOP CDM 5.4 tables; generated when not given")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(memory(given.memory)))
        return
    with tempfile.TemporaryDirectory() as work:
        folder, table, omop = Path(work) / "fhir", Path(work) / "events.csv", given.omop or Path(work) / "omop.zip"
        folder.mkdir()
        dice = random.Random(7)
        for i in range(given.patients):
            (folder / f"{i:04d}.json").write_text(json.dumps(make_bundle(f"p{i}", dice)))
        write_events(table, given.rows)
        if given.omop is None:
            write_omop(omop, 10_000)
        peers = {"json": plain_fhir(json.loads), "msgspec": plain_fhir(msgspec.json.decode)}
        out = {"fhir_bundles": compare(folder, "fhir-bundle", peers, given.repeats, given.patients)}
        rows = sum(n for name, n in ours(omop, "omop")[1].read.items() if name != "PERSON")
        out["omop_rows"] = compare(omop, "omop", {"csv": plain_omop}, given.repeats, rows)
        command = [sys.executable, __file__, "--memory", str(table)]
        out["memory"] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
