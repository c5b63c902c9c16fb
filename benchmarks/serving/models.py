"""The models under test, made once by the product's own road: a table, and DenseNet-121 at 224 x 224.

    table = make_table(work, settings)        # 569 breast biopsies, 30 numbers a row
    chest = make_chest(work, settings)        # generated films of 512 x 512, DenseNet-121

Every server runs the very same `graph.onnx`. The films' model is trained for real, if shortly: a reduced precision has
to pass the accuracy gate on its calibration part, and that means nothing on random weights.
"""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from medserve.data.biopsies import write_biopsies
from medserve.data.phantoms import CLASSES, Phantom, dicom_bytes, draw_phantoms
from medserve.models.signing import Trust
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

SIDE = 512
PARTS = {"train": 256, "val": 48, "calibration": 400, "test": 32}  # films; half a percent of the gate are two of 400
EPOCHS = 14
PLAIN = 900  # of 4095 stored levels: how far a finding stands out, so that a short training learns it
BODIES = 16  # different ones in turn, so that nothing can be remembered


@dataclass(frozen=True)
class Made:
    """A package, and what it was trained on."""

    folder: Path
    data: Path

    @property
    def graph(self) -> Path:
        return self.folder / "graph.onnx"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def open(self, settings: Settings, *, threads: int, tuned: bool = False) -> LoadedModel:
        found = settings.home / "tuned" if tuned else None
        return LoadedModel.open(self.folder, Trust.load(settings), threads=threads, tuned=found)


def make_table(work: Path, settings: Settings) -> Made:
    data, folder = work / "biopsies", work / "table"
    if not folder.exists():
        options = Options(recipe="linear", keep="recipe", audit="none", name="table", seed=1)
        train_package(write_biopsies(data), folder, settings=settings, options=options)
    return Made(folder, data)


def make_chest(work: Path, settings: Settings) -> Made:
    """Takes some ten minutes the first time."""
    data, folder = work / "films", work / "chest"
    if not (data / "dataset.yaml").exists():
        _write_films(data)
    if not folder.exists():
        options = Options(recipe="densenet121", keep="recipe", audit="none", name="chest", epochs=EPOCHS, seed=1)
        train_package(data, folder, settings=settings, options=options)
    return Made(folder, data)


def _write_films(folder: Path) -> None:
    (folder / "films").mkdir(parents=True, exist_ok=True)
    rows, told = [], [part for part, count in PARTS.items() for _ in range(count)]
    for at, (part, film) in enumerate(zip(told, _one_each(len(told)), strict=True)):
        name = f"films/{at:04d}.dcm"
        (folder / name).write_bytes(dicom_bytes(_plainer(film), f"2.25.{10**30 + at}"))
        rows.append([name, film.patient, part, CLASSES[film.label]])
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "patient", "part", "label"], *rows])
    (folder / "dataset.yaml").write_text(
        "name: films\nsource: generated films, not patients\nlicence: Apache-2.0\ntable: labels.csv\n"
        "patient: patient\nsplit: part\ninputs:\n  film: {kind: image, column: file}\n"
        f"target: {{column: label, kind: binary, classes: [{CLASSES[0]}, {CLASSES[1]}]}}\n"
    )


def _plainer(film: Phantom) -> Phantom:
    stored = film.stored.astype(np.int32) + PLAIN * film.lesion
    return replace(film, stored=np.clip(stored, 0, 4095).astype(np.uint16))


def _one_each(count: int):  # type: ignore[no-untyped-def]
    """One film a patient, so that parts can be filled in order."""
    seen: set[str] = set()
    for film in draw_phantoms(4 * count, size=SIDE, seed=21):
        if film.patient not in seen and len(seen) < count:
            seen.add(film.patient)
            yield film
        if len(seen) == count:
            return


# -- what is sent ----------------------------------------------------------------------------------------------------


def rows(made: Made) -> list[dict[str, float]]:
    """Real rows of the table, by name."""
    with open(made.data / "biopsies.csv", newline="") as file:
        found = [next(reader) for reader in [csv.DictReader(file)] for _ in range(BODIES)]
    return [{name: float(value) for name, value in one.items() if name != "diagnosis"} for one in found]


def films() -> list[tuple[bytes, bytes]]:
    """PNG and DICOM of films that no training saw; noisy, as films are."""
    found = []
    for drawn in draw_phantoms(BODIES, size=SIDE, seed=99):
        film = _plainer(drawn)
        grey, out = np.round(film.stored * (255 / 4095)).astype(np.uint8), io.BytesIO()
        Image.fromarray(grey).save(out, "PNG")
        found.append((out.getvalue(), dicom_bytes(film, f"2.25.{99_000 + film.image}")))
    return found


def json_body(row: dict[str, float]) -> bytes:
    return json.dumps({"inputs": row}).encode()
