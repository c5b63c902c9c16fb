"""The listing of an `.npz`: one item a row, official parts honoured.

Known names: `train_images` + `train_labels` (also val, test), `x_train` + `y_train`, `images` + `labels`, `X` + `y`;
beside them optionally `train_patients`, `patients`. Images are (N, H, W) or (N, H, W, 1) grey, (N, H, W, 3) colour, or
volumes (N, D, H, W); labels are (N,) or (N, 1) classes, (N, K) zeros and ones, or decimal numbers.
"""

from pathlib import Path

import numpy as np

from medserve.data.cohort import Item, Label
from medserve.data.declaration import Dataset
from medserve.data.forms.known import known_arrays
from medserve.data.forms.listing import PART_NAMES, Listing, class_task, order_classes, part_of, warn_positive
from medserve.data.forms.npz import Header, NpzFile
from medserve.data.pseudonym import pseudonym
from medserve.errors import BadData
from medserve.types import Array, Part

MOST_CLASSES = 200


def list_npz(path: Path, declared: Dataset | None, key: bytes) -> Listing:
    """Raises: BadData "npz-..." from the archive; "npz-names" no images; "npz-shapes" images and labels do not fit."""
    target = declared.target if declared else None
    with NpzFile(path) as arrays:
        groups = _groups(arrays, path)
        kinds = {layout(arrays[images]) for images, _, _, _ in groups}
        if len(kinds) != 1 or None in kinds:
            shapes = "; ".join(f"{images} {arrays[images].shape}" for images, *_ in groups)
            raise BadData(
                "npz-shapes",
                f"{path.name}: images are neither all (N, H, W), nor (N, H, W, 3), nor (N, D, H, W): {shapes}.",
                hint="Save one array of images of one shape per part.",
            )
        labels = [None if labels is None else _labels(arrays, images, labels, path) for images, labels, _, _ in groups]
        patients = [None if p is None else arrays.small(p).reshape(-1) for _, _, p, _ in groups]
        for (images, _, name, _), people in zip(groups, patients, strict=True):
            if people is not None and len(people) != arrays[images].shape[0]:
                raise BadData("npz-shapes", f"{path.name}: {name} and {images} differ in length.")
        counts = [arrays[images].shape[0] for images, _, _, _ in groups]
    known = known_arrays(path)
    given = [a for a in labels if a is not None]
    task, classes, unit = _task(given, path, declared, known.classes if known else None)
    if known and target is None and known.classes and len(classes) == len(known.classes) and known.task == "ordinal":
        task = "ordinal"
    items, by_index = [], known is not None or target is not None
    for (images, _, _, part), column, people, count in zip(groups, labels, patients, counts, strict=True):
        for row in range(count):
            person = None if people is None else pseudonym(key, str(people[row]))
            label = None if column is None else _label(column[row], task, classes, by_index)
            items.append(Item(f"{images}/{row}", path, (images, row), label, person, part))
    described = declared.described if declared else (known.source if known else {})
    warnings = [] if known or target else warn_positive(classes)
    return Listing(
        path=path,
        name=(declared.name if declared else None) or path.stem,
        form="npz",
        task=task,
        labels=classes,
        items=items,
        files=1,
        source=described | ({"warnings": warnings} if warnings else {}),
        independent=not any(p is not None for p in patients),
        kind="volume" if kinds == {"volume"} else "image",
        unit=unit,
        declaration=declared,
        key=key,
    )


def layout(header: Header) -> str | None:
    """ "grey", "colour" or "volume" of an array of images, or None."""
    shape = header.shape
    if header.dtype.kind not in "buif" or 0 in shape:
        return None
    if len(shape) == 3:
        return "grey"
    if len(shape) == 4:
        return "grey" if shape[-1] == 1 else "colour" if shape[-1] == 3 else "volume"
    return "volume" if len(shape) == 5 and 1 in (shape[1], shape[4]) else None


