"""One candidate against every rule about it.

    item = Judgement(envelope, facts, drug, candidate).item(taken)      # offered, limited, blocked or unknown

A rule that is met blocks, warns or bounds the dose; a rule that cannot be judged keeps the candidate from being
offered, and says what is missing.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.safety.facts import Facts, Taken
from medserve.safety.knowledge import Knowledge, Known, Medication
from medserve.safety.patient import Candidate
from medserve.safety.review import Fact, Finding, Item, Kind, Missing, Most, Status
from medserve.safety.tables import COMPARATORS

_MET = dict(zip(COMPARATORS, (float.__lt__, float.__le__, float.__gt__, float.__ge__), strict=True))
_MOST_RULES = 5  # named beside what is missing
Region = Callable[[float], bool]
RegionOf = Callable[[str], Region]  # by the name of a measure
EdgesOf = Callable[[str], tuple[float, ...]]


class Rulebook(Protocol):
    """What the envelope lends to a judgement."""

    knowledge: Knowledge

    def blocks(self, known: Known) -> bool: ...

    def statement(self, status: Status, some: bool) -> str: ...


class Judgement:
    """One candidate against every rule about it."""

    def __init__(self, envelope: Rulebook, facts: Facts, drug: Medication, candidate: Candidate) -> None:
        self._envelope, self._facts, self._drug, self._candidate = envelope, facts, drug, candidate
        self._met: list[tuple[bool, Finding]] = []
        self._most: list[Most] = []
        self._missing: dict[tuple[str, str], Missing] = {(one.code, one.message): one for one in facts.everywhere}

    def item(self, taken: Sequence[Taken]) -> Item:
        self._allergies()
        for known in self._drug.contraindications:
            self._contraindication(known)
        for known in self._drug.limits:
            self._limit(known)
        for other in taken:
            self._beside(other)
        self._dose()
        blocks = [finding for blocked, finding in self._met if blocked]
        warnings = [finding for blocked, finding in self._met if not blocked]
        missing = list(self._missing.values())
        status: Status = "blocked" if blocks else "unknown" if missing else "limited" if self._most else "offered"
        return Item(
            self._drug.code, self._drug.name, status, blocks, warnings, self._most, missing,
            self._envelope.statement(status, bool(warnings or self._most)),
        )  # fmt: skip

    def _meet(self, known: Known, kind: Kind, fact: Fact) -> None:
        if fact.key in self._facts.waived:
            return
        rule = known.rule
        finding = Finding(rule.id, kind, rule.severity, rule.text, rule.citation, known.source.id, known.source.version,
                          fact)  # fmt: skip
        self._met.append((self._envelope.blocks(known), finding))

    def _lack(self, missing: Missing, known: Known) -> None:
        key = (missing.code, missing.message)
        rules = list(self._missing[key].rules) if key in self._missing else []
        if len(rules) < _MOST_RULES and known.ref not in rules:
            rules.append(known.ref)
        self._missing[key] = Missing(missing.code, missing.fact, missing.message, missing.next, rules)

    def _allergies(self) -> None:
        drug = self._drug
        for allergens, fact in self._facts.reactions:
            found: dict[Known, None] = {}
            for allergen in allergens:
                if drug.own & allergen.own or allergen.whole in drug.tags:
                    found.update(dict.fromkeys(self._envelope.knowledge.same_allergen))
                for tag in drug.allergies.keys() & allergen.tags:
                    found.update(dict.fromkeys(drug.allergies[tag]))
            for known in sorted(found, key=lambda one: one.ref):
                self._meet(known, "allergy", fact)

    def _contraindication(self, known: Known) -> None:
        rule, facts = known.rule, self._facts
        if rule.kind == "condition":
            found = facts.condition(known)
            if isinstance(found, Missing):
                self._lack(found, known)
            elif found is not None:
                self._meet(known, "condition", found)
        elif rule.kind == "lab":
            self._lab(known)
        elif rule.kind == "age":
            self._age(known, lambda years: _MET[rule.comparator](years, rule.value))
        else:
            self._pregnancy(known)

    def _age(self, known: Known, region: Region) -> None:
        years = self._facts.age(known)
        if isinstance(years, Missing):
            self._lack(years, known)
        elif region(float(years)):
            self._meet_or_limit(known, "age", Fact("age", "age", "Age", years, "a"))

    def _pregnancy(self, known: Known) -> None:
        rule, facts = known.rule, self._facts
        found = facts.pregnant()
        if isinstance(found, Missing):
            self._lack(found, known)
            return
        if not found:
            return
        weeks = facts.patient.gestation_weeks
        if not rule.comparator:
            self._meet(known, "pregnancy", Fact("pregnancy", "pregnancy", "Pregnancy", weeks, "wk" if weeks else ""))
        elif weeks is None:
            self._lack(Missing("gestation-unknown", "pregnancy", "The week of the pregnancy is not known.",
                               "Send `gestation_weeks`."), known)  # fmt: skip
        elif _MET[rule.comparator](float(weeks), rule.value):
            self._meet(known, "pregnancy", Fact("pregnancy", "pregnancy", "Pregnancy", weeks, "wk"))

    def _lab(self, known: Known) -> None:
        rule = known.rule
        wanted = dict(zip(known.measures, known.values, strict=True))
        self._read(known, "lab", lambda name: (lambda value: _MET[rule.comparator](value, wanted[name])),
                   lambda name: (wanted[name],))  # fmt: skip

    def _limit(self, known: Known) -> None:
        rule = known.rule
        if rule.kind == "hepatic":
            self._hepatic(known)
        elif rule.kind == "age":
            self._age(known, lambda years: rule.low <= years < rule.high)
        else:
            self._read(known, "renal", lambda name: (lambda value: rule.low <= value < rule.high),
                       lambda name: (rule.low, rule.high))  # fmt: skip

    def _read(self, known: Known, kind: Kind, region: RegionOf, edges: EdgesOf) -> None:
        readings = self._facts.readings(known)
        if isinstance(readings, Missing):
            if f"lab:{readings.fact}" not in self._facts.waived:
                self._lack(readings, known)
            return
        for reading in readings:
            name = reading.fact.code
            met = reading.meets(region(name), edges(name))
            if met is None:
                if reading.fact.key not in self._facts.waived:
                    self._lack(Missing(
                        "value-uncertain", name, f"{reading.fact.name}: a bound alone, which leaves a limit open.",
                        "Send the value itself.",
                    ), known)  # fmt: skip
            elif met:
                self._meet_or_limit(known, kind, reading.fact)

    def _hepatic(self, known: Known) -> None:
        said, facts = self._facts.patient.child_pugh, self._facts
        if said is not None:
            if said in known.rule.child_pugh:
                self._meet_or_limit(known, "hepatic", Fact("child-pugh", "child-pugh", f"Child-Pugh class {said}"))
            return
        liver = facts.liver(known)
        if isinstance(liver, Missing):
            self._lack(liver, known)
        elif liver is not None:
            self._lack(Missing("child-pugh-unknown", "child-pugh", "There is a liver disease, but no class of it.",
                               "Send `child_pugh`: A, B, C, or none where there is no cirrhosis."), known)  # fmt: skip

    def _meet_or_limit(self, known: Known, kind: Kind, fact: Fact) -> None:
        """The rule forbids, or it bounds the dose."""
        most = getattr(known.rule, "most", None)
        if most is None:
            self._meet(known, kind, fact)
        elif fact.key not in self._facts.waived:
            rule = known.rule
            self._most.append(Most(most, rule.unit, rule.id, rule.text, rule.citation, known.source.id,
                                   known.source.version, fact))  # fmt: skip

    def _beside(self, other: Taken) -> None:
        """Another medicine that would be taken with it."""
        drug, knowledge = self._drug, self._envelope.knowledge
        if other.drug.own & drug.own:
            for known in knowledge.same_drug:
                self._meet(known, "duplicate", other.fact)
        if other.drug is drug:
            return
        for tag in other.drug.paired:
            for known in drug.partners.get(tag, ()):
                self._meet_once(known, "interaction", other.fact)
        for known in drug.duplicates:
            if any(tag in other.drug.tags and tag in drug.tags for tag in known.rule.cls):
                self._meet(known, "duplicate", other.fact)
        for cls in drug.classes & other.drug.classes:
            for known in knowledge.any_class:
                if (known.source.id, cls) not in knowledge.allowed:
                    self._meet_once(known, "duplicate", other.fact)

    def _meet_once(self, known: Known, kind: Kind, fact: Fact) -> None:
        if not any(one.rule == known.rule.id and one.source == known.source.id and one.fact is fact
                   for _, one in self._met):  # fmt: skip
            self._meet(known, kind, fact)

    def _dose(self) -> None:
        """The dose that is thought of against the limits."""
        dose = self._candidate.dose
        if dose is None or not self._most:
            return
        for most in self._most:
            if dose.unit is None:
                self._missing["unit-missing", "dose"] = Missing(
                    "unit-missing", "dose", "The dose has no unit.", f"Send it for one day, in {most.unit}."
                )
                return
            try:
                value = convert(dose.value, dose.unit, most.unit, what="the dose")
            except Refusal as error:
                self._missing["wrong-unit", "dose"] = Missing(error.code, "dose", error.message, error.hint)
                return
            if value > most.value:
                fact = Fact("dose", "dose", "Dose of one day", dose.value, dose.unit)
                finding = Finding(most.rule, "dose", "major", f"At most {most.value:g} {most.unit}. {most.text}",
                                  most.citation, most.source, most.version, fact)  # fmt: skip
                if fact.key not in self._facts.waived:
                    self._met.append((True, finding))
