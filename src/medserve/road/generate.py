"""New molecules out of a package that writes them, each judged, none of them a controlled substance.

    result = write_molecules(Path("models/prior"), Path("new.csv"), count=10_000, settings=settings)

Texts are drawn in batches, each with its own seed; what a batch gave is kept beside the file until all is done, so that
a run that was stopped goes on. Every valid molecule is brought into the standard form of the data; what belongs to, or
is close to, a controlled substance is counted and written nowhere.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.molecules.controlled import CLOSE, controlled
from medserve.data.molecules.quality import Quality, diversity, quality
from medserve.data.molecules.standard import standardise
from medserve.data.pseudonym import pseudonym_key
from medserve.data.records import digest_of
from medserve.errors import BadData, Refusal, Usage
from medserve.models.package import Package, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT, Progress
from medserve.road.frechet import frechet
from medserve.road.generate_page import write_page
from medserve.road.membership import knows, trained_on
from medserve.runtime.writer import Writer
from medserve.settings import Settings
from medserve.store.files import append_line, cannot_write, write_bytes

BATCH = 500
TEMPERATURE = 0.93  # a few more texts are molecules than at 1, and hardly fewer of them differ
COLUMNS = ("smiles", "valid", "drawn", "novel", "qed", "sa_score", "weight", "logp", "pains")


@dataclass(frozen=True, slots=True)
class Row:
    """One different molecule, or one different text that is none. drawn: how often. novel: None where not known."""

    smiles: str
    drawn: int
    valid: bool
    novel: bool | None = None
    found: Quality | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """kept: standard forms (True) and texts that are no molecule (False), in order. barred: what is not, by name."""

    kept: list[tuple[str, bool]]
    barred: Counter[str]


class Screenings:
    """What happens to every text before anybody sees it. Counts what was barred."""

    def __init__(self, package: Package, settings: Settings, bar: Sequence[str] = ()) -> None:
        self.key = pseudonym_key(settings)
        self.known = trained_on(package.split, self.key)
        self.input = package.spec.inputs[0].name
        self.bar = tuple(bar)
        self.barred: Counter[str] = Counter()

    def standard(self, text: str) -> str | None:
        """The standard form; None where the text is no molecule."""
        try:
            return standardise(text).smiles if text else None
        except Refusal:
            return None

    def allowed(self, smiles: str) -> bool:
        name = controlled(smiles, more=self.bar)
        if name is not None:
            self.barred[name] += 1
        return name is None

    def read(self, texts: Sequence[str]) -> "Drawn":
        """What may be kept of a batch."""
        before = self.barred.copy()
        forms = [(text, self.standard(text)) for text in texts]
        kept = [(form or text, form is not None) for text, form in forms if form is None or self.allowed(form)]
        return Drawn(kept, self.barred - before)

    def novel(self, smiles: str) -> bool | None:
        """Whether the training part held it; None where the package was trained at another installation."""
        return None if self.known is None else not knows(self.known, self.key, self.input, smiles)


def write_molecules(
    model: Path,
    out: Path,
    *,
    count: int,
    settings: Settings,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    bar: Path | None = None,
    reference: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Draw `count` texts; write the molecules as CSV at `out`, a page and the figures (JSON) beside it.

    Args:
        temperature: 1 is what was learned; below it keeps to what is usual.
        bar: a file of SMILES, one a line, of which no close analogue is written either.
        reference: such a file of molecules that were not learned from, for the Frechet ChemNet distance.

    Returns: {"drawn", "valid", "unique", "novel", "diversity", "fcd", "qed", "sa_score", "pains", "barred", "files",
        ...}; unique is a share of the valid ones, novel of the different ones.
    Raises: Usage "out-exists", "count-range", "not-a-writer", "temperature-range"; BadData "bar-unreadable",
        "reference-unreadable".
    """
    if not 1 <= count <= 1_000_000:
        raise Usage("count-range", f"{count} molecules were asked for.", hint="Between 1 and 1,000,000.")
    check_out(out)
    package = open_package(model, Trust.load(settings))
    writer = Writer(package)
    screenings = Screenings(package, settings, barred_by(bar))
    beside = None if reference is None else smiles_of(reference, "reference")
    asked = {"model": package.digest, "count": count, "temperature": temperature, "seed": seed,
             "bar": digest_of({"bar": screenings.bar}).hex()}  # fmt: skip

    def draw(index: int, many: int) -> Drawn:
        random = np.random.default_rng((seed, index))
        return screenings.read(writer.write(many, random, temperature=temperature))

    drawn = _drawn(out.with_name(f".{out.name}.drawn"), asked, count, progress, draw)
    rows, figures = judge(drawn, screenings, progress=progress)
    figures["fcd"], figures["fcd_note"] = frechet([r.smiles for r in rows if r.valid], beside)
    result = {"model": {"name": package.spec.name, "digest": package.digest}, "temperature": temperature, "seed": seed}
    result |= figures | {"files": [str(out), str(out.with_suffix(".json")), str(out.with_suffix(".html"))]}
    write_bytes(out.with_suffix(".json"), json.dumps(result, indent=1).encode())
    best = sorted((r for r in rows if r.found and not r.found.pains), key=lambda r: -r.found.qed)[:48]  # type: ignore[union-attr]
    write_page(out.with_suffix(".html"), title=f"Molecules written by {package.spec.name}", figures=figures, shown=[
        {"smiles": r.smiles, "told": {"QED": r.found.qed, "SA": r.found.sa}} for r in best if r.found
    ], note="The most drug-like of those without an alert.")  # fmt: skip
    write_bytes(out, as_csv(rows))
    out.with_name(f".{out.name}.drawn").unlink(missing_ok=True)
    return result


