"""Parts of a cohort: train, val, calibration and a sealed test part. No patient crosses from one to another.

    parts = split(cohort, seed=7)
    parts = declared_split(cohort, seed=7)  # by the shares and the seed that the data set declares
    parts.train.take(rows)              # uint8 images, read from the shelf by position in the part
    for train, held_out in folds(parts, k=5, seed=7): ...

Official parts are honoured: an official validation part without a calibration part is halved by patient, a missing
validation part is carved out of the training part. Otherwise patients are dealt to the parts, stratified by label.
Copies of one picture, exact or near, are dealt together like films of one patient, so that a split made here seldom
leaks. What a patient gets depends on the seed and the cohort alone, never on the order of the rows. Whatever is fitted
takes a `TrainPart`, so that fitting on another part is a type error.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np

from medserve.data.cohort import Case, Cohort
from medserve.data.duplicates import find_duplicates, texts_of
from medserve.data.molecules.families import FAMILIES
from medserve.errors import BadData
from medserve.types import PARTS, Array, Part

FRACTIONS = (0.6, 0.1, 0.1, 0.2)
LARGEST_GROUP = 0.02  # of the cases dealt; alike pictures are not chained into more than this
_CLASSES = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True)
class PartView:
    """Some rows of a cohort, as `Samples`: targets, a length, and batches read from disk when asked.

    rows: (N,) int64 positions in `cohort.cases`.
    """

    name: str
    cohort: Cohort
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        return tuple(self.cohort.cases[row] for row in self.rows)

    @cached_property
    def patients(self) -> frozenset[str]:
        return frozenset(case.patient for case in self.cases)

    @cached_property
    def targets(self) -> Array:
        """See `Samples.targets`; every case of a part has a label."""
        labels = [case.label for case in self.cases]
        if self.cohort.task in _CLASSES:
            return np.asarray(labels, np.int64)
        if self.cohort.task == "tags":
            longest = max((len(c.label) for c in self.cohort.cases if isinstance(c.label, tuple)), default=0)
            return np.asarray([(*label, *[np.nan] * (longest - len(label))) for label in labels], np.float32)  # type: ignore[arg-type,misc]
        width = {"multilabel": (len(self.cohort.labels),), "survival": (2,), "effect": (4,)}.get(self.cohort.task, ())
        return np.asarray(labels, np.float32).reshape(len(labels), *width)

    def take(self, rows: Array) -> Array:
        """Returns: (B, C, H, W) uint8, or (B, F) float32 of records, for positions `rows` of this part."""
        assert self.cohort.shelf is not None, "records are encoded before they are taken"
        return self.cohort.shelf.take([self.cases[int(row)].index for row in rows])

    def groups(self, name: str) -> Array:
        """The subgroup column `name`, (N,) str; empty where a case does not say."""
        return np.asarray([case.groups.get(name, "") for case in self.cases], dtype=str)

    def without(self, rows: Iterable[int]) -> "PartView":
        """The same part less the given cohort rows."""
        gone = np.asarray(sorted(rows), np.int64)
        return type(self)(self.name, self.cohort, self.rows[~np.isin(self.rows, gone)])


class TrainPart(PartView):
    """The only part that anything is fitted on."""


@dataclass(frozen=True)
class Parts:
    """train, val, calibration and test of one cohort, with the rule that made them."""

    train: TrainPart
    val: PartView
    calibration: PartView
    test: PartView
    seed: int
    rule: Mapping[str, object] = field(default_factory=dict)

    def __iter__(self) -> Iterator[PartView]:
        return iter((self.train, self.val, self.calibration, self.test))

    def __getitem__(self, name: Part) -> PartView:
        return {view.name: view for view in self}[name]

    @property
    def cohort(self) -> Cohort:
        return self.train.cohort

    def over(self, cohort: Cohort) -> "Parts":
        """The same rows of a cohort whose records have since been encoded."""
        views = [type(view)(view.name, cohort, view.rows) for view in self]
        return replace(self, train=views[0], val=views[1], calibration=views[2], test=views[3])  # type: ignore[arg-type]

    @property
    def sizes(self) -> dict[str, int]:
        return {view.name: len(view) for view in self}


def declared_split(cohort: Cohort, *, seed: int, check: bool = True) -> Parts:
    """By the rule that the data set declares (its share for the test part, its seed), else by the run's seed."""
    test, own = cohort.rule.get("test"), cohort.rule.get("seed")
    rest = 1 - float(test or 0)
    fractions = FRACTIONS if test is None else (0.75 * rest, 0.125 * rest, 0.125 * rest, 1 - rest)
    return split(cohort, seed=seed if own is None else int(own), fractions=fractions, check=check)


