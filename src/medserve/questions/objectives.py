"""What new molecules are to be good at: parsed, and refused where it would seek harm.

    parse("models/drd2:active>")       # Objective(source="models/drd2", label="active", way=">")
    parse("qed>"), parse("sa<"), parse("weight=200..500"), parse("logp=1..4")
    refuse_harm(objective, names)      # Refusal "objective-harmful"

A package is an objective by one of its labels: more of it (>) or less of it (<). An objective is refused when what it
asks for is a toxic effect: more of a toxic endpoint, or less of "not toxic". What an endpoint is told by is its label,
its package and its data set; a package whose names hide what it measures is not caught by names.

Source: Urbina, Lentzos, Invernizzi and Ekins, Nat Mach Intell 4:189 (2022): a generator turned to toxicity by the sign
of one objective.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from medserve.errors import Refusal, Usage

BUILT_IN = ("qed", "sa", "weight", "logp")
_FORM = re.compile(
    r"(?P<source>.+?)(?::(?P<label>[^:<>=]+))?(?:(?P<way>[<>])|=(?P<low>-?[\d.]+)\.\.(?P<high>-?[\d.]+))"
)
_TOXIC = re.compile(
    r"tox|herg|\bames\b|mutagen|dili\b|hepato(?!cyt)|carcino|terato|\bskin[ _-]?(reaction|sens)"
    r"|\b[ns]r[-_ ](ahr|ar|are|er|aromatase|ppar|atad|hse|mmp|p53)|lethal|poison|irritan|\bld50|\blc50|\bld 50|\bnerve"
    r"|opioid"
)
_DOSE = re.compile(r"\b(ld|lc)[ _-]?50")
_NOT = re.compile(
    r"^(non|not|no|un|safe|negative|inactive|clean|benign)\b|^(non|not|no|in|un)[-_ ]?(tox|muta|carc)|^safe"
)


@dataclass(frozen=True, slots=True)
class Objective:
    """source: a folder of a package, or one of `BUILT_IN`. way: ">" more, "<" less, "=" inside [low, high]."""

    text: str
    source: str
    label: str | None
    way: Literal[">", "<", "="]
    low: float = 0.0
    high: float = 0.0

    @property
    def built_in(self) -> bool:
        return self.source in BUILT_IN


def parse(text: str) -> Objective:
    """Raises: Usage "objective-form"."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _form(text)
    source, label, way = found["source"], found["label"], found["way"]
    if way is None:
        try:
            low, high = float(found["low"]), float(found["high"])
        except ValueError as error:
            raise _form(text) from error
        if not low < high or source not in BUILT_IN or label is not None:
            raise _form(text)
        return Objective(text, source, None, "=", low, high)
    if source in BUILT_IN and label is not None:
        raise _form(text)
    return Objective(text, source, label, ">" if way == ">" else "<")


def refuse_harm(objective: Objective, label: str, names: Collection[str], *, unit: str | None, first: bool) -> None:
    """
    Args:
        label: what is asked for. names: of the package, its data set and its target. unit: of a number.
        first: whether the label is the negative class of two.

    Raises: Refusal "objective-harmful".
    """
    told = " ".join([label, *names]).lower().replace("_", " ")
    if not _TOXIC.search(told):
        return
    if _DOSE.search(told):  # a dose that kills: the larger the better, and only where the unit says that it is one
        harmful = not (objective.way == ">" and re.match(r"^[mun]?(g|mol)/kg$", (unit or "").strip()))
    else:
        harmless = first or bool(_NOT.search(label.lower()))
        harmful = (objective.way == "<") == harmless
    if harmful:
        raise Refusal(
            "objective-harmful", f"Objective {objective.text!r} seeks a toxic effect; no molecule is written for that.",
            hint="Ask for less of it: write the label with < instead, beside what the molecule is for.",
        )  # fmt: skip


def _form(text: str) -> Usage:
    return Usage(
        "objective-form", f"{text!r} is no objective.",
        hint="Write PACKAGE:LABEL> (more), PACKAGE:LABEL< (less), qed>, sa<, or weight=200..500.",
    )  # fmt: skip
