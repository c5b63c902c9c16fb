"""The target trial that a data set emulates: who is treated with what, from when on, and what is adjusted for.

    trial = declared.treatment                       # of dataset.yaml, parsed
    check_trial(declared, name="dataset.yaml")       # BadData, naming the part that is missing
    check_times(trial, table)                        # BadData: treated after the outcome, measured after time zero

An effect that was estimated without these words means nothing, so nothing is fitted without them, and they are printed
in the card. Source: Hernan and Robins, Am J Epidemiol 183:758 (2016).
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from medserve.errors import BadData, neighbours

if TYPE_CHECKING:
    from medserve.data.declaration import Dataset
    from medserve.data.forms.table import Table

OVERLAP = (0.05, 0.95)
FEWEST = 20  # patients of an arm under which nothing is fitted
_DRUG = re.compile(r"atc\|[A-Z]\d{2}[A-Z]{2}\d{2}|rxnorm\|\d{1,8}")
OUTCOMES = ("binary", "number", "survival")  # kinds of target that an effect is a difference of means of


class Treatment(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The key `treatment` of a dataset.yaml. Only a column is parsed strictly; what is missing is said by name.

    column: of the arm each patient was given. arms: its words, the reference first. outcome: which way the target is
        better. time_zero: a sentence, or a column of dates or numbers. eligibility: who is in the trial. adjust_for:
        every input, all known at time zero.
    started, outcome_at: columns, when the treatment began and when the outcome was known. grace: hours after time zero
        within which a treatment may begin. measured: input -> hours after time zero (or a column) at which it was
        known. after: inputs known to follow the treatment.
    follow_up, unmeasured: sentences for the card; unmeasured confounders that one knows of.
    overlap: probabilities of an arm outside which nothing is advised. negative_control: a column that the treatment
        cannot have changed. horizon: of a survival target, the time up to which event-free time is counted.
    medicines: arm -> its medicine or medicines, as `atc|...` or `rxnorm|...`; an empty list for an arm that is none.
        What is advised is then held against the rules of safety.
    """

    column: str
    kind: Literal["category"] = "category"
    arms: list[str] | None = None
    outcome: Literal["better_is_higher", "better_is_lower"] | None = None
    time_zero: str | None = None
    eligibility: str | None = None
    adjust_for: list[str] | None = None
    started: str | None = None
    outcome_at: str | None = None
    grace: float = 0.0
    measured: dict[str, float | str] = {}
    after: list[str] = []
    follow_up: str | None = None
    unmeasured: str | None = None
    overlap: tuple[float, float] = OVERLAP
    negative_control: str | None = None
    horizon: float | None = None
    medicines: dict[str, str | list[str]] | None = None

    @property
    def drugs(self) -> dict[str, list[str]]:
        """Arm -> codes, `system|code`; empty where nothing was said of medicines."""
        said = {arm: [one] if isinstance(one, str) else one for arm, one in (self.medicines or {}).items()}
        return {arm: [one if "|" in one else f"atc|{one}" for one in codes] for arm, codes in said.items()}

    @property
    def columns(self) -> list[str]:
        """Columns of the table that belong to the trial and are no inputs."""
        found = [self.column, self.started, self.outcome_at, self.negative_control]
        found += [at for at in self.measured.values() if isinstance(at, str)]
        return [name for name in found if name]

    def told(self, inputs: Sequence[str]) -> dict[str, Any]:
        """The target-trial form, for the card."""
        return {
            "eligibility": self.eligibility,
            "time zero": self.time_zero,
            "arms": list(self.arms or ()),
            "medicines": self.drugs or None,
            "reference arm": self.arms[0] if self.arms else None,
            "outcome is better": "higher" if self.outcome == "better_is_higher" else "lower",
            "follow-up": self.follow_up,
            "adjusted for": list(self.adjust_for or inputs),
            "unmeasured confounders known of": self.unmeasured,
            "overlap": list(self.overlap),
            "negative control": self.negative_control,
        }


WANTED = {
    "outcome": "better_is_higher or better_is_lower",
    "time_zero": "when follow-up starts, in words or as a column",
    "eligibility": "who is in the trial, in words",
    "adjust_for": "the inputs, all of them known at time zero",
}


def check_trial(declared: "Dataset", name: str) -> None:
    """
    Raises: BadData "treatment-incomplete", "treatment-outcome", "treatment-adjustment", "treatment-post",
        "treatment-unit", "declaration-value".
    """
    trial = declared.treatment
    if trial is None:
        return
    for key, what in WANTED.items():
        if not getattr(trial, key):
            raise BadData(
                "treatment-incomplete", f"{name}: `treatment.{key}` is missing.",
                hint=f"Say it: {what}. An effect is only estimated for a stated target trial.",
            )  # fmt: skip
    target = declared.target
    if target is None or target.kind not in OUTCOMES or not isinstance(target.column, str):
        raise BadData(
            "treatment-outcome", f"{name}: a treatment needs a target of kind {', '.join(OUTCOMES)} and one column.",
            hint="Write `target: {column: OUTCOME, kind: number, unit: ...}`.",
        )  # fmt: skip
    if trial.horizon is not None and not (target.kind == "survival" and trial.horizon > 0):
        raise BadData("declaration-value", f"{name}: `treatment.horizon` is a time above 0, of a survival target.")
    low, high = trial.overlap
    if not 0 < low < high < 1:
        raise BadData("declaration-value", f"{name}: `treatment.overlap` is [lowest, highest] between 0 and 1.")
    if trial.arms is not None and (len(set(trial.arms)) != len(trial.arms) or len(trial.arms) < 2):
        raise BadData("declaration-value", f"{name}: `treatment.arms` names two or more different arms.")
    _check_medicines(trial, name)
    _check_adjustment(declared, trial, name)


