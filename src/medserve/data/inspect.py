"""Everything `medserve inspect` says of a data set, as one JSON-able dict.

    result = inspect(cohort, seed=7)
    result["leaks"]     # [{"kind", "a", "b", "part_a", "part_b", "similarity"}]

Parts are the official ones where the data has them, by their official names (an official validation part is halved
only when training), else those that `train` would deal with the same seed.
"""

from collections import Counter
from typing import Any

import numpy as np

from medserve.data.clean import called, expected, find_problems, part_names, same_label
from medserve.data.cohort import Cohort
from medserve.data.duplicates import Pair, find_duplicates, texts_of
from medserve.data.leaks import find_leaks
from medserve.data.split import Parts, PartView, TrainPart, declared_split, has_label
from medserve.progress import SILENT, Progress
from medserve.types import PARTS

MOST_REPEATS = 2000


def inspect(cohort: Cohort, *, seed: int = 7, near: bool = True, progress: Progress = SILENT) -> dict[str, Any]:
    """Counts, kinds, class balance, problems, repeats and leaks of a data set; nothing is changed or refused.

    Args:
        seed: of the split that `train` would make, where the data set declares none.
        near: also look for near-duplicates.

    Returns: `files` = `read` + the length of `refused`; `leaks` cross parts; `repeats` are pairs inside one part (at
        most 2,000 listed, `problems` counts them all). `a` and `b` are case ids. `parts`: {name: {"cases",
        "patients", "classes": {label: count}}}; `planned`: sizes of the parts that training would use.
    """
    planned = declared_split(cohort, seed=seed, check=False)
    parts = declared(cohort) or planned
    place = part_names(parts)
    texts = texts_of(cohort)
    pairs = find_duplicates(cohort.cases, cohort.thumbs, parts=place, near=near, texts=texts, progress=progress)
    leaks = find_leaks(parts, pairs=pairs)
    problems = find_problems(cohort, parts, pairs)
    cases = cohort.cases
    inside = [pair for pair in pairs if place[pair.a] == place[pair.b] and not _expected(cohort, pair)]
    return {
        "name": cohort.name,
        "files": cohort.files,
        "read": cohort.files - len(cohort.refused),
        "refused": [{"file": r.file, "code": r.code, "message": r.message} for r in cohort.refused],
        "cases": len(cohort),
        "patients": None if cohort.independent else len({case.patient for case in cases}),
        "task": cohort.task,
        "labels": list(cohort.labels),
        "kinds": kinds(cohort),
        "problems": [problem.as_dict() for problem in problems],
        "leaks": [
            {
                "kind": k.kind,
                "a": cases[k.a].id,
                "b": cases[k.b].id,
                "part_a": k.part_a,
                "part_b": k.part_b,
                "similarity": k.similarity,
            }
            for k in leaks
        ],
        "repeats": [
            {
                "kind": p.kind,
                "a": cases[p.a].id,
                "b": cases[p.b].id,
                "part": place[p.a],
                "similarity": p.similarity,
                "same_label": same_label(cases[p.a], cases[p.b]),
            }
            for p in inside[:MOST_REPEATS]
        ],
        "parts": {view.name: _counts(view) for view in parts if len(view)},
        "official": any(case.part for case in cases),
        "planned": planned.sizes,
        "rule": dict(planned.rule),
        "source": dict(cohort.source),
        "digest": cohort.digest,
        "unlabelled": [called(case) for case in cases if not has_label(case)][:50],
    }


def declared(cohort: Cohort) -> Parts | None:
    """The official parts as they stand, unhalved; None when the data set declares none."""
    if not any(case.part for case in cohort.cases):
        return None
    rows = {
        part: np.asarray(
            [i for i, case in enumerate(cohort.cases) if (case.part or "train") == part and has_label(case)], np.int64
        )
        for part in PARTS
    }
    views = [PartView(part, cohort, rows[part]) for part in PARTS[1:]]
    return Parts(TrainPart("train", cohort, rows["train"]), views[0], views[1], views[2], 0, {"rule": "official"})


def kinds(cohort: Cohort) -> dict[str, dict[str, int]]:
    """How many cases of each layout, colour, modality, format and size."""
    out: dict[str, Counter[str]] = {name: Counter() for name in ("kind", "colour", "modality", "format", "size")}
    if cohort.is_records:
        inputs = Counter(f.kind for f in cohort.fields)
        return {"kind": {"record": len(cohort)}, "inputs": dict(inputs)}
    for case in cohort.cases:
        volume = len(case.shape) == 3 and case.header.get("layout") == "volume"
        out["kind"]["volume" if volume else "image"] += 1
        out["colour"]["colour" if case.colour else "grey"] += 1
        out["modality"][case.modality or "not said"] += 1
        out["format"][case.header.get("format", "not said")] += 1
        out["size"]["x".join(str(n) for n in case.shape[: 3 if volume else 2])] += 1
    return {name: dict(count.most_common(20)) for name, count in out.items()}


def _expected(cohort: Cohort, pair: Pair) -> bool:
    return pair.kind == "near-duplicate" and expected(cohort, pair)


def _counts(view: PartView) -> dict[str, Any]:
    cohort = view.cohort
    out: dict[str, Any] = {"cases": len(view), "patients": None if cohort.independent else len(view.patients)}
    if cohort.task == "generate":
        return out
    if cohort.task == "number":
        values = view.targets.astype(np.float64)
        low, middle, high = np.quantile(values, [0, 0.5, 1])
        return out | {"values": {"low": float(low), "median": float(middle), "high": float(high)}}
    if cohort.task == "effect":
        arms = Counter(int(arm) for arm in view.targets[:, 2])
        return out | {"classes": {label: arms[i] for i, label in enumerate(cohort.labels)}}
    if cohort.task == "survival":
        time, event = view.targets[:, 0].astype(np.float64), view.targets[:, 1]
        low, middle, high = (float(q) for q in np.quantile(time, [0, 0.5, 1]))
        return out | {"values": {"low": low, "median": middle, "high": high}, "events": int(event.sum())}
    if cohort.task == "multilabel":
        present = np.nansum(view.targets, axis=0)
        return out | {"classes": {label: int(n) for label, n in zip(cohort.labels, present, strict=True)}}
    if cohort.task == "tags":
        count = Counter(int(t) // 2 for t in view.targets[view.targets % 2 == 1])  # the first word of each entity
        return out | {"classes": {label: count[i] for i, label in enumerate(cohort.labels)}}
    count = Counter(int(label) for label in view.targets)
    return out | {"classes": {label: count[i] for i, label in enumerate(cohort.labels)}}
