"""What a line of a rule table says once it is read: drugs, groups, measures, codes, and five kinds of rule.

Selectors (`a`, `b`, `drug`, `allergen`, `members`) name a drug (`atc|B01AA03`, `rxnorm|11289`), a class of ATC
(`atc|M01A`) or a group (`group|ssri`).
"""

from typing import Literal

import msgspec

from medserve.safety.words import Codes

SAME, ANY_CLASS, NONE = "same", "atc-level-4", "none"


class Drug(msgspec.Struct, frozen=True):
    """code: how the source names it. also: the same drug in other systems. cls: pharmacological classes."""

    code: str
    name: str
    cls: Codes
    synonyms: Codes
    also: Codes
    ingredients: Codes
    line: int


class Group(msgspec.Struct, frozen=True):
    """Drugs that a rule means together."""

    name: str
    title: str
    members: Codes
    line: int


class Measure(msgspec.Struct, frozen=True):
    """One quantity under all its codes; low, high: what a living body can show, in `unit` (UCUM)."""

    name: str
    title: str
    unit: str
    low: float
    high: float
    codes: Codes
    line: int = 0


class Meaning(msgspec.Struct, frozen=True):
    """What a code of a patient means in the codes of the rules; "none": nothing that a rule is about."""

    code: str
    means: str
    title: str
    line: int


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """id: within its source. citation: the section of a label or guideline that says so."""

    id: str
    severity: str
    text: str
    citation: str
    line: int


class Interaction(Rule, frozen=True, kw_only=True):
    """Two drugs, in either order."""

    a: Codes
    b: Codes


class Contraindication(Rule, frozen=True, kw_only=True):
    """value: years for an age, weeks for a pregnancy, `unit` for a laboratory value. ever: also where it is past."""

    drug: Codes
    kind: Literal["condition", "lab", "age", "pregnancy"]
    when: Codes
    comparator: str
    value: float | None
    unit: str
    ever: bool


class DoseLimit(Rule, frozen=True, kw_only=True):
    """From `low` on and below `high`; or in these classes of Child-Pugh. most: of one day, in `unit`; None: avoid."""

    drug: Codes
    kind: Literal["renal", "hepatic", "age"]
    when: Codes
    low: float
    high: float
    child_pugh: Codes
    most: float | None
    unit: str


class Allergy(Rule, frozen=True, kw_only=True):
    """An allergy to one forbids the other; "same": to the drug itself."""

    allergen: Codes
    drug: Codes


class Duplicate(Rule, frozen=True, kw_only=True):
    """Two of one class; severity "none": allowed, though of one class."""

    cls: Codes
