"""A picture beside other inputs: a film, a photograph, a slide, brought to one shape and 256 grey levels.

    film = Image("film").look(map(Path, some_files)).fit(training_films)   # side, colour and unit; then the modalities
    film.encode(film.parse(Path("p1.dcm")))                  # (C, H, W) float32 in [0, 1]
    film.parse({"media_type": "image/png", "data": BASE64})  # as a request carries it

It is read, limited, transformed and refused exactly as a picture that is the whole case: the same readers, the same
transforms, the same codes. Its shape is settled before the split, from a few pictures, as it is there; a network beside
other inputs sees at most `MOST_SIDE` pixels a side unless `size` is declared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields._sent import sent_file
from medserve.data.readers import HEAD_BYTES, MAX_PIXELS, iter_pictures, sniff
from medserve.data.scope import check_picture
from medserve.data.transforms import Pipeline, build, default_transforms
from medserve.errors import Refusal
from medserve.types import Array, Named, Picture

LEAST_SIDE, MOST_SIDE = 16, 64  # pixels a side where nothing is declared
LOOKED_AT = 24


class Film(msgspec.Struct, array_like=True, frozen=True):
    """A prepared picture. data: uint8 (C, H, W), row-major; the rest is what the file said of it."""

    shape: tuple[int, int, int]
    data: bytes
    modality: str | None = None
    unit: str | None = None
    colour: bool = False
    blank: bool = False

    @property
    def levels(self) -> Array:
        """(C, H, W) uint8."""
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


@FIELDS.register("image")
@dataclass(frozen=True)
class Image:
    """shape: (C, H, W) of the prepared picture; C is 3 where colour is taken. unit: "HU" for CT, else None.

    modalities: DICOM modalities of the training part; None: its files did not say. steps: the transforms, in order.
    size: declared (H, W). max_pixels: of a file, declared or real; a limit of the machine, not of the model.
    """

    kind: ClassVar[str] = "image"
    name: str
    shape: tuple[int, ...] = (1, MOST_SIDE, MOST_SIDE)
    unit: str | None = None
    modalities: tuple[str, ...] | None = None
    steps: tuple[Any, ...] = ()
    size: tuple[int, ...] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.modalities is not None:
            object.__setattr__(self, "modalities", tuple(self.modalities))
        named = [msgspec.convert(step, Named) if isinstance(step, dict) else step for step in self.steps]
        given = named or default_transforms(shape=self.shape, colour=self.colour, unit=self.unit)
        object.__setattr__(self, "steps", tuple(given))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Image":
        size = tuple(said.size) if said.size else None
        return cls(name, (1, *(size or (MOST_SIDE, MOST_SIDE))), size=size)

    @property
    def colour(self) -> bool:
        return self.shape[0] == 3

    def look(self, raws: Iterable[Any]) -> "Image":
        """Settle shape, colour and unit by up to `LOOKED_AT` readable pictures; none readable: a grey square.

        The side is that of the longer side of the middle picture, within [`LEAST_SIDE`, `MOST_SIDE`].
        """
        seen: list[Picture] = []
        for raw in raws:
            if len(seen) == LOOKED_AT:
                break
            try:
                picture = self._read(raw)
            except Refusal:
                continue
            if picture is not None:
                seen.append(picture)
        if not seen:
            return self
        longest = sorted(max(p.values.shape[:2]) for p in seen)[len(seen) // 2]
        side = min(max(longest, LEAST_SIDE), MOST_SIDE)
        units = {p.unit for p in seen}
        unit = units.pop() if len(units) == 1 else None
        shape = (3 if any(p.colour for p in seen) else 1, *(self.size or (side, side)))
        return replace(self, shape=shape, unit=unit, steps=())

    def parse(self, raw: Any) -> Film | None:
        """A path, a file's bytes, a decoded Picture, base64, or {"media_type", "data": base64}.

        Raises: Refusal "image-expected", "media-type-mismatch", "several-images", and those of the readers.
        """
        picture = self._read(raw)
        if picture is None:
            return None
        levels = self._pipeline(picture)
        low, high = float(picture.values.min()), float(picture.values.max())
        shape = (levels.shape[0], levels.shape[1], levels.shape[2])
        return Film(shape, levels.tobytes(), picture.modality, picture.unit, picture.colour, not high > low)

    def _read(self, raw: Any) -> Picture | None:
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return None
        if isinstance(raw, Picture):
            return raw
        if isinstance(raw, str | dict):
            raw = self._sent(raw)
        if isinstance(raw, bytearray | memoryview):
            raw = bytes(raw)
        if not isinstance(raw, bytes | Path):
            raise self._expected()
        named = raw.name if isinstance(raw, Path) else self.name
        pictures = iter_pictures(raw, name=named, max_pixels=self.max_pixels)
        picture = next(pictures)
        if next(pictures, None) is not None:
            raise Refusal(
                "several-images",
                f"{self.name}: the file holds {picture.frames} images; the model takes one.",
                hint="Send one frame or slice.",
            )
        return picture

    def _sent(self, raw: str | dict[str, Any]) -> bytes:
        """The file inside a JSON request."""
        said = raw if isinstance(raw, dict) else {"data": raw}
        found, media = sent_file(said), said.get("media_type")
        if found is None or not isinstance(media, str | None):
            raise self._expected()
        kind = sniff(found[:HEAD_BYTES])
        if media is not None and kind and media.lower() != kind:
            raise Refusal(
                "media-type-mismatch",
                f"{self.name}: media_type says {media[:64]}; the bytes are {kind}.",
                hint=f'Send "media_type": "{kind}", or leave it out.',
            )
        return found

    def _expected(self) -> Refusal:
        return Refusal(
            "image-expected",
            f"{self.name}: an image file in base64 was expected.",
            hint='Send {"media_type": "image/png", "data": BASE64}; DICOM, PNG, JPEG and TIFF are read.',
        )

    def restore(self, stored: Any) -> Film | None:
        return None if stored is None else msgspec.convert(stored, Film)

    def fit(self, values: Iterable[Any]) -> "Image":
        """The modalities that training saw."""
        found = {film.modality for film in values if film is not None and film.modality}
        return replace(self, modalities=tuple(sorted(found)) or None)

    def check(self, value: Any) -> None:
        """Raises: Refusal "wrong-modality", "wrong-unit", "wrong-colour", "image-blank"."""
        if value is not None:
            said = {"modality": value.modality, "unit": value.unit, "colour": value.colour, "blank": value.blank}
            check_picture(self, **said, name=self.name)

    @property
    def facts(self) -> dict[str, Any]:
        """levels: how many steps lie between 0 and 1."""
        return {"levels": 255}

    def encode(self, value: Any) -> Array:
        if value is None:
            return np.full(self.shape, np.nan, np.float32)
        assert tuple(value.shape) == self.shape, "a picture that another field prepared"
        return value.levels.astype(np.float32) / np.float32(255)

    def example(self, random: np.random.Generator) -> Array:
        """A disc of any size and place on a ramp."""
        _, height, width = self.shape
        y, x = np.mgrid[0:height, 0:width]
        middle, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.4)
        disc = (y / height - middle[0]) ** 2 + (x / width - middle[1]) ** 2 < radius**2
        plane = 0.5 * (x + y) / max(1, height + width - 2) + 0.4 * disc + random.normal(0, 0.02, (height, width))
        return np.broadcast_to(np.rint(np.clip(plane, 0, 1) * 255) / 255, self.shape).astype(np.float32)

    def named(self) -> Named:
        given: dict[str, Any] = {"name": self.name, "shape": list(self.shape)}
        given |= {"unit": self.unit} if self.unit else {}
        given |= {"modalities": list(self.modalities)} if self.modalities is not None else {}
        return Named("image", given | {"steps": [msgspec.to_builtins(step) for step in self.steps]})

    @cached_property
    def _pipeline(self) -> Pipeline:
        return build(self.steps)
