"""One case of a data set as a file, or several as bodies of requests, so that there is something to send."""

import base64
import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.data.cohort import Item
from medserve.data.forms.listing import Listing, is_number
from medserve.data.forms.npz import NpzFile
from medserve.data.readers import HEAD_BYTES, sniff
from medserve.errors import BadData
from medserve.road.collect import list_data
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.types import Wave


def write_sample(data: Path, folder: Path, settings: Settings) -> Path:
    """Copy one case, of the official test part where there is one; a row of an array file becomes a PNG.

    Raises: BadData "nothing-readable".
    """
    from medserve.data.readers import read

    items = list_data(data, settings).items
    ordered = [item for item in items if item.part == "test"] or items
    for item in ordered:
        if item.row is not None:
            path = folder / "sample.png"
            write_bytes(path, _png(item.file, item.row))
            return path
        with contextlib.suppress(Exception):
            content = item.file.read_bytes()
            if len(read(content, name=item.file.name)) == 1:
                path = folder / f"sample{item.file.suffix.lower() or '.dcm'}"
                write_bytes(path, content)
                return path
    raise BadData("nothing-readable", f"{data} holds no single image.", hint="See `medserve inspect`.")


def write_case(data: Path, folder: Path, settings: Settings, *, name: str = "case.json") -> Path:
    """One case of a data set of records as the JSON body of a request, its values as the fields parse them.

    Raises: BadData "nothing-readable".
    """
    listing = list_data(data, settings)
    if listing.raw is None or not listing.items:
        raise BadData("nothing-readable", f"{data} holds no record.", hint="See `medserve inspect`.")
    path = folder / name
    write_bytes(path, msgspec.json.format(_record(listing, listing.items[0]), indent=1))
    return path


def bodies(listing: Listing, ids: Collection[str], most: int) -> list[tuple[bytes, str]]:
    """Cases as the bodies of requests, with their media types: a record as JSON, a picture as its file, a row of an
    array file as PNG.

    Args:
        ids: of the cases that may be sent; the first `most` are.
    """
    found = []
    for item in [item for item in listing.items if item.id in ids][:most]:
        if listing.raw is not None:
            found.append((_record(listing, item), "application/json"))
        elif item.row is not None:
            found.append((_png(item.file, item.row), "image/png"))
        else:
            content = item.file.read_bytes()
            found.append((content, sniff(content[:HEAD_BYTES]) or "application/dicom"))
    return found


def _record(listing: Listing, item: Item) -> bytes:
    assert listing.raw is not None
    raw = listing.raw(item)
    inputs = {key: _sendable(value, listing.inputs[key].kind) for key, value in raw.items() if value is not None}
    return msgspec.json.encode({"inputs": inputs})


def _sendable(value: Any, kind: str) -> Any:
    """A raw value of a data set as JSON carries it: a file's bytes in base64, a waveform as its samples."""
    if kind == "number" and is_number(str(value)):
        return float(value)
    if isinstance(value, Path):
        return {"data": base64.b64encode(value.read_bytes()).decode()}
    if isinstance(value, Wave):
        rows = [[None if np.isnan(v) else float(v) for v in row] for row in value.values]
        return {"leads": value.leads, "hz": value.hz, "unit": value.unit, "values": rows}
    return value


def _png(file: Path, row: tuple[str, int]) -> bytes:
    from PIL import Image

    member, index = row
    with NpzFile(file) as arrays:
        values = np.asarray(next(v for _, v in arrays.rows(member, [index])))
    out = io.BytesIO()
    Image.fromarray(np.squeeze(values).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()
