"""Cohorts for tests, made without files: labels, patients, parts and pictures as asked."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medserve.data.cohort import Case, Cohort, Label, Refused, Shelf
from medserve.data.duplicates import perceptual_hash
from medserve.types import Array, Part


def field(rng: np.random.Generator, size: int = 64) -> Array:
    """(size, size) uint8, a smooth random picture."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / (np.hypot(fx, fy) * size + 2) ** 1.3
    level = np.fft.irfft2(spectrum, s=(size, size))
    return np.clip(128 + 40 * (level - level.mean()) / level.std(), 0, 255).astype(np.uint8)


def fields(count: int, seed: int = 0, size: int = 64) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [field(rng, size) for _ in range(count)]


def thumb(image: Image.Image) -> Array:
    return np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))


def recoded(picture: Array) -> Array:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=70)
    return thumb(Image.open(io.BytesIO(data.getvalue())))


def resized(picture: Array) -> Array:
    return thumb(Image.fromarray(picture).resize((44, 44), Image.Resampling.BICUBIC))


def brighter(picture: Array) -> Array:
    return np.clip(picture.astype(int) + 25, 0, 255).astype(np.uint8)


def cropped(picture: Array) -> Array:
    side = picture.shape[0]
    return thumb(Image.fromarray(picture).crop((1, 0, side, side - 1)))


CHANGES = {"recoded": recoded, "resized": resized, "brighter": brighter, "cropped": cropped}


def make_cohort(
    folder: Path,
    labels: Sequence[Label],
    *,
    patients: Sequence[str] | None = None,
    official: Sequence[Part | None] | None = None,
    pictures: Sequence[Array] | None = None,
    sources: Sequence[bytes] | None = None,
    groups: Sequence[dict[str, str]] | None = None,
    modalities: Sequence[str | None] | None = None,
    colours: Sequence[bool] | None = None,
    refused: Sequence[Refused] = (),
    task: str = "binary",
    names: tuple[str, ...] = ("normal", "ill"),
    order: Sequence[int] | None = None,
    name: str = "made",
) -> Cohort:
    """One case a label. Without `patients`, none is declared. `pictures`: (64, 64) uint8, the thumbnails.

    `sources`: the bytes of the files, where they differ from the pixels.
    """
    folder.mkdir(exist_ok=True)
    shelf = Shelf(folder / "shelf", (1, 4, 4), write=True)
    thumbs = Shelf(folder / "thumbs", (1, 64, 64), write=True)
    cases = []
    for i, label in enumerate(labels):
        shelf.put(i, np.full((1, 4, 4), i % 256, np.uint8))
        picture = pictures[i] if pictures else None
        thumbs.put(i, np.random.default_rng(i).integers(0, 256, (1, 64, 64)).astype(np.uint8))
        if picture is not None:
            thumbs.put(i, picture[None])
        data = picture.tobytes() if picture is not None else f"picture {i}".encode()
        cases.append(
            Case(
                id=f"case-{i}",
                file=f"case-{i}.png",
                index=i,
                label=label,
                patient=patients[i] if patients else f"case-{i}",
                part=official[i] if official else None,
                groups=groups[i] if groups else {},
                sha256=hashlib.sha256(sources[i] if sources else data).digest(),
                pixels=hashlib.sha256(data).digest()[:16],
                hash=0 if picture is None else perceptual_hash(picture),
                modality=modalities[i] if modalities else None,
                unit=None,
                colour=colours[i] if colours else False,
                blank=picture is not None and picture.min() == picture.max(),
                shape=(64, 64),
                header={"format": "png"},
            )
        )
    return Cohort(
        name=name,
        task=task,
        labels=names,
        cases=tuple(cases[i] for i in order) if order else tuple(cases),
        refused=tuple(refused),
        files=len(cases) + len(refused),
        shelf=shelf,
        thumbs=thumbs,
        digest="0" * 64,
        source={},
        independent=patients is None,
    )
