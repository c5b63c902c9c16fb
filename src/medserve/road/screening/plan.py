"""What a screen is asked, in a form that a later run can compare: it goes on only with the very same.

plan = make_plan(library, settings=settings, models=[Path("models/herg")], targets=[...], ...)
plan.job(settings)            # what each worker is told
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from medserve.data.fields import Records
from medserve.data.molecules.library import Library
from medserve.data.molecules.nearest import MOST_KNOWN
from medserve.data.molecules.standard import standardise
from medserve.data.pseudonym import pseudonym_key
from medserve.errors import Refusal, Usage
from medserve.models.package import Package, open_package
from medserve.models.signing import Trust
from medserve.road.membership import trained_on, value_hash
from medserve.road.screening.scorer import Asked, Job, column_of
from medserve.runtime.domain import open_domain
from medserve.runtime.known import KnownModel
from medserve.settings import Settings

CHUNK = 1000  # rows that are scored, kept and, after a stop, not done again, together
MOST_MODELS = 8


class Model(msgspec.Struct, frozen=True):
    """One package as the results name it. unit: of a number. label: what ranks. coverage: of its intervals or sets."""

    name: str
    version: str
    digest: str
    label: str
    unit: str | None
    task: str
    high: bool
    explains: bool
    coverage: float | None


class Plan(msgspec.Struct, frozen=True):
    """library: name, bytes and time of change of the file. known: (name, standard form) of actives or queries;
    known_from: where they are from. by: whether likeness to them counts, or the packages alone.

    top: how many are listed. diverse: how many of them are picked to be unlike, by `pick`.
    """

    library: tuple[str, int, int]
    columns: tuple[str, str, str]
    models: list[Model]
    asked: list[Asked]
    known: list[tuple[str, str]]
    known_from: str
    by: str
    top: int
    diverse: int
    pick: str
    explain: int
    chunk: int

    def job(self, settings: Settings) -> Job:
        return Job(str(settings.home), self.asked, [smiles for _, smiles in self.known])


def make_plan(
    library: Library,
    *,
    settings: Settings,
    packages: Sequence[Path],
    targets: Sequence[str],
    seek: Sequence[str],
    given: Mapping[str, str],
    queries: Sequence[str],
    actives: Path | None,
    by: str,
    top: int,
    diverse: int,
    pick: str,
    explain: int,
) -> Plan:
    """Raises: Usage "screen-nothing", "screen-target", "screen-model", "screen-option"; Refusal; BadPackage."""
    if not packages and not queries and actives is None:
        raise Usage(
            "screen-nothing", "There is nothing to rank by.",
            hint="Give a package (--model DIR), or a molecule to be alike (--query SMILES or FILE).",
        )  # fmt: skip
    for count, words, what in ((len(targets), "target", "--target"), (len(seek), "direction", "--seek")):
        if count not in (0, min(1, len(packages)), len(packages)):
            raise Usage(
                "screen-option", f"{count} times {what}, and {len(packages)} packages.",
                hint=f"Give one {words} for all, or one for each package in its order.",
            )  # fmt: skip
    if len(packages) > MOST_MODELS:
        raise Usage("screen-option", f"At most {MOST_MODELS} packages take part in one screen.")
    trust, models, asked = Trust.load(settings), [], []
    for i, folder in enumerate(packages):
        model = KnownModel(open_package(folder, trust))
        target = _nth(targets, i, "")
        column, high = column_of(model.spec, target), _nth(seek, i, "high") != "low"
        inputs = _inputs(model, given)
        output = model.spec.output
        label, atoms = output.labels[column], "atoms" in model.offered
        sets = model.spec.calibration.conformal
        covered = None if sets is None else round(1 - sets.alpha, 6)
        models.append(
            Model(model.name, model.version, model.digest, label, output.unit, output.task, high, atoms, covered)
        )
        asked.append(Asked(str(folder.absolute()), model.digest, target, high, inputs))
    known, source = _known(queries, actives), "as given"
    if not known:
        known, source = _training_actives([open_package(folder, trust) for folder in packages], models)
    stat = library.path.stat()
    return Plan(
        library=(library.path.name, stat.st_size, stat.st_mtime_ns),
        columns=(library.column, library.name, library.label), models=models, asked=asked, known=known,
        known_from=source, by=by if packages and known else "consensus", top=top,
        diverse=min(diverse, top), pick=pick, explain=explain, chunk=CHUNK,
    )  # fmt: skip


def _nth(values: Sequence[str], i: int, other: str) -> str:
    return values[min(i, len(values) - 1)] if values else other


def _inputs(model: KnownModel, given: Mapping[str, str]) -> dict[str, Any]:
    """The inputs beside the molecule. Raises: Usage "screen-model"."""
    molecules = [want for want in model.spec.inputs if want.kind == "molecule"]
    if len(molecules) != 1 or not model.spec.is_record:
        raise Usage(
            "screen-model", f"{model.name} does not take one molecule.",
            hint="`medserve models PACKAGE` says what a package takes.",
        )  # fmt: skip
    return {want.name: given[want.name] for want in model.spec.inputs if want.name in given and want.kind != "molecule"}


def _known(queries: Sequence[str], actives: Path | None) -> list[tuple[str, str]]:
    """Raises: Refusal: a query that is no molecule; BadData; Usage "screen-actives"."""
    found: dict[str, str] = {}
    for text in queries:
        if Path(text).is_file():
            _from_file(Path(text), found)
        else:
            found.setdefault(standardise(text, name="the query").smiles, text)
    if actives is not None:
        _from_file(actives, found)
    if (queries or actives) and not found:
        raise Usage("screen-actives", "None of the known molecules can be read.", hint="Check --query and --actives.")
    return [(name, smiles) for smiles, name in found.items()]


def _training_actives(packages: Sequence[Package], models: Sequence[Model]) -> tuple[list[tuple[str, str]], str]:
    """Of the first package of public data with two classes: the training molecules of the class that is sought."""
    for package, model in zip(packages, models, strict=True):
        labels = package.spec.output.labels
        if model.task != "binary":
            continue
        sought = model.label if model.high else next(label for label in labels if label != model.label)
        found = [smiles for smiles, label in _told(package) if label == sought]
        if found:
            return [(smiles, smiles) for smiles in found], f"{sought} molecules that {model.name} was trained on"
    return [], ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Molecules that prove nothing: known actives, and what packages were trained on. Told by the standard form, since
    the InChIKey of every row of a library would take as long as its score.

    forms: standard forms. hashed: (input, `membership.trained_on`) of packages that this installation trained.
    """

    forms: frozenset[str]
    hashed: tuple[tuple[str, frozenset[str]], ...] = ()
    key: bytes = b""

    def __contains__(self, smiles: object) -> bool:
        if not isinstance(smiles, str) or smiles in self.forms:
            return isinstance(smiles, str)
        return any(value_hash(self.key, {name: smiles}) in known for name, known in self.hashed)


