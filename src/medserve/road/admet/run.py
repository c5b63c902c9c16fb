"""A file of molecules through the panel, in parts that survive a stop.

    result = run_panel(Path("candidates.csv"), Asked(...), out=Path("panel"), settings=settings, progress=progress)

With `out`, each part of 200 rows is kept beside it (OUT.admet) as soon as it is answered; the same command goes on
there. Several processes share the work, and none of them outlives this one.
"""

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, process
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import TaskID

from medserve import guard
from medserve.data.molecules.library import Entry, Library
from medserve.data.molecules.standard import standardise
from medserve.errors import Fault, MedServeError, Usage
from medserve.progress import SILENT, Progress
from medserve.road.admet.panel import Job, Panel, Told
from medserve.road.admet.results import Tally, about, write_results
from medserve.road.kept import Kept, processes
from medserve.settings import Settings
from medserve.store.files import new_folder, write_bytes

PART = 200  # rows
AHEAD = 2  # parts for each process that are read before they are wanted
MOST_SAID = 1_000  # rows that may be answered without a folder for the results
MOSTLY = 0.5  # share of refused rows above which the column is doubted aloud
MOST_MODELS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """column: of the structures; "" is guessed by its name. models: packages of one's own. shipped: whether ADMET-AI's
    models answer. seen: files of molecules that a model is known to have seen. workers: 0 takes all cores."""

    column: str = ""
    models: Sequence[Path] = field(default=())
    shipped: bool = True
    seen: Sequence[Path] = field(default=())
    workers: int = 0


