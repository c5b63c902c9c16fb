"""One pass over a data set: every item is read once and becomes a Case, or is refused with a code.

    listing = list_items(path)
    seen    = probe(listing)                                        # size, colour, modality, from a few items
    named   = default_transforms(shape=shape, colour=seen.colour, unit=seen.unit)
    cohort  = prepare(listing, named, shape, folder)

Prepared images and thumbnails go to two shelves in `folder`; the process keeps light records only. Many files are read
by worker processes (`_pool`), which also shield the run from a codec that crashes: that file is refused.
"""

import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from medserve.data import _pool
from medserve.data._records import Failure, Job, Record, array_record
from medserve.data.cohort import Case, Cohort, Item, Refused, Shelf
from medserve.data.forms.listing import Listing
from medserve.data.forms.npz import NpzFile
from medserve.errors import BadData, MedServeError, Refusal
from medserve.progress import SILENT, Progress
from medserve.store.files import cannot_write
from medserve.types import Named, Picture

MANY_FILES = 400  # from here on, workers are worth their start
THUMB = (1, 64, 64)
MAX_PIXELS = 64 * 10**6
PROBED = 24
PLACEHOLDERS = 10  # from this many files on, one identifier shared by all of them names nobody

Event = Record | Failure | None  # None ends an item


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few readable items look like.

    shape: (H, W) or (D, H, W), the middle one of those seen.
    colour: any is in colour. unit: "HU" when all are in it. modalities: None when no format says.
    """

    shape: tuple[int, ...]
    colour: bool
    modalities: tuple[str, ...] | None
    unit: str | None
    seen: int


def probe(listing: Listing, *, most: int = PROBED, max_pixels: int = MAX_PIXELS) -> Probe:
    """Read a few items spread over the data set.

    Raises: BadData "nothing-readable": none of those tried could be read.
    """
    pictures: list[Picture] = []
    refused: Counter[str] = Counter()
    for item in _spread(listing.items, most):
        if pictures and len(pictures) >= most:
            break
        try:
            pictures.append(_first_picture(item, listing.kind == "volume", max_pixels))
        except Refusal as error:
            refused[error.code] += 1
    if not pictures:
        refused.update(r.code for r in listing.refused)
        said = ", ".join(f"{code} ({n})" for code, n in refused.most_common(4)) or "the data set is empty"
        raise BadData(
            "nothing-readable",
            f"{listing.name}: no image could be read: {said}.",
            hint="See each file and its code with `medserve inspect`.",
        )
    sizes = [p.values.shape[:2] if p.colour else p.values.shape for p in pictures]
    shape = sorted(sizes, key=lambda s: (int(np.prod(s)), s))[len(sizes) // 2]
    found = {p.modality for p in pictures if p.modality}
    units = {p.unit for p in pictures}
    return Probe(
        shape=tuple(int(n) for n in shape),
        colour=any(p.colour for p in pictures),
        modalities=tuple(sorted(found)) or None,
        unit=units.pop() if len(units) == 1 else None,
        seen=len(pictures),
    )


def prepare(
    listing: Listing,
    named_transforms: Sequence[Named],
    shape: Sequence[int],
    folder: Path,
    *,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = SILENT,
) -> Cohort:
    """Read every item of the listing once.

    Args:
        shape: of one prepared record, (C, H, W) or (C, D, H, W); what the transforms give.
        folder: where `images.shelf` and `thumbs.shelf` are written; made when missing.
        workers: processes; None chooses by the number of files and processors, 0 or 1 stays in this one.

    Returns: cases in the order of the listing. A file with several frames gives one case a frame, `id#frame`, all of
        one patient. A file that fails anywhere is refused whole.
    Raises: Fault "disk-full". BadData from an array file that is damaged inside.
    """
    job = Job(list(named_transforms), tuple(shape), listing.kind == "volume", max_pixels, listing.key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with contextlib.ExitStack() as on_error:
        shelf = on_error.enter_context(Shelf(folder / "images.shelf", shape, write=True))
        thumbs = on_error.enter_context(Shelf(folder / "thumbs.shelf", THUMB, write=True))
        done = _Assembly(shelf, thumbs)
        for item, event in progress_items(_events(listing, job, workers), len(listing.items), progress):
            done.take(item, event)
        cases = done.finish()
        on_error.pop_all()
    cases, found, said = _patients(cases, listing)
    if not found and not (listing.declaration and listing.declaration.independent):
        said.append("No patient key is declared or found: each file counts as its own patient.")
    for text in said:
        progress.say(f"note: {text}")
    warnings = [*listing.source.get("warnings", ()), *said]
    refused = (*listing.refused, *done.refused)
    return Cohort(
        name=listing.name,
        task=listing.task,
        labels=listing.labels,
        cases=cases,
        refused=refused,
        files=listing.files + sum(1 for r in done.refused if r.file in done.rows_refused),
        shelf=shelf,
        thumbs=thumbs,
        digest=_digest(listing, cases),
        source=dict(listing.source) | ({"warnings": warnings} if warnings else {}),
        independent=not found,
        rule=listing.split or {},
    )


def progress_items(
    events: Iterator[tuple[Item, Event]], total: int, progress: Progress
) -> Iterator[tuple[Item, Event]]:
    """Pass events on, moving a bar at the end of each item."""
    bar = progress.start("Reading", total)
    try:
        for item, event in events:
            yield item, event
            if not isinstance(event, Record):
                progress.step(bar)
    finally:
        progress.end(bar)


@dataclass(slots=True)
class _Assembly:
    """Records as they come, in the order of the items; a file that fails is taken back whole."""

    shelf: Shelf
    thumbs: Shelf
    cases: list[Case] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    rows_refused: set[str] = field(default_factory=set)  # rows of array files: counted as files of their own
    _first: int = 0  # index of the first case of the item in progress
    _shared: dict[tuple, Mapping[str, str]] = field(default_factory=dict)

    def take(self, item: Item, event: Event) -> None:
        if isinstance(event, Record):
            self._add(item, event)
            return
        if isinstance(event, Failure):
            del self.cases[self._first :]
            name = item.id if item.row is None else f"{item.file.name}#{item.id}"
            if item.row is not None:
                self.rows_refused.add(name)
            self.refused.append(Refused(name, event.code, event.message))
        self._first = len(self.cases)

    def _add(self, item: Item, record: Record) -> None:
        index = len(self.cases)
        self.shelf.put(index, np.frombuffer(record.tensor, np.uint8).reshape(self.shelf.shape))
        self.thumbs.put(index, np.frombuffer(record.thumb, np.uint8).reshape(THUMB))
        self.cases.append(
            Case(
                id=item.id if record.frame is None else f"{item.id}#{record.frame}",
                file=item.id if item.row is None else item.file.name,
                index=index,
                label=item.label,
                patient=item.patient or record.patient or "",
                part=item.part,
                groups=item.groups,
                sha256=record.sha256,
                pixels=record.pixels,
                hash=record.hash,
                modality=_intern(record.modality),
                unit=_intern(record.unit),
                colour=record.colour,
                blank=record.blank,
                shape=record.shape,
                header=self._share(record.header),
            )
        )

    def _share(self, header: dict[str, str]) -> Mapping[str, str]:
        """One dictionary for all equal headers: cohorts stay small."""
        return self._shared.setdefault(tuple(header.items()), header)

    def finish(self) -> tuple[Case, ...]:
        for shelf in (self.shelf, self.thumbs):
            os.truncate(shelf.path, len(self.cases) * shelf.record)
        return tuple(self.cases)


def _patients(cases: tuple[Case, ...], listing: Listing) -> tuple[tuple[Case, ...], bool, list[str]]:
    """(cases each with a patient, whether any key was declared or found, warnings).

    Without a key, a file is its own patient (its frames stay together).
    """
    declared = any(item.patient for item in listing.items)
    found = {c.patient for c in cases if c.patient}
    said = []
    independent = bool(listing.declaration and listing.declaration.independent)
    if not declared and found and (independent or _nobody(cases, found)):
        if not independent:
            said.append("Every file carries the same PatientID, which names nobody; it was not used.")
        cases = tuple(replace(c, patient="") for c in cases)
        found = set()
    missing = sum(not c.patient for c in cases)
    if missing and found:
        said.append(f"{missing} cases carry no patient key; each of their files counts as its own patient.")
    if missing:
        cases = tuple(c if c.patient else replace(c, patient=_own(c)) for c in cases)
    return cases, bool(found), said


def _nobody(cases: tuple[Case, ...], found: set[str]) -> bool:
    return len(found) == 1 and all(c.patient for c in cases) and len({c.file for c in cases}) >= PLACEHOLDERS


def _own(case: Case) -> str:
    """A key for a file that stands alone: the case's id without the frame."""
    head, mark, frame = case.id.rpartition("#")
    return head if mark and frame.isdigit() else case.id