def _groups(arrays: NpzFile, path: Path) -> list[tuple[str, str | None, str | None, Part | None]]:
    """(images, labels, patients, part) by name, in the order train, val, calibration, test."""
    names = {name.lower(): name for name in arrays}

    def pick(*wanted: str) -> str | None:
        return next((names[w] for w in wanted if w in names), None)

    found: dict[str, tuple[str, str | None, str | None, Part | None]] = {}
    for word in PART_NAMES:
        images = pick(f"{word}_images", f"x_{word}", f"{word}_x", f"images_{word}")
        if images is not None:
            labels = pick(f"{word}_labels", f"y_{word}", f"{word}_y", f"labels_{word}")
            found[images] = (images, labels, pick(f"{word}_patients", f"patients_{word}"), part_of(word))
    if not found:
        images = pick("images", "x", "data", "image")
        if images is None:
            raise BadData(
                "npz-names",
                f"{path.name}: no array of images among {', '.join(sorted(arrays)) or 'its members'}.",
                hint="Name them train_images and train_labels (val_..., test_...), or images and labels.",
            )
        found[images] = (images, pick("labels", "y", "label", "targets"), pick("patients", "groups"), None)
    return sorted(found.values(), key=lambda g: list(PART_NAMES.values()).index(g[3]) if g[3] else -1)


def _labels(arrays: NpzFile, images: str, labels: str, path: Path) -> Array:
    column, count = arrays.small(labels), arrays[images].shape[0]
    if column.shape[:1] != (count,) or column.ndim > 2 or 0 in column.shape:
        raise BadData(
            "npz-shapes",
            f"{path.name}: {images} holds {count} images, {labels} is of shape {column.shape}.",
            hint="One row of labels per image.",
        )
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def _task(
    given: list[Array], path: Path, declared: Dataset | None, known: tuple[str, ...] | None
) -> tuple[str, tuple[str, ...], str | None]:
    """(task, labels, unit) from all parts' labels together, so that a class absent from one part keeps its index."""
    target = declared.target if declared else None
    kind, classes, unit = (target.kind, target.classes, target.unit) if target else (None, None, None)
    if not given:
        return kind or "multiclass", tuple(classes or ()), unit
    if len({a.ndim for a in given}) != 1 or len({a.shape[1:] for a in given}) != 1:
        raise BadData("npz-shapes", f"{path.name}: the parts have labels of different shapes.")
    wide = given[0].ndim == 2
    if wide or kind == "multilabel":
        width = given[0].shape[1] if wide else 1
        if any(a.dtype.kind in "US" or not np.isin(a[~np.isnan(a.astype(float))], (0, 1)).all() for a in given):
            raise BadData("npz-shapes", f"{path.name}: labels of several columns hold 0 and 1 only.")
        names = tuple(classes or (known if known and len(known) == width else [str(k) for k in range(width)]))
        if len(names) != width:
            raise BadData("declaration-value", f"{path.name}: {len(names)} classes declared, {width} label columns.")
        return "multilabel", names, None
    values = np.unique(np.concatenate([np.unique(a.astype(str) if a.dtype.kind in "US" else a) for a in given]))
    decimal = values.dtype.kind == "f" and not bool(np.all(np.isnan(values) | (values == np.floor(values))))
    if kind == "number" or (kind is None and classes is None and (decimal or len(values) > MOST_CLASSES)):
        if values.dtype.kind in "US":
            raise BadData("declaration-value", f"{path.name}: labels are text, not numbers.")
        column = target.column if target and isinstance(target.column, str) else "value"
        return "number", (column,), unit
    found = order_classes(_name(v) for v in values if not _missing(v))
    if classes is None and known is not None and set(found) <= {str(k) for k in range(len(known))}:
        classes = list(known)
    names = tuple(classes) if classes else found
    if classes and not set(found) <= set(names) and not set(found) <= {str(k) for k in range(len(names))}:
        raise BadData(
            "declaration-value",
            f"{path.name}: {len(names)} classes declared, {len(found)} different labels found.",
            hint="`classes` names every label: index 0 first.",
        )
    return kind or class_task(names), names, None


def _label(value: Array, task: str, classes: tuple[str, ...], by_index: bool) -> Label:
    if task == "multilabel":
        return tuple(float(v) for v in np.atleast_1d(value))
    if _missing(value):
        return None
    if task == "number":
        return float(value)
    name = _name(value)
    if name in classes:
        return classes.index(name)
    assert by_index
    return int(name)


def _name(value: object) -> str:
    if isinstance(value, np.floating | float):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, np.bool_):
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _missing(value: object) -> bool:
    return isinstance(value, np.floating | float) and bool(np.isnan(value))