def split(cohort: Cohort, *, seed: int = 7, fractions: Sequence[float] = FRACTIONS, check: bool = True) -> Parts:
    """Deal the labelled cases of a cohort to four parts, by patient.

    Args:
        cohort: cases without a label stand in no part (`clean.find_problems` reports them).
        seed: decides which patients go where; the same seed gives the same parts for any order of the rows.
        fractions: of train, val, calibration and test; official parts override them.
        check: refuse a cohort that cannot be trained on; `inspect` shows it all the same.

    Raises: BadData "split-fractions", "too-few-cases", "one-class-only".
    """
    if len(fractions) != len(PARTS) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise BadData(
            "split-fractions", "Four fractions above 0 that sum to 1 are expected: train, val, calibration, test."
        )
    labelled = [row for row, case in enumerate(cohort.cases) if has_label(case)]
    if check:
        _check_cohort(cohort, labelled)
    official = {part: [r for r in labelled if cohort.cases[r].part == part] for part in PARTS}
    loose = [row for row in labelled if cohort.cases[row].part is None]
    share = dict(zip(PARTS, fractions, strict=True))
    dealt: dict[Part, list[int]] = {part: list(rows) for part, rows in official.items()}
    if any(official.values()):
        dealt["train"] += loose  # said to belong to no official part: never on the side that judges
        rule = by if (by := str(cohort.rule.get("by"))) in ("time", "site") else "official"
        if not dealt["test"]:
            _carve(cohort, dealt, "train", ("train", "test"), (1 - share["test"], share["test"]), seed)
            rule += ", test carved from train"
        if not dealt["val"] and not dealt["calibration"]:
            rest = 1 - share["test"]
            wanted: tuple[Part, ...] = ("train", "val", "calibration")
            _carve(cohort, dealt, "train", wanted, tuple(share[part] / rest for part in wanted), seed)
            rule += ", val and calibration carved from train"
        elif not dealt["calibration"]:
            _carve(cohort, dealt, "val", ("val", "calibration"), (0.5, 0.5), seed)
            rule += ", val halved into val and calibration"
        elif not dealt["val"]:
            _carve(cohort, dealt, "train", ("train", "val"), (1 - share["val"], share["val"]), seed)
            rule += ", val carved from train"
    elif cohort.family in FAMILIES:
        balanced = cohort.rule.get("order") == "balanced"
        dealt = _by_family(cohort, loose, fractions, seed if balanced else None)
        rule = f"{cohort.family}, " + (f"balanced, seed {seed}" if balanced else "largest families to train")
    else:
        dealt["train"] = loose
        _carve(cohort, dealt, "train", PARTS, tuple(fractions), seed)
        rule = "random" if cohort.independent else "patient"
        rule = f"whole values of {cohort.family}" if cohort.family else rule
    by = cohort.family or ("case" if cohort.independent else "patient")
    parts = Parts(
        TrainPart("train", cohort, _rows(dealt["train"])),
        PartView("val", cohort, _rows(dealt["val"])),
        PartView("calibration", cohort, _rows(dealt["calibration"])),
        PartView("test", cohort, _rows(dealt["test"])),
        seed,
        {"rule": rule, "seed": seed, "fractions": list(fractions), "by": by},
    )
    if check:
        check_parts(parts)
    return parts


def folds(parts: Parts, k: int, seed: int = 7) -> list[tuple[TrainPart, PartView]]:
    """Cross-validation over the training part, by patient: k pairs of (fitted on, held out).

    Where the parts were dealt by families (scaffolds, clusters), a family stands in one fold too.

    Raises: BadData "too-few-cases": fewer groups of patients than folds.
    """
    cohort = parts.cohort
    names = [f"fold-{i}" for i in range(k)]
    groups = _groups(cohort, parts.train.rows.tolist())
    if cohort.families:
        together: dict[str, list[int]] = defaultdict(list)
        for group in groups:
            together[cohort.families[group[0]]] += group
        groups = list(together.values())
    if k < 2 or len(groups) < k:
        raise BadData(
            "too-few-cases",
            f"{k} folds need at least 2 and at most {len(groups)}, the number of patients in the training part.",
            hint="Ask for fewer folds, or add patients.",
        )
    dealt = _deal(cohort, groups, names, [1 / k] * k, seed)
    out = []
    for name in names:
        held = _rows(dealt[name])
        rest = parts.train.rows[~np.isin(parts.train.rows, held)]
        out.append((TrainPart("train", cohort, rest), PartView(name, cohort, held)))
    return out


def has_label(case: Case) -> bool:
    """Whether anything is known of the case: a class, a finite number, or at least one label of several."""
    if case.label is None:
        return False
    return bool(np.isfinite(np.asarray(case.label, np.float64)).any())


