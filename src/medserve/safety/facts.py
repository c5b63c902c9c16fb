"""A patient's facts as rules ask for them: met, not met, or not known, and then what to do about it.

    facts = Facts(patient, knowledge, today=date.today())
    facts.pregnant()                 # True, False, or Missing("pregnancy-unknown", ...)
    facts.readings(known)            # current values of a quantity, in its unit; or Missing(...)

What is missing is never taken for absent.
"""

import datetime
import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.safety.knowledge import Allergen, Knowledge, Known, Medication
from medserve.safety.patient import AllergySaid, Condition, Lab, Patient
from medserve.safety.review import Fact, Missing
from medserve.safety.rules import NONE, Measure
from medserve.safety.words import Codes, starts, tidy, vague

FERTILE_A = (12.0, 55.0)  # years of age between which a woman may be pregnant
# Not UCUM, and in use.
SPELLED = dict.fromkeys(("mL/min/1.73m2", "mL/min/1.73 m2", "mL/min/1.73m^2", "mL/min/1.73m²", "mL/min/1.73 m²",
                         "ml/min/1.73m2", "ml/min/1.73 m2"), "mL/min/{1.73_m2}")  # fmt: skip
_NO_DIMENSION = re.compile(r"\{[^{}]*\}")  # UCUM: an annotation alone is the unit 1


class Reading(NamedTuple):
    """One value in the unit of its measure. bound: of what is known, where that is a bound alone."""

    value: float
    bound: str
    fact: Fact

    def meets(self, region: Callable[[float], bool], edges: Iterable[float]) -> bool | None:
        """Whether it lies in a region with these edges; None: the bound does not tell."""
        if not self.bound:
            return region(self.value)
        low, high = (self.value, math.inf) if self.bound[0] == ">" else (-math.inf, self.value)
        if any(low < edge < high for edge in edges):
            return None
        step = max(1e-9, abs(self.value) * 1e-9)
        inside = self.value + step if self.bound[0] == ">" else self.value - step
        if self.bound[1:] == "=" and region(self.value) != region(inside):
            return None
        return region(inside)


class Had(NamedTuple):
    """A condition whose code can be read. codes: in every system that tells it."""

    codes: frozenset[str]
    past: bool
    fact: Fact


class Reaction(NamedTuple):
    """An allergy that can be read."""

    allergens: tuple[Allergen, ...]
    fact: Fact


class Taken(NamedTuple):
    """A medicine: taken now, or offered before the one that is judged."""

    drug: Medication
    fact: Fact


