"""Generated chest-like phantoms with a planted soft lesion in the positives: a data set for demos, tests and figures.

    make_phantoms(Path("phantoms"), n=600, size=64, seed=0)     # DICOM files, labels.csv, dataset.yaml

They are drawn from formulas: body outline, lung fields, ribs, a heart, vessels, film noise. A positive has one soft
round opacity inside a lung; negatives have the same vessels and noise, so brightness alone does not tell them apart.
Every file and the declaration say that no patient was imaged. Same seed, same pixels.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medserve.progress import SILENT, Progress
from medserve.store.files import cannot_write, write_bytes
from medserve.types import Array

SOURCE = "generated phantoms, not patients"
CLASSES = ("clear", "lesion")
PREVALENCE = 0.45
STORED_BITS = 12
_UID_ROOT = "2.25."  # UIDs derived from UUIDs, PS3.5 B.2


@dataclass(frozen=True, slots=True)
class Phantom:
    """One drawn film.

    stored: (size, size) uint16, 12 bits used.
    lesion: (size, size) bool, where the planted opacity stands at more than half of its height; empty in negatives.
    """

    patient: str
    image: int
    stored: Array
    label: int
    lesion: Array
    sex: str
    age: int
    site: str


def draw_phantoms(n: int, *, size: int = 64, seed: int = 0) -> Iterator[Phantom]:
    """Yield `n` phantoms of patients with one to three films each; one film in memory at a time."""
    made, person = 0, 0
    while made < n:
        rng = np.random.default_rng((seed, person))
        label = int(rng.random() < PREVALENCE)
        sex, age = ("F", "M")[int(rng.random() < 0.5)], int(rng.integers(18, 90))
        site = ("north", "south")[int(rng.random() < 0.4)]
        anatomy = rng.normal(size=8)
        for image in range(min(int(rng.integers(1, 4)), n - made)):
            stored, lesion = _film(rng, size, anatomy, label, site)
            yield Phantom(f"PHANTOM-{person:05d}", image, stored, label, lesion, sex, age, site)
            made += 1
        person += 1


def make_phantoms(folder: Path, n: int = 600, size: int = 64, seed: int = 0, *, progress: Progress = SILENT) -> Path:
    """Write `n` phantoms as DICOM files below `folder`, with `labels.csv` and `dataset.yaml`.

    Raises: Fault "disk-full", "file-unwritable".
    """
    from pydicom.uid import generate_uid

    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "patient", "label", "sex", "age", "site"])
    for p in progress.track(draw_phantoms(n, size=size, seed=seed), "Drawing phantoms", n):
        name = f"images/{p.patient.lower()}-{p.image}.dcm"
        uid = generate_uid(_UID_ROOT, [str(seed), str(size), p.patient, str(p.image)])
        try:
            (folder / name).write_bytes(dicom_bytes(p, uid))
        except OSError as error:
            raise cannot_write(folder / name, error) from error
        rows.writerow([name, p.patient, CLASSES[p.label], p.sex, p.age, p.site])
    write_bytes(folder / "labels.csv", table.getvalue().encode())
    write_bytes(folder / "dataset.yaml", declaration(n, size, seed).encode())
    return folder


def declaration(n: int, size: int, seed: int) -> str:
    """The `dataset.yaml` of a set of phantoms."""
    return f"""name: phantoms
source: {SOURCE}
synthetic: {n} chest-like phantoms of {size} x {size} drawn by formula with seed {seed}; no patient was imaged
licence: Apache-2.0
table: labels.csv
patient: patient
inputs:
  film: {{kind: image, column: file}}
