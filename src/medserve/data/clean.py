"""What is wrong inside a data set: each problem with a code, a sentence, a count and the files. Nothing is removed.

    pairs    = find_duplicates(cohort.cases, cohort.thumbs, parts=part_names(parts))
    problems = find_problems(cohort, parts, pairs)

Files that cannot be read were refused already and stand in no part; a case without a label stands in no part either.
Everything else stays where it is: what crosses parts is a leak (`leaks`), the rest is for a person to decide.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from medserve.data.cohort import Case, Cohort
from medserve.data.duplicates import Pair, exact_groups
from medserve.data.split import Parts, has_label

FEW = 20  # cases of a class in a part that judges; below, no claim is made from it
CALIBRATION = 100  # cases; below, calibration is cross-fitted or absent
IMBALANCE = 5  # times as many cases in the largest class as in the smallest
_CLASSES = ("binary", "multiclass", "ordinal")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """files: names (ids, for records of an array file) of the cases or files concerned; part: where, if in one."""

    code: str
    message: str
    files: tuple[str, ...]
    count: int
    part: str | None = None

    def as_dict(self, most: int = 50) -> dict[str, Any]:
        """JSON-able; at most `most` names, `count` tells the rest."""
        out = {"code": self.code, "message": self.message, "count": self.count, "files": list(self.files[:most])}
        return out | ({"part": self.part} if self.part else {})


def find_problems(cohort: Cohort, parts: Parts, pairs: Sequence[Pair]) -> list[Problem]:
    """Every problem inside the data set, the grave ones first.

    Args:
        parts: as declared or as `split(check=False)` deals them.
        pairs: of cohort rows, from `find_duplicates`.
    """
    place = part_names(parts)
    return [
        *_unreadable(cohort),
        *_unlabelled(cohort),
        *_conflicts(cohort, pairs),
        *_repeats(cohort, place, pairs),
        *_blank(cohort),
        *_mixes(cohort),
        *_classes(cohort, parts),
        *_sizes(cohort, parts),
        *(Problem(t.code, t.message, tuple(t.cases), t.count) for t in cohort.troubles),
        *(Problem("note", str(text), (), 1) for text in cohort.source.get("warnings", ())),
    ]


def part_names(parts: Parts) -> list[str | None]:
    """The part of each case of the cohort, None where it stands in none."""
    names: list[str | None] = [None] * len(parts.cohort)
    for view in parts:
        for row in view.rows:
            names[row] = view.name
    return names


def called(case: Case) -> str:
    """The name that messages use: the file, or the record of an array file."""
    return case.file if case.id in case.file or case.file in case.id else case.id


def same_label(a: Case, b: Case) -> bool:
    """Equal where both are known; an unknown label contradicts nothing."""
    if a.label is None or b.label is None:
        return True
    x, y = np.asarray(a.label, np.float64), np.asarray(b.label, np.float64)
    if x.shape != y.shape:  # tags of texts that are nearly the same, word for word
        return True
    return bool(((x == y) | np.isnan(x) | np.isnan(y)).all())


def _unreadable(cohort: Cohort) -> Iterator[Problem]:
    by_code: dict[str, list[str]] = defaultdict(list)
    for refused in cohort.refused:
        by_code[refused.code].append(refused.file)
    one, many = ("row was", "rows were") if cohort.is_records else ("file was", "files were")
    for code, files in sorted(by_code.items()):
        kind = "missing-label" if code == "label-missing" else "unreadable"
        yield Problem(kind, f"{_count(files, one, many)} refused: {code}.", tuple(files), len(files))


def _unlabelled(cohort: Cohort) -> Iterator[Problem]:
    files = tuple(called(case) for case in cohort.cases if not has_label(case))
    if files:
        message = f"{_count(files, 'case has', 'cases have')} no label and so no part."
        yield Problem("missing-label", message, files, len(files))


def _conflicts(cohort: Cohort, pairs: Sequence[Pair]) -> Iterator[Problem]:
    """The same picture or molecule with two labels: of a class one of them is wrong, numbers may merely scatter."""
    exact, near = [], []
    what, wrong = cohort.called[0], "" if cohort.task in ("number", "survival", "effect") else ": a label is wrong"
    for group in exact_groups(cohort.cases):
        cases = [cohort.cases[row] for row in group]
        if any(not same_label(cases[0], case) for case in cases[1:]):
            exact.append(cases)
    for pair in pairs:
        a, b = cohort.cases[pair.a], cohort.cases[pair.b]
        if pair.kind == "near-duplicate" and not same_label(a, b):
            near.append([a, b])
    for groups, how in ((exact, f"exactly the same {what}"), (near, f"nearly the same {what}")):
        if groups:
            files = tuple(called(case) for cases in groups for case in cases)
            message = f"{how.capitalize()} with different labels, {_count(groups, 'time', 'times')}{wrong}."
            yield Problem("label-conflict", message, files, len(groups))


def _repeats(cohort: Cohort, place: Sequence[Hashable], pairs: Sequence[Pair]) -> Iterator[Problem]:
    """Repeats inside a part; those across parts are leaks."""
    exact: dict[str, list[str]] = defaultdict(list)
    for group in exact_groups(cohort.cases):
        here: dict[Hashable, list[int]] = defaultdict(list)
        for row in group:
            here[place[row]].append(row)
        for part, rows in here.items():
            exact[str(part or "")] += [called(cohort.cases[row]) for row in rows[1:]]
    near: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        if pair.kind == "near-duplicate" and place[pair.a] == place[pair.b] and not expected(cohort, pair):
            near[str(place[pair.a] or "")].append(called(cohort.cases[pair.b]))
    one, many = cohort.called
    exactly, nearly = f"the same {one} stands there more than once", f"{many} that agree but for detail or framing"
    for code, word, why, found in (
        ("exact-duplicate", "exact", exactly, exact),
        ("near-duplicate", "near", nearly, near),
    ):
        for part, files in sorted(found.items()):
            if files:
                where = f"inside the {part} part" if part else "among cases of no part"
                times = _count(files, f"{word} repeat", f"{word} repeats")
                message = f"{times} {where}: {why}."
                yield Problem(code, message, tuple(dict.fromkeys(files)), len(files), part or None)


def expected(cohort: Cohort, pair: Pair) -> bool:
    """Films of one declared patient, or frames of one file, may well look alike."""
    a, b = cohort.cases[pair.a], cohort.cases[pair.b]
    return a.patient == b.patient


def _blank(cohort: Cohort) -> Iterator[Problem]:
    files = tuple(called(case) for case in cohort.cases if case.blank)
    if files:
        yield Problem("blank", f"{_count(files, 'image holds', 'images hold')} one single value.", files, len(files))


def _mixes(cohort: Cohort) -> Iterator[Problem]:
    colour = Counter(case.colour for case in cohort.cases)
    if len(colour) > 1:
        rare = colour[True] <= colour[False]
        files = tuple(called(case) for case in cohort.cases if case.colour == rare)
        yield Problem("colour-mix", f"{colour[True]} colour and {colour[False]} grey images.", files, len(files))
    for code, what, values in (
        ("modality-mix", "modalities", [case.modality for case in cohort.cases]),
        ("unit-mix", "units", [case.unit for case in cohort.cases]),
    ):
        count = Counter(values)
        if len(count) > 1:
            usual = count.most_common(1)[0][0]
            said = ", ".join(f"{value or 'not said'} ({n})" for value, n in count.most_common())
            files = tuple(called(c) for c, value in zip(cohort.cases, values, strict=True) if value != usual)
            yield Problem(code, f"Several {what}: {said}.", files, len(files))


def _classes(cohort: Cohort, parts: Parts) -> Iterator[Problem]:
    if cohort.task not in _CLASSES:
        return
    count = Counter(int(label) for view in parts for label in view.targets)
    if len(count) < 2:
        only = ", ".join(cohort.labels[i] for i in count) or "none"
        yield Problem(
            "one-class", f"Only one class has cases: {only}. Nothing can be told apart.", (), sum(count.values())
        )
        return
    missing = [label for i, label in enumerate(cohort.labels) if not count[i]]
    if missing:
        yield Problem("empty-class", f"No case of: {', '.join(missing)}.", (), len(missing))
    here = Counter(int(label) for label in parts.train.targets)
    if len(here) > 1:
        (most, n), (least, m) = here.most_common()[0], here.most_common()[-1]
        if n >= IMBALANCE * m:
            rare, common = cohort.labels[least], cohort.labels[most]
            message = (
                f"The training part holds {m} {rare!r} and {n} {common!r} (1 to {n / m:.0f}); "
                f"always saying {common!r} is right in {n / sum(here.values()):.0%} of it."
            )
            yield Problem("class-imbalance", message, (), m, "train")


def _sizes(cohort: Cohort, parts: Parts) -> Iterator[Problem]:
    for view in parts:
        if view.name == "train" or len(view) == 0:
            continue
        if cohort.task in _CLASSES:
            count = Counter(int(label) for label in view.targets)
            small = [f"{count[i]} {label!r}" for i, label in enumerate(cohort.labels) if count[i] < FEW]
            if small:
                message = f"The {view.name} part holds {_list(small)}; below {FEW} a figure is too uncertain to claim."
                yield Problem("tiny-part", message, (), len(view), view.name)
                continue
        least = CALIBRATION if view.name == "calibration" else FEW
        if len(view) < least:
            message = f"The {view.name} part holds {len(view)} cases; {least} or more are wanted."
            yield Problem("tiny-part", message, (), len(view), view.name)


def _count(things: Sequence[Any], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _list(words: Iterable[str], most: int = 4) -> str:
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more classes" if len(words) > most else "")