def check_parts(parts: Parts) -> None:
    """Refuse parts that nothing can be learned from or judged on.

    Raises: BadData "too-few-cases", "one-class-only".
    """
    cohort = parts.cohort
    empty = [view.name for view in parts if len(view) == 0]
    if empty:
        raise BadData(
            "too-few-cases",
            f"No case is left for {' and '.join(empty)}: {len(cohort)} cases, parts {parts.sizes}.",
            hint="Add patients, or declare the parts yourself in a split column.",
        )
    if cohort.task == "tags" and not (parts.train.targets > 0).any():
        raise BadData(
            "tags-none", "No word of the training part belongs to an entity.", hint="Check the column of spans."
        )
    if cohort.task not in _CLASSES:
        return
    here = set(parts.train.targets.tolist())
    if len(here) < 2:
        raise BadData(
            "one-class-only",
            f"The training part holds one class only of {len(cohort.labels)}.",
            hint="Add cases of another class to the training part.",
        )
    unseen = sorted({label for view in parts for label in view.targets.tolist()} - here)
    if unseen:
        raise BadData(
            "too-few-cases",
            f"The training part has no case of: {', '.join(cohort.labels[i] for i in unseen)}.",
            hint="Add cases of these classes to the training part, or leave the classes out.",
        )


def _check_cohort(cohort: Cohort, labelled: list[int]) -> None:
    patients = {cohort.cases[row].patient for row in labelled}
    if len(patients) < len(PARTS):
        unit = "cases" if cohort.independent else "patients"
        raise BadData(
            "too-few-cases",
            f"{len(labelled)} labelled cases of {len(patients)} {unit}; at least {len(PARTS)} {unit} are needed.",
            hint="Add labelled cases; each part needs its own patients.",
        )
    if cohort.task in _CLASSES and len({cohort.cases[row].label for row in labelled}) < 2:
        raise BadData(
            "one-class-only",
            "Every case has the same class; nothing can be told apart.",
            hint="Add cases of another class, or check which column holds the label.",
        )


def _carve(
    cohort: Cohort,
    dealt: dict[Part, list[int]],
    source: Part,
    wanted: Sequence[Part],
    fractions: Sequence[float],
    seed: int,
) -> None:
    """Deal what stands in `source` anew to the `wanted` parts."""
    rows = dealt[source]
    new = _deal(cohort, _groups(cohort, rows), wanted, fractions, seed)
    for part in wanted:
        dealt[part] = new[part]


def _groups(cohort: Cohort, rows: Sequence[int]) -> list[list[int]]:
    """Rows that must stay together: one patient, or the same picture under two names."""
    parent = {row: row for row in rows}
    size = dict.fromkeys(rows, 1)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(a: int, b: int, most: float = np.inf) -> None:
        a, b = sorted((root(a), root(b)))
        if a != b and size[a] + size[b] <= most:
            parent[b] = a
            size[a] += size[b]

    first: dict[str, int] = {}
    for row in rows:
        join(first.setdefault(cohort.cases[row].patient, row), row)
    if cohort.families and cohort.family not in FAMILIES:  # the values of a column stay whole
        whole: dict[str, int] = {}
        for row in rows:
            join(whole.setdefault(cohort.families[row], row), row)
    cases = [cohort.cases[row] for row in rows]
    pairs = find_duplicates(cases, cohort.thumbs, texts=texts_of(cohort, rows))
    if cohort.is_records:  # two tautomers of one molecule: where they fall into two parts, `leaks` acts on them
        pairs = [pair for pair in pairs if pair.kind != "pixels"]
    for pair in sorted(pairs, key=lambda p: (-p.similarity, sorted((cases[p.a].id, cases[p.b].id)))):
        exact = pair.kind != "near-duplicate" and not cases[pair.a].blank
        join(rows[pair.a], rows[pair.b], np.inf if exact else max(5, LARGEST_GROUP * len(rows)))
    together: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        together[root(row)].append(row)
    return list(together.values())


