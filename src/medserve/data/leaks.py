"""Leaks between parts: the same patient or the same picture on two sides; found, acted on, counted.

    leaks = find_leaks(parts)
    parts, removed = act_on(parts, leaks, "drop")     # or "refuse", "keep"
    removed.rows, removed.reasons, removed.involved

By default the case on the less protected side leaves; a test case never does. Protection rises in the order train, val,
calibration, test. The metrics with and without the involved test cases show what the leak was worth.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from medserve.data.cohort import Case
from medserve.data.duplicates import Pair, exact_groups, exact_kind, find_duplicates, texts_of
from medserve.data.split import Parts, PartView, TrainPart, check_parts
from medserve.errors import BadData
from medserve.progress import SILENT, Progress
from medserve.types import Part

Policy = Literal["drop", "refuse", "keep"]
LeakKind = Literal["patient", "bytes", "pixels", "near-duplicate"]
KINDS: tuple[LeakKind, ...] = ("patient", "bytes", "pixels", "near-duplicate")
PROTECTION: tuple[Part, ...] = ("train", "val", "calibration", "test")


@dataclass(frozen=True, slots=True)
class Leak:
    """Cohort rows a and b stand in two parts and should not; b's part is the better protected one.

    similarity: 1.0 for the same patient or an exact repeat, else the agreement of the pixels.
    """

    kind: LeakKind
    a: int
    b: int
    part_a: Part
    part_b: Part
    similarity: float = 1.0


@dataclass(frozen=True, slots=True)
class Removed:
    """What was done about the leaks.

    rows: cohort rows that left, sorted. reasons: row -> kinds of its leaks. parts: row -> the part it left.
    involved: cohort rows of the test part that some leak touches, removed or not; the same for "keep".
    """

    policy: Policy
    leaks: tuple[Leak, ...] = ()
    rows: tuple[int, ...] = ()
    reasons: Mapping[int, tuple[LeakKind, ...]] = field(default_factory=dict)
    parts: Mapping[int, Part] = field(default_factory=dict)
    involved: tuple[int, ...] = ()

    def as_dict(self, cases: Sequence[Case] = ()) -> dict[str, Any]:
        """Counts for reports and cards; with `cases` also each leak by case id."""
        out: dict[str, Any] = {
            "policy": self.policy,
            "found": [{"kind": k.kind, "part_a": k.part_a, "part_b": k.part_b} for k in self.leaks],
            "removed": dict(Counter(self.parts.values())),
            "involved": len(self.involved),
        }
        if cases:
            for entry, leak in zip(out["found"], self.leaks, strict=True):
                entry |= {"a": cases[leak.a].id, "b": cases[leak.b].id, "similarity": leak.similarity}
        return out


def find_leaks(
    parts: Parts, *, near: bool = True, pairs: Sequence[Pair] | None = None, progress: Progress = SILENT
) -> list[Leak]:
    """Every case that shares a patient or a picture with a better protected part.

    The same patient is a leak only where patients were declared. Each case of a group that stands in several parts is
    named at least once, paired with the first case of the best (or else the least) protected part of that group.

    Args:
        near: also look for near-duplicates, the part that takes time (seconds for 10,000 pictures).
        pairs: of cohort rows, when `find_duplicates(cohort.cases, cohort.thumbs, parts=...)` has run already.
    """
    cohort = parts.cohort
    place: dict[int, Part] = {int(row): view.name for view in parts for row in view.rows}  # type: ignore[misc]
    rows = sorted(place)
    cases = [cohort.cases[row] for row in rows]
    found: dict[tuple[str, int, int], Leak] = {}

    def note(kind: LeakKind, a: int, b: int, similarity: float = 1.0) -> None:
        if _rank(place[a]) > _rank(place[b]):
            a, b = b, a
        found.setdefault((kind, a, b), Leak(kind, a, b, place[a], place[b], similarity))

    if not cohort.independent:
        people: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            people[cohort.cases[row].patient].append(row)
        for group in people.values():
            for a, b in _across(group, place):
                note("patient", a, b)
    twins: dict[int, list[int]] = {}  # row -> all rows of its part with the same pixels
    for positions in exact_groups(cases):
        group = [rows[i] for i in positions]
        for a, b in _across(group, place):
            note(exact_kind(cohort.cases[a], cohort.cases[b]), a, b)
        for part in PROTECTION:
            mates = [row for row in group if place[row] == part]
            twins |= dict.fromkeys(mates, mates)
    if pairs is None and near:
        names = [place[row] for row in rows]
        here = find_duplicates(cases, cohort.thumbs, parts=names, texts=texts_of(cohort, rows), progress=progress)
        pairs = [replace(pair, a=rows[pair.a], b=rows[pair.b]) for pair in here]
    for pair in pairs or ():
        a, b = pair.a, pair.b
        if pair.kind == "near-duplicate" and a in place and b in place and place[a] != place[b]:
            for mate in twins.get(a, [a]):
                note("near-duplicate", mate, b, pair.similarity)
            for mate in twins.get(b, [b]):
                note("near-duplicate", a, mate, pair.similarity)
    return sorted(found.values(), key=lambda k: (KINDS.index(k.kind), -_rank(k.part_b), k.a, k.b))


def act_on(parts: Parts, leaks: Sequence[Leak], policy: Policy = "drop") -> tuple[Parts, Removed]:
    """Apply the policy: drop the less protected side, refuse the data set, or keep everything and say so.

    Raises: BadData "leak-found" (policy refuse; "patient-in-two-parts" when patients alone leak). BadData
        "too-few-cases", "one-class-only": nothing useful is left once the leaks are gone.
    """
    involved = tuple(sorted({row for k in leaks for row, part in ((k.a, k.part_a), (k.b, k.part_b)) if part == "test"}))
    if policy == "keep" or not leaks:
        return parts, Removed(policy, tuple(leaks), involved=involved)
    if policy == "refuse":
        counts = Counter((k.kind, k.part_a, k.part_b) for k in leaks)
        said = "; ".join(f"{n} {kind} between {a} and {b}" for (kind, a, b), n in sorted(counts.items()))
        raise BadData(
            "patient-in-two-parts" if {k.kind for k in leaks} == {"patient"} else "leak-found",
            f"{len(leaks)} leaks between parts: {said}.",
            hint="See them with `medserve inspect`; mend the split, or train with `--leaks drop`.",
        )
    reasons: dict[int, set[LeakKind]] = defaultdict(set)
    left: dict[int, Part] = {}
    for leak in leaks:
        reasons[leak.a].add(leak.kind)
        left[leak.a] = leak.part_a
    train, val, calibration = (view.without(left) for view in (parts.train, parts.val, parts.calibration))
    kept = replace(parts, train=TrainPart(*_fields(train)), val=val, calibration=calibration)
    check_parts(kept)
    ordered = {row: tuple(kind for kind in KINDS if kind in reasons[row]) for row in sorted(reasons)}
    return kept, Removed(policy, tuple(leaks), tuple(ordered), ordered, dict(sorted(left.items())), involved)


def _fields(view: PartView) -> tuple[Any, ...]:
    return view.name, view.cohort, view.rows


def _rank(part: Part) -> int:
    return PROTECTION.index(part)


def _across(group: Sequence[int], place: Mapping[int, Part]) -> list[tuple[int, int]]:
    """(less protected, better protected) pairs that name every member of a group standing in several parts."""
    best = max(group, key=lambda row: (_rank(place[row]), -row))
    worst = min(group, key=lambda row: (_rank(place[row]), row))
    if place[best] == place[worst]:
        return []
    return [(row, best) if place[row] != place[best] else (worst, row) for row in group]
