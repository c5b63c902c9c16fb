"""Reading and preparing 512 x 512 16-bit DICOM files against a bare pydicom-decode-and-resize loop, in one process.

    python benchmarks/dicom_reading.py --count 200 --repeats 7

Ours is the whole work that preparing a data set does on a file: read, sha256, decode, Hounsfield units, window, resize
to 224 x 224, thumbnail, perceptual hash, digest of the values, pseudonym. The bare loop is `dcmread`, `pixel_array`, a
float image and Pillow's bilinear resize. The two alternate file by file within a repeat, so both see the same machine.
Prints one JSON object; `ratio` is ours over bare in files a second, the median over repeats.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file

from medserve.data._records import Job, file_records
from medserve.data.transforms import default_transforms

SIZE = 512


def write_files(folder: Path, count: int, seed: int = 7) -> list[Path]:
    """CT-like files: the full header of a real CT slice, smooth tissue plus noise, native 16 bit."""
    rng = np.random.default_rng(seed)
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.Rows = dataset.Columns = SIZE
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.pop("DataSetTrailingPadding", None)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    body = (np.hypot(x, y) < 0.4) * 1000
    paths = []
    for index in range(count):
        pixels = body + 60 * np.sin(9 * x + index) + rng.normal(0, 20, (SIZE, SIZE))
        dataset.PixelData = np.clip(pixels, 0, 4095).astype("<u2").tobytes()
        dataset.PatientID = f"P{index}"
        paths.append(folder / f"{index:05d}.dcm")
        dataset.save_as(paths[-1])
    return paths


def bare(path: Path) -> np.ndarray:
    values = pydicom.dcmread(path).pixel_array.astype(np.float32)
    return np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="files")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    job = Job(
        default_transforms(shape=(1, 224, 224), colour=False, unit="HU"), (1, 224, 224), False, 64 * 10**6, b"k" * 32
    )
    clock = time.perf_counter
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), arguments.count)
        for path in paths[:5]:
            bare(path)
            list(file_records(path, job))
        for _ in range(arguments.repeats):
            spent = [0.0, 0.0]
            for path in paths:
                start = clock()
                bare(path)
                middle = clock()
                list(file_records(path, job))
                end = clock()
                spent[0] += middle - start
                spent[1] += end - middle
            ratios.append(spent[0] / spent[1])
            rates.append((arguments.count / spent[0], arguments.count / spent[1]))
    print(
        json.dumps(
            {
                "files": arguments.count,
                "repeats": arguments.repeats,
                "bare_files_per_s": round(statistics.median(r[0] for r in rates), 1),
                "ours_files_per_s": round(statistics.median(r[1] for r in rates), 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
            }
        )
    )


if __name__ == "__main__":
    main()
