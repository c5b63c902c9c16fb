"""The rule tables read a second time, line by line and without an index; it shares no code with `medserve.safety`.

    tables = Tables(folder)
    tables.verdict(patient, drug, beside)       # "forbidden", "allowed", or "open": a fact is missing

`patient` is the JSON of docs/safety.md as plain dicts; the facts in it are told in the units and codes of the tables.
"""

import csv
import datetime
from pathlib import Path

BLOCKS = {"contraindicated", "major"}


def parts(cell):
    return [one.strip() for one in cell.split(";") if one.strip()]


class Tables:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.drugs = {row["code"]: row for row in self.rows("drugs.csv")}
        self.group = {f"group|{row['group']}": parts(row["members"]) for row in self.rows("groups.csv")}
        self.measure = {f"measure|{row['measure']}": row for row in self.rows("measures.csv")}
        self.means = {row["code"]: row["means"] for row in self.rows("codes.csv")}
        self.about = {code: self.of(code) for code in self.drugs}

    def rows(self, name):
        with (self.folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def codes(self, code):
        """Of a drug: its own and those of its ingredients."""
        row = self.drugs[code]
        found = [code, *parts(row["also"])]
        for other in parts(row["ingredients"]):
            found += self.codes(other)
        return found

    def is_meant(self, code, selector):
        """Whether a cell of a rule means this drug."""
        for one in parts(selector):
            if one.startswith("group|"):
                if self.is_meant(code, ";".join(self.group[one])):
                    return True
            elif any(mine == one or (one.startswith("atc|") and mine.startswith(one)) for mine in self.codes(code)):
                return True
        return False

    def of(self, code):
        """Every rule about a drug, found by looking at each line of each table."""

        def about(name, column):
            return [row for row in self.rows(name) if self.is_meant(code, row[column])]

        return {
            "contraindications": about("contraindications.csv", "drug"),
            "limits": about("limits.csv", "drug"),
            "allergies": [row for row in self.rows("allergies.csv")
                          if row["drug"] == "same" or self.is_meant(code, row["drug"])],
            "left": about("interactions.csv", "a"),
            "right": about("interactions.csv", "b"),
        }  # fmt: skip

    def pair_blocked(self, one, other):
        """The ids of lines that forbid two medicines together."""
        found = set()
        if one != other:
            for near, far in (("left", "right"), ("right", "left")):
                ids = {row["id"] for row in self.about[other][far]}
                found |= {row["id"] for row in self.about[one][near] if row["id"] in ids and row["severity"] in BLOCKS}
        allowed = {cls for row in self.rows_of_duplicates if row["severity"] == "none" for cls in parts(row["class"])}
        mine, yours = self.codes(one), self.codes(other)
        for row in self.rows_of_duplicates:
            if row["severity"] not in BLOCKS:
                continue
            if row["class"] == "same":
                met = bool(set(mine) & set(yours))
            elif row["class"] == "atc-level-4":
                shared = {a[:9] for a in mine if a.startswith("atc|")} & {b[:9] for b in yours if b.startswith("atc|")}
                met = one != other and bool(shared - allowed)
            else:
                met = one != other and any(
                    self.is_meant(one, cls) and self.is_meant(other, cls) for cls in parts(row["class"])
                )
            if met:
                found.add(row["id"])
        return found

    _duplicates = None

    @property
    def rows_of_duplicates(self):
        if self._duplicates is None:
            self._duplicates = self.rows("duplicates.csv")
        return self._duplicates

    def verdict(self, patient, drug, beside=()):
        """("forbidden", ids) or ("open", ids) or ("allowed", ())."""
        hit, unclear = set(), set()
        conditions = []
        for said in patient["conditions"] or ():
            code = self.means.get(said["code"], said["code"]).replace("icd10cm|", "icd10|").replace(".", "")
            conditions.append((code, said.get("status", "active")))
        for row in self.about[drug]["contraindications"]:
            blocks = row["severity"] in BLOCKS
            if row["kind"] == "condition":
                wanted = [one.replace(".", "") for one in parts(row["when"])]
                if patient["conditions"] is None:
                    unclear.add(row["id"])
                for code, status in conditions:
                    if (row["ever"] == "yes" or status == "active") and any(code.startswith(one) for one in wanted):
                        hit |= {row["id"]} if blocks else set()
                    elif (row["ever"] == "yes" or status == "active") and any(one.startswith(code) for one in wanted):
                        unclear.add(row["id"])
            elif row["kind"] == "pregnancy":
                state = self.pregnancy(patient, conditions)
                if state is None:
                    unclear.add(row["id"])
                elif state and row["comparator"]:
                    weeks = patient.get("gestation_weeks")
                    if weeks is None:
                        unclear.add(row["id"])
                    elif compare(weeks, row["comparator"], float(row["value"])) and blocks:
                        hit.add(row["id"])
                elif state and blocks:
                    hit.add(row["id"])
            elif row["kind"] == "age":
                if patient.get("age_years") is None:
                    unclear.add(row["id"])
                elif compare(patient["age_years"], row["comparator"], float(row["value"])) and blocks:
                    hit.add(row["id"])
            else:
                values = self.values(patient, row["when"])
                if not values:
                    unclear.add(row["id"])
                if any(compare(value, row["comparator"], float(row["value"])) for value in values) and blocks:
                    hit.add(row["id"])
        for row in self.about[drug]["limits"]:
            if row["kind"] == "renal":
                values = self.values(patient, row["when"])
                if not values:
                    unclear.add(row["id"])
                low, high = float(row["low"] or "-inf"), float(row["high"] or "inf")
                met = any(low <= value < high for value in values)
            elif row["kind"] == "age":
                met = False
                if patient.get("age_years") is None:
                    unclear.add(row["id"])
            else:
                grade = patient.get("child_pugh")
                met = grade in parts(row["child_pugh"])
                ill = any(
                    code.startswith(
                        (
                            "icd10|K70",
                            "icd10|K71",
                            "icd10|K72",
                            "icd10|K73",
                            "icd10|K74",
                            "icd10|K766",
                            "icd10|K767",
                            "icd10|I85",
                        )
                    )
                    for code, _ in conditions
                )
                if grade is None and (ill or patient["conditions"] is None):
                    unclear.add(row["id"])
            if met and row["action"] == "avoid" and row["severity"] in BLOCKS:
                hit.add(row["id"])
        if patient["allergies"] is None or patient["medicines"] is None:
            unclear.add("list")
        for said in patient["allergies"] or ():
            meant = self.means.get(said["code"], said["code"])
            if meant == "none":
                continue
            for row in self.about[drug]["allergies"]:
                if row["severity"] not in BLOCKS:
                    continue
                if row["drug"] == "same":
                    met = (
                        self.is_meant(drug, meant)
                        if meant not in self.drugs
                        else bool(set(self.codes(drug)) & set(self.codes(meant)))
                    )
                elif meant in self.drugs:
                    met = self.is_meant(meant, row["allergen"])
                else:
                    met = meant in parts(row["allergen"])
                if met:
                    hit.add(row["id"])
        for other in (*(one["drug"] for one in patient["medicines"] or ()), *beside):
            hit |= self.pair_blocked(drug, other)
        if hit:
            return "forbidden", hit
        return ("open", unclear) if unclear else ("allowed", set())

    def pregnancy(self, patient, conditions):
        told = any(status == "active" and code.startswith(("icd10|Z33", "icd10|Z34", "icd10|Z3A", "icd10|O09"))
                   for code, status in conditions)  # fmt: skip
        said = patient.get("pregnancy")
        if said == "pregnant":
            return True
        if said == "not-pregnant":
            return None if told else False
        if told:
            return True
        age = patient.get("age_years")
        if patient.get("sex") == "male" or (age is not None and not 12 <= age <= 55):
            return False
        return None

    def values(self, patient, when):
        names = [one for name in parts(when) for one in parts(self.measure[name]["codes"])]
        day = datetime.date.fromisoformat(patient["as_of"])
        found = []
        for lab in patient["labs"]:
            if lab["code"] in names and (day - datetime.date.fromisoformat(lab["date"])).days <= 365:
                found.append((lab["date"], lab["value"]))
        newest = max((date for date, _ in found), default=None)
        return [value for date, value in found if date == newest]


def compare(value, comparator, bound):
    return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[comparator]
