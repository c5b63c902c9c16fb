"""What is answered: for each medicine that was thought of, offered or not, and every rule that says so.

Wording: "none found in source S, version V". What no source covers is not judged, and nothing here says otherwise.
"""

import datetime
from typing import Literal

import msgspec

Status = Literal["offered", "limited", "blocked", "unknown"]
Kind = Literal["allergy", "condition", "lab", "age", "pregnancy", "renal", "hepatic", "dose", "duplicate",
               "interaction"]  # fmt: skip


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of the patient, or of the request, that a rule met. kind: condition, lab, age, pregnancy, child-pugh, allergy,
    medicine (taken now), candidate (offered before this one), dose."""

    kind: str
    code: str = ""
    name: str = ""
    value: float | None = None
    unit: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.code}"


class Finding(msgspec.Struct, frozen=True):
    """One rule that one fact met. rule: its id within the source. citation: the label or guideline it is from."""

    rule: str
    kind: Kind
    severity: str
    text: str
    citation: str
    source: str
    version: str
    fact: Fact


class Most(msgspec.Struct, frozen=True):
    """The largest dose of one day. fact: what limits it."""

    value: float
    unit: str
    rule: str
    text: str
    citation: str
    source: str
    version: str
    fact: Fact


class Missing(msgspec.Struct, frozen=True):
    """Why something cannot be judged. next: what to do. rules: which ones (`source:id`), the first few."""

    code: str
    fact: str
    message: str
    next: str
    rules: list[str] = []


class Item(msgspec.Struct, frozen=True):
    """One candidate. offered; limited: offered up to `most`; blocked; unknown: it cannot be judged, so is not offered.

    statement: what was looked for and not found, in the words that are allowed.
    """

    drug: str
    name: str
    status: Status
    blocks: list[Finding] = []
    warnings: list[Finding] = []
    most: list[Most] = []
    missing: list[Missing] = []
    statement: str = ""

    @property
    def is_offered(self) -> bool:
        return self.status in ("offered", "limited")


class SourceNote(msgspec.Struct, frozen=True):
    """Which rules were asked. old: it is older than half a year."""

    id: str
    title: str
    version: str
    date: datetime.date
    licence: str
    digest: str
    rules: int
    coverage: str
    old: bool


class Change(msgspec.Struct, frozen=True):
    """What stands in the way of one candidate. facts: without all of them it comes back as `then`; needs: what has to
    be known first."""

    drug: str
    facts: list[Fact]
    then: Status
    needs: list[Missing] = []


class SafetyReview(msgspec.Struct, frozen=True):
    """offered: codes, in the order in which they were asked. rules: digest of all sources and of what is done about
    each severity."""

    items: list[Item]
    offered: list[str]
    together: bool
    sources: list[SourceNote]
    rules: str
    notes: list[str]
    changes: list[Change] = []
    intent: Literal["proposal"] = "proposal"


class LabelReview(msgspec.Struct, frozen=True):
    """What the rules say of one thing that a model may advise. label: in the model's words. status: the worst of its
    medicines. changes: what stands in the way."""

    label: str
    status: Status
    items: list[Item]
    changes: list[Change] = []


class AnswerReview(msgspec.Struct, frozen=True):
    """The review of a model's answer. withheld: labels that the model would have advised and that are not offered.
    rules, sources: as in a `SafetyReview`; "" and empty where no rule was asked."""

    status: Literal["reviewed", "not-reviewed"]
    labels: list[LabelReview] = []
    withheld: list[str] = []
    sources: list[SourceNote] = []
    rules: str = ""
    notes: list[str] = []
    intent: Literal["proposal"] = "proposal"


class SafetyPage(msgspec.Struct, frozen=True):
    """Which rules are asked. medicines: how many are known. digest: that of a review's `rules`. review: whether a
    model's advice on a medicine is given out without one."""

    sources: list[SourceNote]
    medicines: int
    digest: str
    review: Literal["required", "optional"] = "required"