def _by_family(
    cohort: Cohort, rows: Sequence[int], fractions: Sequence[float], seed: int | None
) -> dict[Part, list[int]]:
    """Whole families into train until it is full, then val, calibration and test.

    Without a seed the largest come first: what is tested is the rarest chemistry, and no chance is in it. With one,
    families up to half of the smallest other part follow in an order drawn by the seed: what is tested is chemistry
    that is new, but not rarer than the rest.

    Sources: the scaffold split of MoleculeNet (Wu et al., Chem Sci 9:513, 2018); "scaffold balanced" of Chemprop (Yang
    et al., J Chem Inf Model 59:3370, 2019).
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for group in _groups(cohort, rows):
        groups[cohort.families[group[0]]] += group
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    if seed is not None:
        large = min(fractions[1:]) * len(rows) / 2
        small = [name for name in order if len(groups[name]) <= large]
        order[len(order) - len(small) :] = sorted(small, key=lambda name: _hash(name.encode(), seed))
    full = np.cumsum(fractions) * len(rows)
    dealt: dict[Part, list[int]] = {part: [] for part in PARTS}
    count = 0
    for name in order:
        at = next((i for i, most in enumerate(full) if count + len(groups[name]) <= most + 1e-9), len(PARTS) - 1)
        dealt[PARTS[at]] += groups[name]
        count += len(groups[name])
    for part, share in zip(PARTS, fractions, strict=True):  # one large family may have jumped over a part
        there = set() if dealt[part] else set(dealt["train"])
        for name in [n for n in reversed(order) if groups[n][0] in there][:-1]:
            if dealt[part] and len(dealt[part]) + len(groups[name]) > share * len(rows):
                break
            dealt[part] += groups[name]
            moved = set(groups[name])
            dealt["train"] = [row for row in dealt["train"] if row not in moved]
    return dealt


def _deal(
    cohort: Cohort, groups: Sequence[Sequence[int]], names: Sequence[str], fractions: Sequence[float], seed: int
) -> dict[str, list[int]]:
    """Give each group to the part that lacks most, counted within its stratum and over all; random by keyed hash.

    Groups of alike size are dealt among themselves: otherwise the largest part would take the patients with the most
    cases, who are seldom like the others.
    """
    strata: dict[str, list[Sequence[int]]] = defaultdict(list)
    for group, stratum in zip(groups, _strata(cohort, groups), strict=True):
        strata[f"{stratum}/{len(group).bit_length()}"].append(group)
    share = np.asarray(fractions, np.float64)
    total = np.zeros(len(names))
    dealt: dict[str, list[int]] = {name: [] for name in names}
    for stratum in sorted(strata, key=lambda s: (len(strata[s]), s)):  # rare first, while every part still has room
        mine = np.zeros(len(names))
        for group in sorted(strata[stratum], key=lambda g: _draw(cohort, g, seed)):
            size = len(group)
            lack = share * (mine.sum() + size) - mine + share * (total.sum() + size) - total
            part = 0 if names[0] == "train" and mine[0] == 0 else int(np.argmax(lack))
            mine[part] += size
            total[part] += size
            dealt[names[part]].extend(group)
    return dealt


def _draw(cohort: Cohort, group: Sequence[int], seed: int) -> bytes:
    cases = [cohort.cases[row] for row in group]  # by content: a pseudonym differs between machines
    return _hash(min(case.sha256 if cohort.is_records else case.pixels for case in cases), seed)


def _hash(name: bytes, seed: int) -> bytes:
    return blake2b(f"{seed}|".encode() + name, digest_size=16).digest()


def _strata(cohort: Cohort, groups: Sequence[Sequence[int]]) -> list[str]:
    """One stratum per group: its rarest class, its rarest present label, or its fifth of the range of numbers."""
    labels = [[cohort.cases[row].label for row in group] for group in groups]
    if not groups:  # `inspect` of a set of which every row was refused
        return []
    if cohort.task == "number":
        means = np.asarray([np.mean([float(v) for v in values]) for values in labels])  # type: ignore[arg-type]
        edges = np.quantile(means, [0.2, 0.4, 0.6, 0.8])
        return [str(i) for i in np.searchsorted(edges, means)]
    if cohort.task == "generate":
        return ["" for _ in groups]
    if cohort.task == "effect":  # by arm, and within it by whether the outcome is above the middle
        outcome = np.asarray([np.mean([v[0] for v in values]) for values in labels])  # type: ignore[index]
        arms = [int(values[0][2]) for values in labels]  # type: ignore[index]
        return [f"{arm}{int(y > np.median(outcome))}" for arm, y in zip(arms, outcome, strict=True)]
    if cohort.task == "survival":
        times = np.asarray([np.mean([v[0] for v in values]) for values in labels])  # type: ignore[index]
        edges = np.quantile(times, [0.25, 0.5, 0.75])
        happened = [int(max(v[1] for v in values)) for values in labels]  # type: ignore[index]
        return [f"{event}{np.searchsorted(edges, t)}" for event, t in zip(happened, times, strict=True)]
    if cohort.task == "multilabel":
        present = [{i for value in values for i, v in enumerate(value) if v == 1} for values in labels]  # type: ignore[arg-type]
    elif cohort.task == "tags":  # the names of its entities
        present = [{int(v - 1) // 2 for value in values for v in value if v > 0} for values in labels]  # type: ignore[union-attr]
    else:
        present = [{int(value) for value in values} for values in labels]  # type: ignore[arg-type]
    count = Counter(label for found in present for label in found)
    return [str(min(found, key=lambda i: (count[i], i))) if found else "none" for found in present]


def _rows(rows: Iterable[int]) -> Array:
    return np.asarray(sorted(rows), np.int64)