def _events(listing: Listing, job: Job, workers: int | None) -> Iterator[tuple[Item, Event]]:
    """Every item's records, then None or its Failure, in the order of the listing."""
    files = sum(item.row is None for item in listing.items)
    if workers is None:
        workers = (os.cpu_count() or 1) if files >= MANY_FILES else 1
    for is_row, group in groupby(listing.items, key=lambda item: item.row is not None):
        items = list(group)
        if is_row:
            yield from _row_events(items, job)
        else:
            yield from _pool.read_all(items, job, workers)


def _row_events(items: list[Item], job: Job) -> Iterator[tuple[Item, Event]]:
    for (file, member), group in groupby(items, key=lambda i: (i.file, i.row[0] if i.row else "")):
        some = sorted(group, key=lambda i: i.row[1] if i.row else 0)
        with NpzFile(file) as arrays:
            rows = arrays.rows(member, [i.row[1] for i in some if i.row])
            for item, (_, values) in zip(some, rows, strict=True):
                try:
                    yield item, array_record(values, job, name=f"{file.name}#{item.id}")
                except MedServeError as error:
                    yield item, Failure(error.code, error.message)
                else:
                    yield item, None


def _first_picture(item: Item, volume: bool, max_pixels: int) -> Picture:
    from medserve.data.readers import iter_pictures, picture_from_array

    if item.row is None:
        with contextlib.closing(iter_pictures(item.file, max_pixels=max_pixels, volume=volume)) as pictures:  # type: ignore[type-var]
            return next(pictures)
    member, index = item.row
    with NpzFile(item.file) as arrays:
        values = next(v for _, v in arrays.rows(member, [index]))
    if volume and values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    return picture_from_array(values, volume=volume)


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """Up to three times `most` items; only early rows of array files, which are read in one pass.

    Files stand in three sweeps, each evenly spaced over the whole data set: the first usually suffices.
    """
    arrays = [i for i in items if i.row is not None][:most]
    files = [i for i in items if i.row is None]
    count = min(len(files), 3 * most)
    some = [files[k * len(files) // count] for k in range(count)]
    return arrays + [item for sweep in range(3) for item in some[sweep::3]]


def _intern(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)


def _digest(listing: Listing, cases: tuple[Case, ...]) -> str:
    """sha256 over what is predicted and, by id, each case's label, patient-free, and source digest."""
    total = hashlib.sha256(msgspec.json.encode([listing.task, listing.labels]))
    for case in sorted(cases, key=lambda c: c.id):
        total.update(msgspec.json.encode([case.id, case.label, case.part]) + case.sha256 + case.pixels)
    return total.hexdigest()