def run_panel(path: Path, asked: Asked, *, out: Path | None, settings: Settings, progress: Progress) -> dict[str, Any]:
    """
    Returns: counts, codes, flags, models, endpoints, the first molecules, seconds.
    Raises: BadData "table-...", "column-missing"; Usage "admet-missing", "admet-version", "admet-other",
        "admet-running", "out-exists", "out-missing", "models-missing"; what a package raises.
    """
    started = time.monotonic()
    if not asked.shipped and not asked.models:
        raise Usage("models-missing", "No model is asked.", hint="Name a package: --model PACKAGE")
    if len(asked.models) > MOST_MODELS:
        raise Usage("too-many-models", f"{len(asked.models)} packages; at most {MOST_MODELS} at once.")
    library = Library.open(path, column=asked.column)
    count = library.count()
    if out is None and count > MOST_SAID:
        raise Usage("out-missing", f"{count} molecules are more than a terminal shows.", hint="Add --out FOLDER")
    job = Job(
        str(settings.home), [str(p.absolute()) for p in asked.models], asked.shipped,
        {p.name: keys_of(p, progress) for p in asked.seen},
    )  # fmt: skip
    panel = Panel(job, progress)
    workers = min(asked.workers or processes(), -(-count // PART))
    said = about(panel, path)
    if out is None:
        tally = Tally(panel, MOST_SAID)
        for _, part in _answers(panel, job, library, (), workers, progress):
            for one in part:
                tally.add(one)
        return _doubted(said | tally.as_dict(), library) | {"seconds": round(time.monotonic() - started, 1)}
    with new_folder(out) as work:
        parts = _Parts(out.with_name(out.name + ".admet"), _plan(path, asked, job, panel))
        try:
            for number, told in _answers(panel, job, library, parts.done, workers, progress):
                parts.keep(number, told)
            summary = write_results(work, parts.read(), said, panel, progress)
        finally:
            parts.close()
    parts.remove()
    return _doubted(summary, library) | {"out": str(out), "seconds": round(time.monotonic() - started, 1)}


def keys_of(path: Path, progress: Progress) -> list[str]:
    """InChIKeys of the standard forms of a file of known molecules; what cannot be read is left out."""
    found = set()
    library = Library.open(path)
    for entry in progress.track(library.entries(), f"reading {path.name}", total=library.count()):
        try:
            found.add(standardise(entry.text or "").key)
        except MedServeError:
            continue
    return sorted(found)


def _answers(
    panel: Panel, job: Job, library: Library, done: Container[int], workers: int, progress: Progress
) -> Iterator[tuple[int, list[Told]]]:
    """Parts that are not done yet, with their numbers, in order."""
    bar = progress.start("molecules", library.count())
    try:
        if workers < 2:
            for number, part in _left(library, done, progress, bar):
                yield number, _named(part, panel([entry.text for entry in part]))
                progress.step(bar, len(part))
            return
        waiting: deque[tuple[int, list[Entry], Future[bytes]]] = deque()
        with (
            _one_thread_each(),
            ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _begin, (msgspec.msgpack.encode(job),)
            ) as pool,
        ):
            left = _left(library, done, progress, bar)
            for number, part in left:
                waiting.append((number, part, pool.submit(_work, [entry.text for entry in part])))
                if len(waiting) > AHEAD * workers:
                    yield _next(waiting, progress, bar)
            while waiting:
                yield _next(waiting, progress, bar)
    except process.BrokenProcessPool as error:
        raise Fault(
            "admet-worker-died", "A process of the panel died.", hint="Run the same command again with --workers 1."
        ) from error
    finally:
        progress.end(bar)


def _left(library: Library, done: Container[int], progress: Progress, bar: TaskID) -> Iterator[tuple[int, list[Entry]]]:
    """Parts of the file that are not done, with their numbers."""
    entries = library.entries()
    for number in itertools.count():
        part = list(itertools.islice(entries, PART))
        if not part:
            return
        if number in done:
            progress.step(bar, len(part))
        else:
            yield number, part


def _next(
    waiting: "deque[tuple[int, list[Entry], Future[bytes]]]", progress: Progress, bar: TaskID
) -> tuple[int, list[Told]]:
    number, part, future = waiting.popleft()
    told = _named(part, msgspec.msgpack.decode(future.result(), type=list[Told]))
    progress.step(bar, len(part))
    return number, told


def _named(part: Sequence[Entry], told: list[Told]) -> list[Told]:
    for entry, one in zip(part, told, strict=True):
        one.name = entry.name
    return told


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that are started within; here the libraries have read it long ago."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_panel: Panel | None = None


def _begin(job: bytes) -> None:
    """In a process of the pool."""
    global _panel
    guard.install(between=True)
    _panel = Panel(msgspec.msgpack.decode(job, type=Job), SILENT)


def _work(texts: list[str | None]) -> bytes:
    assert _panel is not None
    return msgspec.msgpack.encode(_panel(texts))


def _plan(path: Path, asked: Asked, job: Job, panel: Panel) -> bytes:
    """What moves a number: another plan does not go on with these parts."""
    with open(path, "rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    seen = hashlib.sha256(msgspec.json.encode(job.seen, order="deterministic")).hexdigest()
    plan = {
        "file": data, "column": asked.column, "models": [one.about["digest"] for one in panel.own],
        "shipped": asked.shipped, "seen": seen, "part": PART,
    }  # fmt: skip
    return msgspec.json.encode(plan)


class _Parts:
    """Answered parts on disk. done: their numbers."""

    def __init__(self, folder: Path, plan: bytes) -> None:
        self._folder, self._kept = folder, Kept(folder, plan, code="admet", word="panel")
        self.done = {int(one.stem) for one in folder.glob("[0-9]*.part")}

    def keep(self, number: int, told: list[Told]) -> None:
        write_bytes(self._folder / f"{number:08d}.part", msgspec.msgpack.encode(told))
        self.done.add(number)

    def read(self) -> Iterator[list[Told]]:
        for number in sorted(self.done):
            yield msgspec.msgpack.decode((self._folder / f"{number:08d}.part").read_bytes(), type=list[Told])

    def close(self) -> None:
        self._kept.close()

    def remove(self) -> None:
        self._kept.remove()


def _doubted(summary: dict[str, Any], library: Library) -> dict[str, Any]:
    """With a warning where most rows were refused: perhaps the column was not that of the structures."""
    refused = sum(summary["refused"].values())
    if refused <= MOSTLY * summary["n"]:
        return summary | {"warning": None}
    other = library.suggest()
    advice = f"{other!r} holds molecules: --column {other}" if other else "Name another: --column NAME"
    told = f"{refused} of {summary['n']} rows were refused; is it the right column? {advice}"
    return summary | {"warning": told}