def check_out(out: Path) -> None:
    """A CSV that is not there yet, in a folder that may be made. Raises: Usage "out-exists", "out-name"; Fault."""
    if out.exists():
        raise Usage("out-exists", f"{out} already exists.", hint="Choose another --out, or remove it.")
    if out.suffix.lower() in (".json", ".html"):
        raise Usage("out-name", f"{out.name}: the table is a CSV; figures (.json) and page (.html) stand beside it.",
                    hint=f"Write --out {out.with_suffix('.csv').name}")  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out.parent, error) from error


def judge(drawn: Drawn, screenings: Screenings, *, progress: Progress = SILENT) -> tuple[list[Row], dict[str, Any]]:
    """Rows of what may be written, and the figures over all that was drawn. What was barred counts as valid."""
    molecules = Counter(text for text, valid in drawn.kept if valid)
    rows = [Row(text, n, False) for text, n in Counter(text for text, valid in drawn.kept if not valid).items()]
    kept, barred = sum(molecules.values()), sum(drawn.barred.values())
    total = len(drawn.kept) + barred
    good = [
        Row(smiles, n, True, screenings.novel(smiles), quality(smiles))
        for smiles, n in progress.track(list(molecules.items()), "Judging")
    ]
    told = [r.found for r in good if r.found is not None]
    known = screenings.known is not None
    figures = {
        "drawn": total,
        "valid": (kept + barred) / total,
        "unique": len(molecules) / kept if kept else None,
        "novel": sum(bool(r.novel) for r in good) / len(good) if known and good else None,
        "novelty": "against the training part" if known else "not available: trained at another installation",
        "diversity": diversity([r.smiles for r in good]),
        "fcd": None,
        "fcd_note": "",
        "qed": _mean([q.qed for q in told]),
        "sa_score": _mean([q.sa for q in told]),
        "pains": _mean([float(bool(q.pains)) for q in told]),
        "barred": {"molecules": barred, "by": dict(drawn.barred), "close": CLOSE},
        "written": len(good),
    }
    return good + rows, figures


def barred_by(path: Path | None) -> list[str]:
    """Standard forms of a site's own list. Raises: BadData "bar-unreadable"."""
    return [] if path is None else smiles_of(path, "bar")


def smiles_of(path: Path, what: str) -> list[str]:
    """Raises: BadData "bar-unreadable", "reference-unreadable"."""
    try:
        return [standardise(line.split()[0]).smiles for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, Refusal) as error:
        raise BadData(f"{what}-unreadable", f"{path.name} is no list of SMILES.", hint="One SMILES a line.") from error


def as_csv(rows: Sequence[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        q = row.found
        novel = "" if row.novel is None else int(row.novel)
        cells = ["", "", "", "", ""] if q is None else [
            f"{q.qed:.4f}", f"{q.sa:.3f}", f"{q.weight:.2f}", f"{q.logp:.2f}", "|".join(q.pains)
        ]  # fmt: skip
        writer.writerow([row.smiles, int(row.valid), row.drawn, novel, *cells])
    return out.getvalue().encode()


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _drawn(
    path: Path, asked: dict[str, Any], count: int, progress: Progress, draw: Callable[[int, int], Drawn]
) -> Drawn:
    """Batch by batch; what an earlier run with the same options left is taken as it is."""
    batches: list[Drawn] = []
    if path.is_file():
        lines = path.read_bytes().split(b"\n")[:-1]
        if lines and lines[0] == json.dumps(asked).encode():
            for kept, barred in map(json.loads, lines[1:]):
                batches.append(Drawn([(text, bool(valid)) for text, valid in kept], Counter(barred)))
        else:
            path.unlink()
    total = -(-count // BATCH)
    bar = progress.start("Writing", total)
    progress.step(bar, len(batches))
    try:
        for index in range(len(batches), total):
            batches.append(draw(index, min(BATCH, count - index * BATCH)))
            if not path.is_file():
                append_line(path, json.dumps(asked).encode())
            append_line(path, json.dumps([batches[-1].kept, batches[-1].barred]).encode())
            progress.step(bar)
    finally:
        progress.end(bar)
    return Drawn([row for one in batches for row in one.kept], sum((one.barred for one in batches), Counter()))