def seen_by(plan: Plan, settings: Settings) -> Seen:
    """What the known molecules, the training molecules that packages of public data name, and this installation's own
    record of its packages say."""
    trust, key = Trust.load(settings), pseudonym_key(settings)
    packages = [open_package(Path(one.package), trust) for one in plan.asked]
    told = {smiles for package in packages for smiles, _ in _told(package)}
    hashed = [
        (package.spec.inputs[0].name, known)
        for package in packages
        if len(package.spec.inputs) == 1 and (known := trained_on(package.split, key)) is not None
    ]
    return Seen(frozenset(told | {smiles for _, smiles in plan.known}), tuple(hashed), key)


def _told(package: Package) -> list[tuple[str, str]]:
    """Training molecules with their labels; none of data that is not public."""
    domain = open_domain(package, Records.build(package.spec.transforms).blocks) if package.spec.domain else None
    return [] if domain is None else list(zip(domain.smiles, domain.labels, strict=True))


def _from_file(path: Path, found: dict[str, str]) -> None:
    for entry in Library.open(path).entries():
        try:
            smiles = standardise(entry.text or "").smiles
        except Refusal:  # those of a public set that do not parse: the rest is enough to be alike
            continue
        found.setdefault(smiles, entry.name)
        if len(found) > MOST_KNOWN:
            raise Usage("screen-actives", f"{path.name} holds more than {MOST_KNOWN} molecules to compare with.")
