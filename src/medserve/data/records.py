"""Step 1 for cases that are records: every case read once, then, once the split is known, encoded.

    cohort = prepare_records(listing, folder)                 # parsed values on disk, nothing fitted
    fields = fit_fields(parts.train)                          # on the training part alone
    cohort = encode(cohort, fields, folder)                   # fixed-length records on the shelf

The same `Records` that encode here encode the body of a request.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as made
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.data.blobs import Blobs
from medserve.data.cohort import Case, Cohort, Refused, Shelf
from medserve.data.fields import FIELDS, SCALARS, Field, Records, register_all
from medserve.data.forms.listing import Listing
from medserve.data.molecules.families import FAMILIES, families
from medserve.data.molecules.standard import standard_key
from medserve.data.prepare import THUMB
from medserve.data.split import PartView, TrainPart
from medserve.data.transforms import thumbnail
from medserve.errors import Fault, Refusal
from medserve.progress import SILENT, Progress
from medserve.store.files import cannot_write
from medserve.types import Array, Picture

TELLING = 8  # known numbers that make two equal cases the same case; fewer can agree by chance
MOST_NAMED = 5
LOOKED_AT = 72  # cases whose picture may be looked at before any is read


@dataclass(slots=True)
class Trouble:
    """Values that could not be used: the case stays, the value counts as missing."""

    code: str
    field: str
    message: str
    count: int = 0
    cases: list[str] = made(default_factory=list)


def declare_fields(listing: Listing) -> tuple[Field, ...]:
    """Unfitted fields of a listing's inputs. Raises: NotFound: a kind that nothing reads."""
    register_all()
    other = {"text": "words"} if listing.task == "tags" else {}  # a row for each word
    other |= {"timeline": "visits"} if listing.medicines else {}
    found = tuple(FIELDS[other.get(said.kind, said.kind)].declare(name, said) for name, said in listing.inputs.items())
    # What writes molecules reads their letters alone: no fragment is counted, which would take most of the time.
    return tuple(replace(f, letters=True) for f in found) if listing.task == "generate" else found  # type: ignore[type-var]


def settle_fields(listing: Listing, asked: Sequence[Field] = ()) -> tuple[Field, ...]:
    """The declared fields; those whose values depend on what the data looks like (pictures) have looked at some.

    Args:
        asked: fields of a package that is to be asked: pictures are prepared, and visits parted, as it does.
    """
    ready = {f.name: f for f in asked if hasattr(f, "look") or hasattr(f, "gap_h")}
    found: list[Field] = []
    for f in declare_fields(listing):
        if f.name in ready and ready[f.name].kind == f.kind:
            f = ready[f.name]
        elif hasattr(f, "look"):
            f = f.look(_some(listing, f.name))
        found.append(f)
    return tuple(found)


