"""One case of a data set as a file, so that there is something to send."""

import contextlib
from pathlib import Path

import msgspec
import numpy as np

from medserve.data.forms.npz import NpzFile
from medserve.errors import BadData
from medserve.road.collect import list_data
from medserve.settings import Settings
from medserve.store.files import write_bytes


def write_sample(data: Path, folder: Path, settings: Settings) -> Path:
    """Copy one case, of the official test part where there is one; a row of an array file becomes a PNG.

    Raises: BadData "nothing-readable".
    """
    from medserve.data.readers import read

    items = list_data(data, settings).items
    ordered = [item for item in items if item.part == "test"] or items
    for item in ordered:
        if item.row is not None:
            return _from_row(item.file, item.row, folder / "sample.png")
        with contextlib.suppress(Exception):
            content = item.file.read_bytes()
            if len(read(content, name=item.file.name)) == 1:
                path = folder / f"sample{item.file.suffix.lower() or '.dcm'}"
                write_bytes(path, content)
                return path
    raise BadData("nothing-readable", f"{data} holds no single image.", hint="See `medserve inspect`.")


def write_case(data: Path, folder: Path, settings: Settings) -> Path:
    """One case of a table as the JSON body of a request; its values are those of the data set, ready to be parsed.

    Raises: BadData "nothing-readable".
    """
    listing = list_data(data, settings)
    if listing.raw is None or not listing.items:
        raise BadData("nothing-readable", f"{data} holds no record.", hint="See `medserve inspect`.")
    raw = listing.raw(listing.items[0])
    numbers = {name for name, said in listing.inputs.items() if said.kind == "number"}
    inputs = {name: float(value) if name in numbers else value for name, value in raw.items() if value is not None}
    path = folder / "case.json"
    write_bytes(path, msgspec.json.format(msgspec.json.encode({"inputs": inputs}), indent=1))
    return path


def _from_row(file: Path, row: tuple[str, int], path: Path) -> Path:
    import io

    from PIL import Image

    member, index = row
    with NpzFile(file) as arrays:
        values = np.asarray(next(v for _, v in arrays.rows(member, [index])))
    out = io.BytesIO()
    Image.fromarray(np.squeeze(values).astype(np.uint8)).save(out, "PNG")
    write_bytes(path, out.getvalue())
    return path