class Facts:
    """
    Args:
        today: where the patient's own `as_of` says no day.
        waived: keys of facts that are taken as if they were not so; see `change`.
    """

    def __init__(
        self, patient: Patient, knowledge: Knowledge, *, today: datetime.date, waived: frozenset[str] = frozenset()
    ) -> None:
        self.patient, self._knowledge, self.waived = patient, knowledge, waived
        self._day = patient.as_of or today
        self.notes: list[str] = []
        self.everywhere: list[Missing] = []  # what keeps every candidate from being judged
        self.had: list[Had] = []
        self.unread: list[Fact] = []
        self.reactions: list[Reaction] = []
        self.taken: list[Taken] = []
        self._readings: dict[tuple[Codes, int | None], list[Reading] | Missing] = {}
        self._pregnant: bool | Missing | None = None
        self._labs: dict[str, list[Lab]] = {}
        for lab in patient.labs:
            for name in {name for code in (lab.code, *lab.also) for name in self._measures(code)}:
                self._labs.setdefault(name, []).append(lab)
        self._read_medicines()
        self._read_allergies()
        for condition in patient.conditions or ():
            self._read_condition(condition)

    def _measures(self, code: str) -> set[str]:
        plain = tidy(code)
        return self._knowledge.measure_of.get(plain, set()) if plain else set()

    def _read_medicines(self) -> None:
        if self.patient.medicines is None:
            self.everywhere.append(Missing(
                "medicines-unknown", "medicines", "It is not known which medicines are taken now.",
                "Send `medicines`; an empty list where there are none.",
            ))  # fmt: skip
        for medicine in self.patient.medicines or ():
            drug = self._knowledge.drug(medicine.drug, medicine.also)
            if drug is None:
                self.everywhere.append(Missing(
                    "medicine-unknown", "medicines", f"No source knows the current medicine {medicine.drug[:60]!r}.",
                    "Send an ATC or RxNorm code of the tables (medserve safety --sources), or add it to drugs.csv.",
                ))  # fmt: skip
                continue
            fact = Fact("medicine", drug.code, drug.name)
            if fact.key not in self.waived:
                self.taken.append(Taken(drug, fact))

    def _read_allergies(self) -> None:
        if self.patient.allergies is None:
            self.everywhere.append(Missing(
                "allergies-unknown", "allergies", "It is not known whether there are allergies.",
                "Send `allergies`; an empty list where none are known.",
            ))  # fmt: skip
        for allergy in self.patient.allergies or ():
            self._read_allergy(allergy)

    def _read_allergy(self, allergy: AllergySaid) -> None:
        outside = allergy.category in ("food", "environment")
        if allergy.code is None and not outside:
            self.everywhere.append(Missing(
                "allergy-free-text", "allergies", "An allergy is told in free text alone, which no rule can read.",
                "Code its substance (RxNorm, ATC, or SNOMED CT), or say that its category is food or environment.",
            ))  # fmt: skip
            return
        meant: set[str] = set()
        for code in filter(None, map(tidy, (allergy.code or "", *allergy.also))):
            meant |= {code} | self._knowledge.meanings.get(code, set())
        found = tuple(one for code in sorted(meant) if (one := self._knowledge.allergen(code)) is not None)
        if not found and NONE not in meant and not outside:
            self.everywhere.append(Missing(
                "allergen-unknown", "allergies", f"No source knows the allergen {(allergy.code or '')[:60]!r}.",
                "Send a code of the tables (medserve safety --sources), or give it a line in codes.csv.",
            ))  # fmt: skip
        elif found:
            fact = Fact("allergy", allergy.code or allergy.also[0], (allergy.text or "")[:100])
            if fact.key not in self.waived:
                self.reactions.append(Reaction(found, fact))
        else:
            self.notes.append("An allergy that is to no medicine was not held against medicines.")

    def _read_condition(self, condition: Condition) -> None:
        codes: set[str] = set()
        read = False
        for code in filter(None, map(tidy, (condition.code or "", *condition.also))):
            means = self._knowledge.meanings.get(code, set())
            codes |= {code} | {one for one in means if one != NONE}
            read = read or bool(means) or code.startswith("icd10|") or code in self._knowledge.conditions
        fact = Fact("condition", condition.code or "", (condition.text or "")[:100])
        if not read:
            self.unread.append(fact)
        elif fact.key not in self.waived:
            self.had.append(Had(frozenset(codes), condition.status == "resolved", fact))

    def condition(self, known: Known) -> Fact | None | Missing:
        """The condition that a rule is about, if the patient has it."""
        rule = known.rule
        unclear: Fact | None = None
        for one in self.had:
            if one.past and not rule.ever:
                continue
            for wanted in rule.when:
                if any(starts(code, wanted) for code in one.codes):
                    return one.fact
                if any(vague(code, wanted) for code in one.codes):
                    unclear = one.fact
        if unclear is not None:
            return Missing("condition-unspecific", unclear.key, f"The code {unclear.code} is too short to tell.",
                           "Send the code with all its characters.", [known.ref])  # fmt: skip
        return self._conditions_known(known)

    def liver(self, known: Known) -> Fact | None | Missing:
        """A disease of the liver, also a past one."""
        for one in self.had:
            if any(starts(code, wanted) for code in one.codes for wanted in self._knowledge.liver):
                return one.fact
        return self._conditions_known(known)

    def _conditions_known(self, known: Known) -> Missing | None:
        if self.patient.conditions is None:
            return Missing("conditions-unknown", "conditions", "It is not known which conditions there are.",
                           "Send `conditions`; an empty list where there are none.", [known.ref])  # fmt: skip
        if self.unread:
            return Missing(
                "condition-unknown", "conditions",
                f"{len(self.unread)} condition(s) cannot be read: {self.unread[0].code[:60] or 'a text alone'}.",
                "Send its ICD-10 code beside it, or give its code a line in codes.csv.", [known.ref],
            )  # fmt: skip
        return None

    def age(self, known: Known) -> float | Missing:
        """Years."""
        if self.patient.age_years is None:
            return Missing(
                "age-unknown", "age", "The age is not known.", "Send `age_years`, or a birth date.", [known.ref]
            )
        return self.patient.age_years

    def pregnant(self) -> bool | Missing:
        if self._pregnant is None:
            self._pregnant = self._is_pregnant()
        return self._pregnant

    def _is_pregnant(self) -> bool | Missing:
        patient = self.patient
        told = any(not one.past and any(starts(code, wanted) for code in one.codes)
                   for one in self.had for wanted in self._knowledge.pregnant)  # fmt: skip
        if patient.pregnancy == "pregnant":
            return True
        if patient.pregnancy == "not-pregnant":
            if told:
                return Missing("pregnancy-conflict", "pregnancy", "A condition tells a pregnancy, `pregnancy` none.",
                               "Mend the one that is wrong.")  # fmt: skip
            return False
        if told:
            return True
        low, high = FERTILE_A
        if patient.sex == "male" or (patient.age_years is not None and not low <= patient.age_years <= high):
            return False
        return Missing("pregnancy-unknown", "pregnancy", f"Whether there is a pregnancy is not known (age {low:g} to "
                       f"{high:g}, or age or sex unknown).", "Send `pregnancy`: pregnant or not-pregnant.")  # fmt: skip

    def readings(self, known: Known) -> list[Reading] | Missing:
        """The current values of what the rule is about: the newest ones, and those without a date."""
        key = (known.measures, known.source.lab_days)
        found = self._readings.get(key)
        if found is None:
            found = self._readings[key] = self._read_labs(*key)
        return found if isinstance(found, list) else _for(found, known)

    def _read_labs(self, names: Codes, days: int | None) -> list[Reading] | Missing:
        measures = self._knowledge.measures
        title = measures[names[0]].title
        said = [(name, lab) for name in names for lab in self._labs.get(name, ())]
        said = [(name, lab) for name, lab in said if lab.date is None or lab.date <= self._day]
        if not said:
            asked = f"Send it in {measures[names[0]].unit} as {', '.join(measures[names[0]].codes[:3])}."
            return Missing("fact-missing", names[0], f"There is no value of: {title}.", asked)
        newest = max((lab.date for _, lab in said if lab.date is not None), default=None)
        current = [(name, lab) for name, lab in said if lab.date is None or lab.date == newest]
        if days is not None:
            fresh = [(n, lab) for n, lab in current if lab.date is None or (self._day - lab.date).days <= days]
            if not fresh:
                return Missing("fact-old", names[0], f"The newest value of {title} is older than {days} days.",
                               "Send a newer one.")  # fmt: skip
            current = fresh
        found = []
        for name, lab in current:
            reading = _reading(measures[name], lab)
            if isinstance(reading, Missing):
                return reading
            found.append(reading)
        return found


def _reading(measure: Measure, lab: Lab) -> Reading | Missing:
    """In the measure's unit, within what a living body can show."""
    if lab.unit is None:
        return Missing("unit-missing", measure.name, f"{measure.title}: the value has no unit.",
                       f"Send its unit (UCUM), for instance {measure.unit}.")  # fmt: skip
    unit = "1" if _NO_DIMENSION.fullmatch(lab.unit) and measure.unit == "1" else SPELLED.get(lab.unit, lab.unit)
    try:
        value = convert(lab.value, unit, measure.unit, what=measure.title)
    except Refusal as error:
        return Missing("wrong-unit", measure.name, error.message, error.hint or f"Send it in {measure.unit}.")
    if not math.isfinite(value) or not measure.low <= value <= measure.high:
        bounds = f"{measure.low:g} to {measure.high:g} {measure.unit}"
        said = f"{measure.title}: outside what a living body shows ({bounds})."
        return Missing("value-implausible", measure.name, said, "Look at the value and its unit.")
    return Reading(value, lab.comparator or "", Fact("lab", measure.name, measure.title, lab.value, lab.unit))


def _for(missing: Missing, known: Known) -> Missing:
    return Missing(missing.code, missing.fact, missing.message, missing.next, [known.ref])