def _some(listing: Listing, name: str) -> Iterator[Any]:
    """One input's raw values, of cases spread over the data set."""
    assert listing.raw is not None
    count = min(len(listing.items), LOOKED_AT)
    for k in range(count):
        try:
            yield listing.raw(listing.items[k * len(listing.items) // count]).get(name)
        except Refusal:
            continue


def prepare_records(
    listing: Listing, folder: Path, *, asked: Sequence[Field] = (), progress: Progress = SILENT
) -> Cohort:
    """Read every case of a listing of kind "record" once.

    A value that its field refuses counts as missing and is reported (`Cohort.troubles`); a case whose files cannot be
    read, or that has no value at all, is refused. Of cases with a picture its thumbnail is kept (black where it is
    missing), so that the same film in two parts is found.

    Args:
        asked: see `settle_fields`.
    """
    assert listing.raw is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    fields = settle_fields(listing, asked)
    pictures = next((f.name for f in fields if f.kind == "image"), None)
    thumbs = None if pictures is None else Shelf(folder / "thumbs.shelf", THUMB, write=True)
    blobs = Blobs(folder / "values.blobs")
    rule = listing.split or {}
    family = str(rule.get("by", ""))
    column = str(rule["column"]) if family == "column" else ""
    whole = next((name for name, said in listing.inputs.items() if column and column == (said.column or name)), "")
    cases: list[Case] = []
    named: list[str] = []
    cut: Counter[str] = Counter()  # of inputs that are read in part
    refused = list(listing.refused)
    troubles: dict[tuple[str, str], Trouble] = {}
    for item in progress.track(listing.items, "Reading"):
        try:
            raw = listing.raw(item)
            read = [_parse(f, raw.get(f.name)) for f in fields]
            values = {f.name: value for f, (value, _) in zip(fields, read, strict=True)}
            if all(v is None for v in values.values()):
                empty = Refusal("case-empty", "Every input is missing.", hint="Give at least one value.")
                raise next((why for _, why in read if why is not None), empty)
            for f, (_, why) in zip(fields, read, strict=True):
                if why is not None:
                    _note(troubles, f, why, item.id)
        except Refusal as error:
            refused.append(Refused(item.id, error.code, error.message))
            continue
        index = blobs.add(values)
        if thumbs is not None and pictures is not None:
            thumbs.put(index, _thumb(values[pictures]))
        digest = digest_of(values)
        known = sum(v is not None for v in values.values())
        telling = known >= TELLING or any(
            v is not None and f.kind not in SCALARS for f, v in zip(fields, values.values(), strict=True)
        )
        same = digest if telling else hashlib.sha256(digest + item.id.encode()).digest()
        standard = values.get(whole)  # two spellings of a molecule are one value of their column
        named.append((standard if isinstance(standard, str) else item.family) or item.id)
        cut.update(f.name for f in fields if f.kind == "protein" and f.cuts(values[f.name]))  # type: ignore[attr-defined]
        cases.append(
            Case(
                id=item.id,
                file=item.file.name,
                index=index,
                label=item.label,
                patient=item.patient or item.id,
                part=item.part,
                groups=item.groups,
                sha256=same,
                pixels=same,
                hash=0,
                modality=None,
                unit=None,
                colour=False,
                blank=False,
                shape=(known,),
                header={"format": listing.form},
                drawn=item.drawn,
            )
        )
    cases = _one_molecule(fields, blobs, cases, progress)
    declared = any(item.patient for item in listing.items)
    family = family if family in FAMILIES else column
    warnings = list(listing.source.get("warnings", ()))
    warnings += [f"{n} sequences of {name} are longer than what is read, and are cut." for name, n in cut.items()]
    if not declared and not (listing.declaration and listing.declaration.independent):
        warnings.append("No patient key is declared or found: each row counts as its own patient.")
    return Cohort(
        name=listing.name,
        task=listing.task,
        labels=listing.labels,
        cases=tuple(cases),
        refused=tuple(refused),
        files=listing.files,
        shelf=None,
        thumbs=thumbs,
        digest=_digest(listing, cases),
        source=dict(listing.source) | ({"warnings": warnings} if warnings else {}),
        independent=not declared,
        fields=fields,
        values=blobs,
        troubles=tuple(troubles.values()),
        families=tuple(named) if column else _families(fields, blobs, cases, family),
        family=family,
        rule=rule,
        drawn=(listing.declaration.intervals or "") if listing.declaration else "",
    )


def digest_of(values: dict[str, Any]) -> bytes:
    """sha256 of the parsed values of a case: `Case.pixels` where they tell one case from another."""
    return hashlib.sha256(msgspec.msgpack.encode(values, order="deterministic")).digest()


def _one_molecule(fields: Sequence[Field], blobs: Blobs, cases: list[Case], progress: Progress) -> list[Case]:
    """Cases of one InChIKey, drawn as several tautomers, show the same (`Case.pixels`): the first of them, by its
    SMILES. In two parts they are a leak, in one a repeat."""
    names = [f.name for f in fields if f.kind == "molecule"]
    if not names:
        return cases
    keys: dict[str, str] = {}
    first: dict[str, str] = {}
    indices = [case.index for case in cases]
    for values in progress.track(blobs.each(indices), "Comparing molecules", total=len(cases)):
        for smiles in (values[name] for name in names if values.get(name) is not None):
            if smiles not in keys:
                keys[smiles] = key = standard_key(smiles)
                first[key] = min(first.get(key, smiles), smiles)
    same = {smiles: first[key] for smiles, key in keys.items() if first[key] != smiles}
    if not same:
        return cases
    found = []
    for case, values in zip(cases, blobs.each(indices), strict=True):
        told = {name: same.get(values.get(name), values.get(name)) for name in names}
        changed = any(told[name] != values.get(name) for name in names)
        found.append(replace(case, pixels=digest_of(values | told)) if changed else case)
    return found


def _families(fields: Sequence[Field], blobs: Blobs, cases: Sequence[Case], by: str) -> tuple[str, ...]:
    if not by:
        return ()
    name = next(f.name for f in fields if f.kind == "molecule")
    return families([stored.get(name) for stored in blobs.each([c.index for c in cases])], by)


def _thumb(film: Any) -> Array:
    """(1, 64, 64) uint8 of a prepared picture, black where there is none."""
    if film is None:
        return np.zeros(THUMB, np.uint8)
    levels = film.levels
    picture = Picture(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0), (0.0, 255.0))
    return thumbnail(picture)[None]


def _parse(f: Field, raw: Any) -> tuple[Any, Refusal | None]:
    """The value, or None with the reason."""
    try:
        return f.parse(raw), None
    except Refusal as error:
        return None, error


def _note(troubles: dict[tuple[str, str], Trouble], f: Field, why: Refusal, case: str) -> None:
    trouble = troubles.setdefault((f.name, why.code), Trouble(why.code, f.name, why.message))
    trouble.count += 1
    if len(trouble.cases) < MOST_NAMED:
        trouble.cases.append(case)


def values_of(cohort: Cohort, row: int) -> dict[str, Any]:
    """The parsed values of one case."""
    assert cohort.values is not None
    stored = cohort.values.get(cohort.cases[row].index)
    return {f.name: None if (v := stored.get(f.name)) is None else f.restore(v) for f in cohort.fields}


def same_values(view: PartView, kind: str) -> Array:
    """(N,) int64: equal numbers for cases whose first input of this kind is the same; a missing one is a value too."""
    cohort = view.cohort
    assert cohort.values is not None
    name = next((f.name for f in cohort.fields if f.kind == kind), None)
    seen: dict[bytes, int] = {}
    stored = cohort.values.each([cohort.cases[int(row)].index for row in view.rows])
    keys = (msgspec.msgpack.encode(one.get(name), order="deterministic") for one in stored)
    return np.array([seen.setdefault(hashlib.sha256(key).digest(), len(seen)) for key in keys], np.int64)


def fit_fields(train: TrainPart, *, progress: Progress = SILENT) -> Records:
    """Every field fitted on the training part. Numbers and categories take one pass together, each other field its
    own, so that long values are never all in memory."""
    cohort = train.cohort
    assert cohort.values is not None
    indices = [cohort.cases[int(row)].index for row in train.rows]
    scalars = [f for f in cohort.fields if f.kind in SCALARS]
    columns: dict[str, list[Any]] = {f.name: [] for f in scalars}
    for stored in cohort.values.each(indices) if scalars else ():
        for name, column in columns.items():
            column.append(stored.get(name))
    fitted = []
    for f in progress.track(cohort.fields, "Fitting inputs"):
        if f.kind in SCALARS:
            fitted.append(f.fit(columns[f.name]))
            continue
        each = (stored.get(f.name) for stored in cohort.values.each(indices))
        fitted.append(f.fit(None if v is None else f.restore(v) for v in each))
    return Records(tuple(fitted))


def encode(cohort: Cohort, records: Records, folder: Path, *, progress: Progress = SILENT) -> Cohort:
    """The cohort with its records on a shelf. Raises: Fault "disk-full"."""
    shelf = Shelf(folder / "records.shelf", (records.length,), write=True, dtype="float32")
    encoded = replace(cohort, shelf=shelf, fields=records.fields)
    try:
        for row in progress.track(range(len(cohort)), "Encoding"):
            shelf.put(cohort.cases[row].index, records.encode(values_of(encoded, row)))
    except Fault:
        shelf.close()
        raise
    return encoded


def scope_codes(view: PartView) -> dict[int, str]:
    """Cohort rows that the service would refuse, with the code: words or codes that training never saw, and so on."""
    found: dict[int, str] = {}
    for row in view.rows.tolist():
        values = values_of(view.cohort, row)
        try:
            for f in view.cohort.fields:
                f.check(values[f.name])
        except Refusal as error:
            found[row] = error.code
    return found


def describe_fields(cohort: Cohort) -> list[dict[str, Any]]:
    """What stands in each input, for `medserve inspect`: kind, unit, missing, and a few facts of its values."""
    assert cohort.values is not None
    out = []
    stored = list(cohort.values.each([c.index for c in cohort.cases])) if len(cohort) <= 200_000 else []
    for f in cohort.fields:
        values = [s.get(f.name) for s in stored]
        known = [v for v in values if v is not None]
        row: dict[str, Any] = {"name": f.name, "kind": f.kind, "known": len(known), "missing": len(values) - len(known)}
        if f.kind == "number" and known:
            low, middle, high = np.quantile(np.asarray(known, float), [0, 0.5, 1])
            row |= {"low": float(low), "median": float(middle), "high": float(high), "unit": getattr(f, "unit", None)}
        elif f.kind == "category":
            count = Counter(known)
            row |= {"levels": len(count), "most": dict(count.most_common(5))}
        elif f.kind == "image":
            channels, *sides = f.shape
            row |= {
                "shape": list(f.shape),
                "said": f"{' x '.join(map(str, sides))}, {'colour' if channels == 3 else 'grey'}",
            }
        out.append(row)
    return out


def _digest(listing: Listing, cases: Sequence[Case]) -> str:
    total = hashlib.sha256(msgspec.json.encode([listing.task, listing.labels]))
    for case in sorted(cases, key=lambda c: c.id):
        total.update(msgspec.json.encode([case.id, case.label, case.part]) + case.pixels)
    return total.hexdigest()
