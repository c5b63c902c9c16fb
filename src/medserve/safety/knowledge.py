"""All sources as one, found by drug: a review never looks at a rule that is not about its medicines.

    knowledge = Knowledge([starter, hospital])
    warfarin = knowledge.drug("warfarin")              # by code or by name; None: unknown
    warfarin.partners, warfarin.contraindications      # the rules that are about it

The union of sources restricts: each may add rules, and what one source allows silences no rule of another.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from medserve.data.readers.records.codes import COMMON
from medserve.data.units import convert
from medserve.errors import BadData, Refusal
from medserve.safety.rules import ANY_CLASS, NONE, SAME, Measure, Rule
from medserve.safety.source import Header, Source
from medserve.safety.words import LEVEL_4, Codes, is_substance, prefixes, tidy


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A rule and where it stands. measures: names of the quantities that it is about. values: the rule's own in the
    unit of each."""

    rule: Any
    source: Header
    measures: Codes = ()
    values: tuple[float, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.source.id}:{self.rule.id}"


@dataclass(slots=True, eq=False)
class Medication:
    """One drug of the tables, with the rules that are about it.

    own: its codes and those of its ingredients. tags: these, the classes above them and the groups they are in.
    classes: of ATC level 4. partners: tag of another drug -> interactions. allergies: tag of an allergen -> rules.
    """

    code: str
    name: str
    own: frozenset[str]
    tags: frozenset[str]
    classes: frozenset[str]
    partners: dict[str, tuple[Known, ...]] = field(default_factory=dict)
    paired: tuple[str, ...] = ()
    contraindications: tuple[Known, ...] = ()
    limits: tuple[Known, ...] = ()
    allergies: dict[str, tuple[Known, ...]] = field(default_factory=dict)
    duplicates: tuple[Known, ...] = ()  # rules of a named class that it is in


class Allergen(NamedTuple):
    """own: codes of one drug; whole: the class or group, where it is one. tags: what a rule may call it."""

    own: frozenset[str]
    whole: str
    tags: frozenset[str]


