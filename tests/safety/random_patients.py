"""Random patients who meet rules often: their conditions, allergies, values and medicines are drawn from the tables."""

import random

OTHER = ("icd10|I10", "icd10|E11.9", "icd10|M17.0", "icd10|Z95.2", "icd10|N39.0", "icd10cm|E78.5", "snomed|59621000",
         "snomed|84114007", "snomed|22298006", "snomed|77386006")  # fmt: skip
LABS = {
    "loinc|98979-8": ("mL/min/{1.73_m2}", 5, 120), "loinc|35591-7": ("mL/min", 5, 130),
    "loinc|2823-3": ("mmol/L", 3, 6.5), "loinc|2951-2": ("mmol/L", 125, 148), "loinc|751-8": ("10*3/uL", 0.5, 9),
    "loinc|8867-4": ("/min", 45, 110), "loinc|8480-6": ("mm[Hg]", 80, 170), "loinc|8636-3": ("ms", 380, 480),
}  # fmt: skip


class Hospital:
    """seed: the same patients again. gaps: how often a fact is not known."""

    def __init__(self, tables, seed, gaps=0.02):
        self._draw, self._gaps = random.Random(seed), gaps
        self._drugs = sorted(tables.drugs)
        self._conditions = sorted(
            {one for row in tables.rows("contraindications.csv") for one in row["when"].split(";") if "icd10" in one}
        )
        self._allergens = [*sorted(tables.group), "snomed|91936005", "snomed|91935009", "snomed|294505008"]

    def _maybe(self, value):
        return None if self._draw.random() < self._gaps else value

    def _longer(self, code):
        """A code of the tables as a record may write it: itself, with a further character, or its first three."""
        chance = self._draw.random()
        return f"{code}9" if chance < 0.4 else code[:9] if chance < 0.5 else code

    def patient(self):
        draw = self._draw
        conditions = [
            {"code": self._longer(draw.choice(self._conditions)) if draw.random() < 0.5 else draw.choice(OTHER),
             "status": draw.choice(["active", "active", "resolved"])}
            for _ in range(draw.randrange(4))
        ]  # fmt: skip
        allergies = [{"code": draw.choice(self._allergens if draw.random() < 0.3 else self._drugs)}
                     for _ in range(draw.choice([0, 0, 1, 2]))]  # fmt: skip
        medicines = [{"drug": one} for one in draw.sample(self._drugs, draw.randrange(6))]
        labs = []
        for code, (unit, low, high) in LABS.items():
            if draw.random() > self._gaps:
                value = round(draw.uniform(low, high), 2)
                labs.append({"code": code, "value": value, "unit": unit, "date": f"2026-{draw.randrange(1, 12):02}-01"})
                if draw.random() < 0.2:
                    labs.append({"code": code, "value": round(draw.uniform(low, high), 2), "unit": unit,
                                 "date": "2024-05-01"})  # fmt: skip
        sex = draw.choice(["female", "male"])
        pregnant = sex == "female" and draw.random() < 0.15
        return {
            "age_years": self._maybe(round(draw.choice([draw.uniform(0, 18), draw.uniform(18, 95)]), 1)),
            "sex": self._maybe(sex),
            "pregnancy": self._maybe("pregnant" if pregnant else "not-pregnant") if sex == "female" else None,
            "gestation_weeks": self._maybe(draw.randrange(4, 41)) if pregnant else None,
            "child_pugh": draw.choice(["none", "none", "none", None, "A", "B", "C"]),
            "conditions": self._maybe(conditions),
            "labs": labs,
            "allergies": self._maybe(allergies),
            "medicines": self._maybe(medicines),
            "as_of": "2026-12-01",
        }

    def candidates(self, count=6):
        return self._draw.sample(self._drugs, count)
