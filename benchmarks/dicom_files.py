"""Every DICOM file at hand: are stored values equal to those decoded outside this code, and the rest refused?

    python benchmarks/dicom_files.py                      # the files that pydicom ships
    python benchmarks/dicom_files.py --shared PATH        # and PATH/data/dicom_samples/*.zip

The reference decodes with pydicom's own plugins and, for JPEG Lossless and Extended, imagecodecs frame by frame. Prints
one JSON object; exits 1 when a file that the codecs decode is refused or differs, or anything but a Refusal is raised.
"""

import argparse
import io
import json
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array

from medserve.data.readers import iter_pictures, read, stored_values
from medserve.errors import Refusal

TWINS = ("MR_small.dcm",) + tuple(
    f"MR_small_{kind}.dcm"
    for kind in ("RLE", "bigendian", "expb", "implicit", "padded", "jp2klossless", "jpeg_ls_lossless")
)
JPEG_BY_IMAGECODECS = {
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg_decode,
}


def bundled() -> Iterator[tuple[str, bytes]]:
    """Every file in pydicom's installed data folder."""
    root = Path(pydicom.__file__).parent / "data"
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")):
        yield str(path.relative_to(root)), path.read_bytes()


def samples(shared: Path) -> Iterator[tuple[str, bytes]]:
    for archive in sorted((shared / "data" / "dicom_samples").glob("*.zip")):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield f"{archive.stem}/{info.filename}", zipped.read(info)


def reference(data: bytes) -> list[np.ndarray] | None:
    """Frames decoded outside our code; None when the codecs cannot."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if syntax in JPEG_BY_IMAGECODECS:
            decode = JPEG_BY_IMAGECODECS[syntax]
            return [decode(f) for f in generate_frames(dataset.PixelData, number_of_frames=frames)]
        values = pixel_array(dataset)
        samples_per_pixel = int(dataset.get("SamplesPerPixel", 1))
        flat = values.ndim == (2 if samples_per_pixel == 1 else 3)
        return [values] if flat else list(values)
    except Exception:
        return None


def ours(data: bytes) -> list[np.ndarray] | str:
    """Stored values, or the refusal's code."""
    try:
        read(data, max_pixels=10**9)
        return list(stored_values(data, max_pixels=10**9))
    except Refusal as refusal:
        return refusal.code


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(x.shape == y.shape and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def run(files: Iterator[tuple[str, bytes]]) -> dict:
    """Compare every file; `failures` is empty when all is well."""
    refused: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    failures, extra, twins = [], [], {}
    for name, data in files:
        counts["files"] += 1
        expected = reference(data)
        try:
            found = ours(data)
        except Exception as error:
            failures.append({"file": name, "raised": type(error).__name__})
            continue
        if isinstance(found, str):
            refused.setdefault(found, []).append(name)
            if expected is not None:
                failures.append({"file": name, "refused": found})
            continue
        counts["read"] += 1
        if expected is None:
            extra.append(name)
        elif equal(expected, found):
            counts["equal"] += 1
        else:
            failures.append({"file": name, "differs": True})
        if Path(name).name in TWINS:
            twins.setdefault(Path(name).name, next(iter_pictures(data)).values)
    same = [n for n in twins if np.array_equal(twins[n], twins[TWINS[0]])] if TWINS[0] in twins else []
    return {
        **counts,
        "refused": sum(map(len, refused.values())),
        "refused_by_code": {code: sorted(names) for code, names in sorted(refused.items())},
        "read_where_reference_fails": extra,
        "twins_identical": sorted(set(same) - {TWINS[0]}),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder that holds data/dicom_samples")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sets = {"pydicom": run(bundled())}
    if arguments.shared:
        sets["dicom_samples"] = run(samples(arguments.shared))
    good = all(not found["failures"] and len(found["twins_identical"]) == 7 for found in sets.values())
    good = good and sets["pydicom"]["equal"] >= 59
    print(json.dumps({"passed": good, **sets}, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