def _check_medicines(trial: Treatment, name: str) -> None:
    if trial.medicines is None:
        return
    arms = trial.arms or []
    for arm in dict.fromkeys([*trial.medicines, *arms]):
        if arm not in arms:
            raise BadData(
                "treatment-medicines",
                f"{name}: `treatment.medicines` names {arm!r}, which is no arm ({neighbours(arm, arms)}).",
                hint="Write `arms: [REFERENCE, ...]` and the medicines of each of them.",
            )
        if arm not in trial.medicines:
            raise BadData(
                "treatment-medicines", f"{name}: `treatment.medicines` says nothing of the arm {arm!r}.",
                hint=f"Write `{arm}: []` if it is no medicine.",
            )  # fmt: skip
    for arm, codes in trial.drugs.items():
        if wrong := next((one for one in codes if not _DRUG.fullmatch(one)), None):
            raise BadData(
                "treatment-medicines", f"{name}: {wrong!r} of the arm {arm!r} is no code of a substance.",
                hint="Write ATC with seven characters (L02BA01), or rxnorm|10324.",
            )  # fmt: skip


def _check_adjustment(declared: "Dataset", trial: Treatment, name: str) -> None:
    wanted = trial.adjust_for or []
    for one in wanted:
        if one not in declared.inputs:
            raise BadData(
                "treatment-adjustment",
                f"{name}: `adjust_for` names {one!r}, which is no input ({neighbours(one, declared.inputs)}).",
                hint="Declare every adjustment variable under `inputs`, with its kind and unit.",
            )
    kinds = {"number", "category"}
    for key, said in declared.inputs.items():
        column = said.column or key
        if key not in wanted:
            raise BadData(
                "treatment-adjustment", f"{name}: input {key!r} is not in `adjust_for`.",
                hint="Every input takes part in the adjustment: name it there, or leave the input out.",
            )  # fmt: skip
        if said.kind not in kinds:
            raise BadData(
                "kind-not-supported", f"{name}: input {key!r} of kind {said.kind} beside a treatment.",
                hint="An effect is estimated from numbers and categories.",
            )  # fmt: skip
        if said.kind == "number" and said.unit is None:
            raise BadData(
                "treatment-unit", f"{name}: input {key!r} has no unit.",
                hint='Write `unit:` in UCUM, "1" for a number without one: advice on a wrong unit is harm.',
            )  # fmt: skip
        late = trial.measured.get(key)
        if key in trial.after or column in trial.after or (isinstance(late, float | int) and late > 0):
            raise BadData(
                "treatment-post", f"{name}: `adjust_for` names {key!r}, which is known only after time zero.",
                hint="What follows the treatment may be its effect: leave it out of `adjust_for` and of `inputs`.",
            )  # fmt: skip
        outcome = {declared.target.column, declared.target.event} if declared.target else set()
        if column in {trial.column, *outcome, trial.negative_control}:
            raise BadData(
                "treatment-adjustment", f"{name}: input {key!r} is the treatment, the outcome or the control itself.",
                hint="Leave it out of `inputs`.",
            )  # fmt: skip


def check_times(trial: Treatment, table: "Table") -> None:
    """What the table says of the order of things, where the declaration names columns of times.

    Raises: BadData "treatment-after-outcome", "treatment-immortal-time", "treatment-post", "split-time" for a cell that
        is no time, "column-missing".
    """
    zero = _column(table, trial.time_zero) if trial.time_zero in table.columns else None
    began = None if trial.started is None else _column(table, trial.started)
    known = None if trial.outcome_at is None else _column(table, trial.outcome_at)
    if late := _later(began, known, strictly=True):
        raise BadData(
            "treatment-after-outcome", f"{table.name}: in {late} rows the treatment began after the outcome was known.",
            hint="A treatment cannot act on what has been: check the two columns, or leave these patients out.",
        )  # fmt: skip
    if late := _later(zero, known, strictly=True):
        raise BadData(
            "treatment-after-outcome", f"{table.name}: in {late} rows the outcome was known before time zero.",
            hint="Follow-up starts at time zero: leave out patients whose outcome came before.",
        )  # fmt: skip
    if late := _later(began, zero, strictly=True, grace=trial.grace):
        raise BadData(
            "treatment-immortal-time",
            f"{table.name}: in {late} rows the treatment began more than {trial.grace:g} h after time zero.",
            hint="Whoever lived to be treated would look treated from the start: move time zero, or declare `grace`.",
        )
    for name, at in trial.measured.items():
        if isinstance(at, str) and (late := _later(_column(table, at), zero, strictly=True)):
            raise BadData(
                "treatment-post", f"{table.name}: in {late} rows {name!r} was measured after time zero.",
                hint="What follows the treatment may be its effect: leave it out of `adjust_for` and of `inputs`.",
            )  # fmt: skip


def _later(a: list[float] | None, b: list[float] | None, *, strictly: bool, grace: float = 0.0) -> int:
    """In how many rows `a` lies after `b`; rows in which one is missing do not count."""
    if a is None or b is None:
        return 0
    return sum(x > y + grace + (1e-9 if strictly else 0) for x, y in zip(a, b, strict=True))


def _column(table: "Table", name: str | None) -> list[float]:
    """Hours (of dates), or numbers; NaN where there is none."""
    from medserve.data.readers.records._time import iso_hours

    out = []
    for cell in table.column(str(name), "`treatment`"):
        time: float | None
        try:
            time = float(cell) if cell else math.nan
        except ValueError:
            time = iso_hours(cell)
        if time is None:
            raise BadData(
                "split-time", f"Column {name!r} holds a cell that is neither a date nor a number.",
                hint="Write dates as 2024-05-31, or numbers of hours.",
            )  # fmt: skip
        out.append(time)
    return out