target: {{column: label, kind: binary, classes: [{CLASSES[0]}, {CLASSES[1]}]}}
subgroups: [sex, age, site]
public: true
"""


def dicom_bytes(phantom: Phantom, uid: str) -> bytes:
    """A Computed Radiography image (PS3.3 A.2) that says what it is."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, uid
    ds.StudyInstanceUID = generate_uid(_UID_ROOT, [uid, "study"])
    ds.SeriesInstanceUID = generate_uid(_UID_ROOT, [uid, "series"])
    ds.PatientName, ds.PatientID, ds.PatientSex = "Phantom^Generated", phantom.patient, phantom.sex
    ds.PatientBirthDate = ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CR", "CHEST", "PA", ["L", "F"]
    ds.Manufacturer, ds.ImageComments = "MedServe phantoms", SOURCE
    ds.SeriesNumber, ds.InstanceNumber = "1", str(phantom.image + 1)
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = phantom.stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, STORED_BITS, STORED_BITS - 1, 0
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.PixelData = phantom.stored.astype("<u2").tobytes()
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _film(rng: np.random.Generator, size: int, anatomy: Array, label: int, site: str) -> tuple[Array, Array]:
    """(stored, lesion mask). Coordinates run over [-1, 1]; `anatomy` is the patient's, the rest is the exposure's."""
    shift = rng.normal(0, 0.03, 2)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j] + shift[:, None, None]
    a = anatomy
    body = _edge(1 - (x / (0.92 + 0.04 * a[0])) ** 2 - (np.clip(y + 0.4, None, 0) / 0.75) ** 2, 0.12)
    lungs = np.zeros_like(x)
    for side in (-1, 1):
        cx, cy = side * (0.42 + 0.02 * a[1]), -0.08 + 0.03 * a[2]
        rx, ry = 0.29 + 0.02 * a[3], 0.62 + 0.04 * a[4]
        lungs = np.maximum(lungs, _edge(1 - ((x - cx + 0.1 * side * y) / rx) ** 2 - ((y - cy) / ry) ** 2, 0.25))
    heart = _edge(1 - ((x - 0.14) / (0.3 + 0.03 * a[5])) ** 2 - ((y - 0.35) / 0.33) ** 2, 0.3)
    spine = np.exp(-((x / 0.12) ** 2))
    ribs = np.cos((y + 0.35 * np.abs(x) ** 1.5) * (19 + a[6]) + a[7]) ** 8 * (np.abs(x) > 0.12)
    film = body * (0.62 - 0.4 * lungs + 0.25 * heart * (1 - 0.3 * lungs) + 0.12 * spine + 0.06 * ribs)
    film += lungs * (0.055 * _texture(rng, size, 1.6) + _vessels(rng, x, y))
    opacity = np.zeros_like(film)
    if label:
        opacity = _lesion(rng, x, y, lungs)
        film = film + opacity
    gain = (1.0, 0.93)[site == "south"] * (1 + 0.05 * rng.normal())
    film = gain * film + 0.03 * rng.normal() + 0.03 * _texture(rng, size, 2.0) + 0.022 * rng.normal(size=film.shape)
    stored = np.clip(np.round((0.1 + 0.8 * film) * (2**STORED_BITS - 1)), 0, 2**STORED_BITS - 1).astype(np.uint16)
    return stored, opacity > 0.5 * opacity.max() if label else np.zeros(film.shape, bool)


def _lesion(rng: np.random.Generator, x: Array, y: Array, lungs: Array) -> Array:
    """A soft round opacity, its centre well inside a lung."""
    inside = np.flatnonzero(lungs > 0.9)
    at = int(inside[rng.integers(len(inside))]) if len(inside) else lungs.size // 2
    radius, height = rng.uniform(0.17, 0.26), rng.uniform(0.34, 0.5)
    tilt, stretch = rng.uniform(0, np.pi), rng.uniform(0.75, 1.3)
    u = (x - x.flat[at]) * np.cos(tilt) + (y - y.flat[at]) * np.sin(tilt)
    v = (y - y.flat[at]) * np.cos(tilt) - (x - x.flat[at]) * np.sin(tilt)
    return height * np.exp(-((((u / stretch) ** 2 + (v * stretch) ** 2) / radius**2) ** 1.5))


def _vessels(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Bright streaks that fan out from the middle: as bright as a lesion, but long."""
    total = np.zeros_like(x)
    for _ in range(int(rng.integers(4, 9))):
        angle, bend, width = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.3), rng.uniform(0.02, 0.045)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        total += rng.uniform(0.04, 0.11) * np.exp(-(((v - bend * u**2) / width) ** 2)) * (u > 0.1) * (u < 0.8)
    return total


def _texture(rng: np.random.Generator, size: int, power: float) -> Array:
    """Noise of unit variance whose spectrum falls with the frequency to `power`, as tissue's does."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    shape = 1.0 / np.maximum(f, 1.0) ** power
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) * shape, s=(size, size))
    return (noise - noise.mean()) / noise.std()


def _edge(level: Array, soft: float) -> Array:
    """1 where `level` is positive, 0 where negative, smooth over `soft`."""
    return 1.0 / (1.0 + np.exp(-np.clip(level / soft * 4, -30, 30)))
