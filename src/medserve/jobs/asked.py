"""What a job may be asked to do, and the command line that does it.

asked = msgspec.json.decode(body, type=Asked)            # Train | Evaluate | Screen | Admet
data = data_path(settings, "cardiology", asked.data)     # below MEDSERVE_DATA_ROOT/cardiology, nowhere else
command(asked, data, out, packages, home)                # ["train", ".../chest.npz", "--out=...", ...]
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from medserve.errors import NotFound, Usage
from medserve.settings import Settings

Word = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Place = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
Packages = Annotated[list[Digest], msgspec.Meta(max_length=8)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Smiles = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,2000}$")]  # one word: a line of a file names nothing more


class Train(msgspec.Struct, frozen=True, tag_field="kind", tag="train", forbid_unknown_fields=True, omit_defaults=True):
    """`medserve train`. data: a path below the tenant's folder of data."""

    data: Place
    name: Word | None = None
    recipe: Word | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    epochs: Count | None = None
    folds: Annotated[int, msgspec.Meta(ge=2, le=20)] | None = None
    audit: Literal["full", "quick", "none"] = "full"
    leaks: Literal["drop", "refuse"] = "drop"


class Evaluate(msgspec.Struct, frozen=True, tag_field="kind", tag="evaluate", forbid_unknown_fields=True):
    """`medserve evaluate`. package: digest of one that was uploaded or trained here."""

    data: Place
    package: Digest
    part: Literal["train", "val", "calibration", "test", "all"] = "all"


class Screen(
    msgspec.Struct, frozen=True, tag_field="kind", tag="screen", forbid_unknown_fields=True, omit_defaults=True
):
    """`medserve screen`. data: the library; actives: known ones, a path too. query: SMILES to be alike.

    packages: digests of packages that rank; target and seek: one for all of them, or one for each.
    """

    data: Place
    packages: Packages = []
    query: Annotated[list[Smiles], msgspec.Meta(max_length=1000)] = []
    actives: Place | None = None
    by: Literal["consensus", "model"] | None = None
    target: Annotated[list[Text], msgspec.Meta(max_length=8)] = []
    seek: Annotated[list[Literal["high", "low"]], msgspec.Meta(max_length=8)] = []
    column: Text | None = None
    name: Text | None = None
    label: Text | None = None
    top: Count | None = None
    diverse: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    pick: Literal["maxmin", "sphere"] | None = None
    explain: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None


class Admet(msgspec.Struct, frozen=True, tag_field="kind", tag="admet", forbid_unknown_fields=True, omit_defaults=True):
    """`medserve admet`. data: the molecules. packages: digests of packages beside the shipped models."""

    data: Place
    packages: Packages = []
    column: Text | None = None


Asked = Train | Evaluate | Screen | Admet
DELIVERED = (Screen, Admet)  # kinds whose folder of results is kept for a download
QUERY = "query.smi"  # beside `out`: a SMILES is never taken for the name of a file


def packages_of(asked: Asked) -> list[str]:
    """Digests of the packages that it needs."""
    if isinstance(asked, Evaluate):
        return [asked.package]
    return [] if isinstance(asked, Train) else list(asked.packages)


def data_of(asked: Asked) -> list[str]:
    """The paths that it reads, the data first."""
    more = asked.actives if isinstance(asked, Screen) else None
    return [asked.data, *([] if more is None else [more])]


def data_path(settings: Settings, tenant: str, said: str) -> Path:
    """The file or folder that is meant, with all links followed.

    Raises: Usage "jobs-closed": the operator has named no folder of data. NotFound "unknown-data": it is not there, or
        not below the tenant's folder; both in the same words.
    """
    if settings.data_root is None:
        raise Closed(
            "jobs-closed", "No jobs are taken here: there is no folder of data for them.",
            hint="Whoever runs the service sets MEDSERVE_DATA_ROOT; below it, a folder for each tenant.",
        )  # fmt: skip
    root, home = os.path.realpath(settings.data_root / tenant), os.path.realpath(settings.home)
    steps = Path(said).parts
    if "\0" not in said and not os.path.isabs(said) and ".." not in steps:
        found = os.path.realpath(os.path.join(root, said))
        inside = os.path.commonpath([root, found]) == root and os.path.commonpath([home, found]) != home
        if inside and os.path.exists(found):
            return Path(found)
    raise NotFound("data", "of this path", None, hint="Paths begin below the tenant's own folder of data.")


class Closed(Usage):
    status = 409


def command(asked: Asked, data: Sequence[Path], out: Path, packages: Sequence[Path], home: Path) -> list[str]:
    """Arguments of `medserve`. Values stand behind `=`, so that none is read as an option.

    Args: data, packages: where those of `data_of` and `packages_of` are.
    """
    if isinstance(asked, Evaluate):
        return ["evaluate", str(packages[0]), f"--data={data[0]}", f"--part={asked.part}", f"--home={home}", "--json"]
    if isinstance(asked, DELIVERED):
        return _of_molecules(asked, data, out, packages, home)
    words = ["train", str(data[0]), f"--out={out}", f"--home={home}", f"--seed={asked.seed}", f"--audit={asked.audit}",
             f"--leaks={asked.leaks}"]  # fmt: skip
    for name in ("name", "recipe", "epochs", "folds"):
        if (value := getattr(asked, name)) is not None:
            words.append(f"--{name}={value}")
    return [*words, "--json"]


def _of_molecules(
    asked: Screen | Admet, data: Sequence[Path], out: Path, packages: Sequence[Path], home: Path
) -> list[str]:
    words = ["admet", str(data[0])] if isinstance(asked, Admet) else ["screen", f"--library={data[0]}"]
    words += [f"--out={out}", f"--home={home}", *(f"--model={package}" for package in packages)]
    words += [f"--actives={path}" for path in data[1:]]
    if isinstance(asked, Screen):
        words += [f"--query={out.with_name(QUERY)}"] if asked.query else []
        words += [f"--target={label}" for label in asked.target] + [f"--seek={way}" for way in asked.seek]
    for name in ("by", "column", "name", "label", "top", "diverse", "pick", "explain"):
        if (value := getattr(asked, name, None)) is not None:
            words.append(f"--{name}={value}")
    return [*words, "--json"]
