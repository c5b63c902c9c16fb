"""A folder per class, with or without a folder per part above: `train/pneumonia/*.png`, or `pneumonia/*.png`.

Files deeper than their class folder belong to that class. A folder without any class folder is listed without labels:
`medserve inspect` shows it, training asks for labels.
"""

from pathlib import Path

from medserve.data.cohort import Item, Refused
from medserve.data.declaration import Dataset
from medserve.data.forms.files import relative, split_images
from medserve.data.forms.listing import Listing, class_task, order_classes, part_of, warn_positive
from medserve.errors import BadData
from medserve.types import Part


def class_folders(images: list[Path], root: Path) -> int:
    """How many folders below `root`, part folders left out, hold images."""
    return len({_place(path, root)[1] for path in images} - {None})


def list_folders(root: Path, files: list[Path], declared: Dataset | None, key: bytes, *, read: int = 0) -> Listing:
    """
    Args:
        files: to be read or refused.
        read: files of the data set that were read already (its declaration).
    """
    images, refused = split_images(files, root)
    places = [_place(path, root) for path in images]
    target = declared.target if declared else None
    found = order_classes(name for _, name in places if name is not None)
    classes = tuple(target.classes) if target and target.classes else found
    if not set(found) <= set(classes):
        raise BadData(
            "declaration-value",
            f"{root.name}: the folders are {', '.join(found)}; the declared classes are {', '.join(classes)}.",
            hint="`classes` names every class folder.",
        )
    kind = target.kind if target and target.kind else None
    if kind in ("number", "multilabel"):
        raise BadData(
            "declaration-value",
            f"{root.name}: a {kind} target cannot come from class folders.",
            hint="Write a table with one row per file.",
        )
    index = {name: k for k, name in enumerate(classes)}
    items = []
    for path, (part, name) in zip(images, places, strict=True):
        file = relative(path, root)
        if name is None and classes:
            refused.append(Refused(file, "label-missing", "The file stands outside the class folders."))
            continue
        items.append(Item(file, path, None, None if name is None else index[name], None, part))
    warnings = warn_positive(classes) if target is None else []
    return Listing(
        path=root,
        name=(declared.name if declared else None) or root.name,
        form="folder-per-class" if classes else "files",
        task=kind or class_task(classes),
        labels=classes,
        items=items,
        files=len(files) + read,
        refused=refused,
        source=(declared.described if declared else {}) | ({"warnings": warnings} if warnings else {}),
        kind="volume" if declared and declared.input and declared.input.kind == "volume" else "image",
        laterality_safe=bool(declared and declared.laterality_safe),
        declaration=declared,
        key=key,
    )


def _place(path: Path, root: Path) -> tuple[Part | None, str | None]:
    """(official part, class) of a file by the folders above it."""
    above = path.relative_to(root).parts[:-1]
    part = part_of(above[0]) if above else None
    rest = above[1:] if part else above
    return part, rest[0] if rest else None