class Knowledge:
    """Read only; safe to use from several threads.

    Raises: BadData "rules-id", "rules-drug", "rules-unmatched", "rules-measure", "rules-allergy".
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        if len({source.header.id for source in sources}) != len(sources):
            raise BadData("rules-id", "Two sources have one id.", hint="Give each header.yaml an id of its own.")
        self.meanings: dict[str, set[str]] = defaultdict(set)
        for meaning in (one for source in sources for one in source.codes):
            self.meanings[meaning.code].add(meaning.means)
        self._groups: dict[str, set[str]] = defaultdict(set)
        for group in (one for source in sources for one in source.groups):
            self._groups[group.name].update(group.members)
        self._in_groups: dict[str, set[str]] = defaultdict(set)  # tag -> groups that hold it
        for name, members in self._groups.items():
            for member in members:
                self._in_groups[member].add(name)
        self.measures: dict[str, Measure] = {}
        self.measure_of: dict[str, set[str]] = defaultdict(set)  # code -> names of measures
        self._read_measures()
        self._codes: dict[str, Medication] = {}
        self._names: dict[str, Medication | None] = {}
        self._read_drugs()
        self._tags = {tag for medication in self._codes.values() for tag in medication.tags}
        self.same_drug = self._duplicates(SAME)
        self.any_class = self._duplicates(ANY_CLASS)
        self.allowed = {
            (source.header.id, cls)
            for source in sources for rule in source.duplicates if rule.severity == NONE for cls in rule.cls
        }  # fmt: skip
        self.same_allergen = [
            Known(rule, source.header) for source in sources for rule in source.allergies if SAME in rule.drug
        ]
        if not self.same_allergen:
            raise BadData(
                "rules-allergy", "No source says that an allergy to a medicine forbids that medicine.",
                hint="Give allergies.csv a line with allergen same and drug same, or ask the starter table too.",
            )  # fmt: skip
        self.conditions = {code for source in sources for rule in source.contraindications
                           if rule.kind == "condition" for code in rule.when}  # fmt: skip
        self.liver = tuple({code for source in sources for code in source.liver})
        self.pregnant = tuple({code for source in sources for code in source.pregnant})
        self._check_and_index()

    def __len__(self) -> int:
        return len({id(one) for one in self._codes.values()})

    def drug(self, said: str, also: Iterable[str] = ()) -> Medication | None:
        """By `system|code`, a bare ATC code, or its name or synonym; None: unknown, or the codes contradict."""
        found = {id(one): one for text in (said, *also) if (one := self._one(text)) is not None}
        return next(iter(found.values())) if len(found) == 1 else None

    def _one(self, said: str) -> Medication | None:
        if (system := said.partition("|")[0]) and "|" in said and system not in ("text", "name"):
            code = tidy(said)
            return None if code is None else self._codes.get(code)
        name = said.partition("|")[2] if "|" in said else said
        name = name.strip().lower()
        return self._names.get(name) or self._codes.get(f"atc|{name.upper()}")

    def allergen(self, code: str) -> Allergen | None:
        """Of a drug, a class of ATC or a group."""
        if (drug := self._codes.get(code)) is not None:
            return Allergen(drug.own, "", drug.tags)
        if code.startswith("group|") and code in self._groups:
            return Allergen(frozenset(), code, frozenset({code}))
        if code.startswith("atc|") and not is_substance(code) and code in self._tags:
            above = frozenset(prefixes(code))
            return Allergen(frozenset(), code, above.union(*(self._in_groups.get(tag, set()) for tag in above)))
        return None

    def _read_measures(self) -> None:
        """Of one name in two sources: all codes of both, and the bounds within which both see a living body."""
        for source in self.sources:
            for one in source.measures:
                known = self.measures.get(one.name, one)
                if known.unit != one.unit:
                    said = f"{source.header.id}: measures.csv, line {one.line}: {one.name} has another unit elsewhere."
                    raise BadData("rules-measure", said, hint="Give it another name, or that unit.")
                codes = tuple(dict.fromkeys((*known.codes, *one.codes)))
                low, high = max(known.low, one.low), min(known.high, one.high)
                self.measures[one.name] = Measure(one.name, known.title, one.unit, low, high, codes)
                for code in one.codes:
                    self.measure_of[code].add(one.name)

    def _read_drugs(self) -> None:
        said: dict[str, dict[str, Any]] = {}
        for source in self.sources:
            seen: dict[str, int] = {}
            for drug in source.drugs:
                where = f"{source.header.id}, drugs.csv, line {drug.line}"
                for code in (drug.code, *drug.also):
                    if code in seen:
                        raise BadData("rules-drug", f"{where}: {code} stands in line {seen[code]} already.")
                    seen[code] = drug.line
                entry = said.setdefault(drug.code, {"name": drug.name, "names": set(), "codes": set(), "cls": set(),
                                                    "ingredients": set(), "where": where})  # fmt: skip
                entry["names"] |= {drug.name, *drug.synonyms}
                entry["codes"] |= {drug.code, *drug.also}
                entry["cls"] |= set(drug.cls)
                entry["ingredients"] |= set(drug.ingredients)
                wrong = [one for one in drug.cls if drug.code.startswith("atc|") and not drug.code.startswith(one)]
                if wrong:
                    raise BadData("rules-drug", f"{where}: the class {wrong[0]} is not one of {drug.code}.")
        of_code = {code: main for main, entry in said.items() for code in sorted(entry["codes"])}
        for main, entry in said.items():
            for code in entry["codes"]:
                if of_code[code] != main:
                    raise BadData("rules-drug", f"{entry['where']}: {code} is also a code of {of_code[code]}.")
            lack = entry["ingredients"] - set(of_code)
            if lack:
                raise BadData("rules-drug", f"{entry['where']}: the ingredient {sorted(lack)[0]} is no drug here.")
        for main, entry in said.items():
            own: set[str] = set(entry["codes"])
            classes: set[str] = set(entry["cls"])
            for ingredient in entry["ingredients"]:
                of = said[of_code[ingredient]]
                own |= of["codes"]
                classes |= of["cls"]
            tags = {tag for code in own | classes for tag in prefixes(code)}
            tags |= {group for tag in tags for group in self._in_groups.get(tag, ())}
            level = frozenset(tag for tag in tags if tag.startswith("atc|") and len(tag) == 4 + LEVEL_4)
            made = Medication(main, entry["name"], frozenset(own), frozenset(tags), level)
            for code in entry["codes"]:
                self._codes[code] = made
            for name in entry["names"]:
                known = self._names.setdefault(name.lower(), made)
                if known is not made:
                    self._names[name.lower()] = None  # two drugs: the name tells neither

    def _duplicates(self, word: str) -> list[Known]:
        return [Known(rule, source.header) for source in self.sources for rule in source.duplicates
                if word in rule.cls and rule.severity != NONE]  # fmt: skip

    def _check_and_index(self) -> None:
        """Every rule under each tag that it names; then every drug with the rules of its tags."""
        pairs: dict[str, list[tuple[Codes, Known]]] = defaultdict(list)
        by_tag: dict[str, dict[str, list[Known]]] = {
            name: defaultdict(list) for name in ("contraindications", "limits", "duplicates")
        }
        allergies: dict[str, list[tuple[Codes, Known]]] = defaultdict(list)
        for source in self.sources:
            for group in source.groups:
                self._matched(source, f"groups.csv, line {group.line}", group.members)
            for meaning in source.codes:
                if meaning.means.partition("|")[0] in ("atc", "rxnorm", "group"):
                    self._matched(source, f"codes.csv, line {meaning.line}", (meaning.means,))
            for pair in source.interactions:
                known = self._known(source, "interactions.csv", pair, pair.a + pair.b)
                for mine, other in ((pair.a, pair.b), (pair.b, pair.a)):
                    for tag in mine:
                        pairs[tag].append((other, known))
            for rule in source.contraindications:
                known = self._known(source, "contraindications.csv", rule, rule.drug, rule.when, rule.unit, rule.value)
                for tag in rule.drug:
                    by_tag["contraindications"][tag].append(known)
            for limit in source.limits:
                known = self._known(source, "limits.csv", limit, limit.drug, limit.when)
                for tag in limit.drug:
                    by_tag["limits"][tag].append(known)
            for allergy in source.allergies:
                named = () if SAME in allergy.drug else allergy.drug
                known = self._known(source, "allergies.csv", allergy, named)
                for tag in named:
                    allergies[tag].append((allergy.allergen, known))
            for twice in source.duplicates:
                named = tuple(one for one in twice.cls if one not in (SAME, ANY_CLASS))
                named = () if twice.severity == NONE else named
                known = self._known(source, "duplicates.csv", twice, named)
                for tag in named:
                    by_tag["duplicates"][tag].append(known)
        paired = frozenset(pairs)
        for medication in {id(one): one for one in self._codes.values()}.values():
            tags = sorted(medication.tags)
            medication.partners = _by_other(pairs, tags)
            medication.allergies = _by_other(allergies, tags)
            medication.paired = tuple(tag for tag in tags if tag in paired)
            for name, found in by_tag.items():
                setattr(medication, name, tuple(dict.fromkeys(one for tag in tags for one in found.get(tag, ()))))

    def _known(
        self, source: Source, file: str, rule: Rule, drugs: Codes, when: Codes = (), unit: str = "",
        value: float | None = None,
    ) -> Known:  # fmt: skip
        where = f"{file}, line {rule.line}"
        self._matched(source, where, drugs)
        measures, values = [], []
        for code in when:
            if code.startswith("loinc|"):
                common = COMMON.get(code)
                like = unit or (common.unit if common else "") or ""
                low, high = (common.low, common.high) if common and common.unit == like else (-1e12, 1e12)
                self.measures.setdefault(code, Measure(code, code, like, low, high, (code,)))
                self.measure_of[code].add(code)
            elif code.startswith("measure|") and code not in self.measures:
                said = f"{source.header.id}: {where}: {code} is not in measures.csv."
                raise BadData("rules-measure", said, hint="Give the measure a line there.")
            if code.startswith(("loinc|", "measure|")):
                measures.append(code)
                values.append(self._in_its_unit(source, where, code, unit, value or 0.0))
        return Known(rule, source.header, tuple(measures), tuple(values))

    def _in_its_unit(self, source: Source, where: str, measure: str, unit: str, value: float) -> float:
        have = self.measures[measure].unit
        if not have:
            raise BadData("rules-measure", f"{source.header.id}: {where}: {measure} has no unit here.",
                          hint="Give it a line in measures.csv.")  # fmt: skip
        try:
            return convert(value, unit or have, have, what=measure)
        except Refusal as error:
            raise BadData("rules-measure", f"{source.header.id}: {where}: {unit!r} is no unit of {measure}.") from error

    def _matched(self, source: Source, where: str, codes: Codes) -> None:
        """A rule about a drug that no table names could never be met: most likely a slip of the pen."""
        for code in codes:
            known = code in self._groups if code.startswith("group|") else code in self._tags
            if not known:
                raise BadData(
                    "rules-unmatched", f"{source.header.id}: {where}: {code} is no drug, class or group of the tables.",
                    hint="Give it a line in drugs.csv or groups.csv, or mend the code.",
                )  # fmt: skip


def _by_other(index: dict[str, list[tuple[Codes, Known]]], tags: Iterable[str]) -> dict[str, tuple[Known, ...]]:
    found: dict[str, dict[int, Known]] = defaultdict(dict)
    for tag in tags:
        for other, known in index.get(tag, ()):
            for code in other:
                found[code][id(known)] = known
    return {code: tuple(rules.values()) for code, rules in found.items()}
