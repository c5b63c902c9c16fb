"""What a job may be asked to do, and the command line that does it.

asked = msgspec.json.decode(body, type=Asked)            # Train | Evaluate
data = data_path(settings, "cardiology", asked.data)     # below MEDSERVE_DATA_ROOT/cardiology, nowhere else
command(asked, data, out, package, home)                 # ["train", ".../chest.npz", "--out=...", ...]
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from medserve.errors import NotFound, Usage
from medserve.settings import Settings

Word = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Place = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


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
    package: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
    part: Literal["train", "val", "calibration", "test", "all"] = "all"


Asked = Train | Evaluate


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


def command(asked: Asked, data: Path, out: Path, package: Path | None, home: Path) -> list[str]:
    """Arguments of `medserve`. Values stand behind `=`, so that none is read as an option."""
    if isinstance(asked, Evaluate):
        return ["evaluate", str(package), f"--data={data}", f"--part={asked.part}", f"--home={home}", "--json"]
    words = ["train", str(data), f"--out={out}", f"--home={home}", f"--seed={asked.seed}", f"--audit={asked.audit}",
             f"--leaks={asked.leaks}"]  # fmt: skip
    for name in ("name", "recipe", "epochs", "folds"):
        if (value := getattr(asked, name)) is not None:
            words.append(f"--{name}={value}")
    return [*words, "--json"]
