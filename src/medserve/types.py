"""The words every folder shares. They import nothing of ours.

A `Picture` is what a reader makes of one image; a `Case` is one patient's inputs for one question; a
`Prediction` is the calibrated answer. Axes: `B` batch, `C` channel, `D H W` voxels, `K` labels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Part = Literal["train", "val", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "calibration", "test")
Task = Literal["binary", "multiclass", "multilabel", "ordinal", "number", "survival", "tags", "generate", "effect"]
Scale = Literal["", "sqrt", "log"]  # on which a number is learnt
LOWEST: dict[Scale, float] = {"": -math.inf, "sqrt": 0.0, "log": 1e-300}  # number that a scale can take
# An answer a word or a letter and not a case: neither calibrated, nor tuned, nor explained by what its inputs moved.
SEQUENCES: tuple[Task, ...] = ("tags", "generate")
# What is answered is no probability of a label and no measured number: nothing to calibrate or to tune by.
UNSCORED: tuple[Task, ...] = (*SEQUENCES, "effect")


class Named(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An entry of a catalog, as packages store it: `{"name": ..., "params": {...}}`."""

    name: str
    params: dict[str, Any] = {}


class Samples(Protocol):
    """What training, audits and evaluation draw batches from; a part of a cohort, or arrays in memory.

    targets: (N,) int64 for binary, multiclass and ordinal; (N, K) float32 with NaN where unknown for multilabel;
        (N,) float32 for number; (N, 2) float32 for survival: time of the event or of the end of observation, and 1
        where the event happened, 0 where it was not seen (censored); NaN where unknown; (N, T) float32 for tags: the
        number of each word's tag, NaN beyond the last word; (N,) float32 zeros for generate, whose target is the input;
        (N, 4) float32 for effect: the outcome (or the time), 1 where it was seen (0: censored), the number of the arm,
        and the negative control, NaN where there is none.
    """

    @property
    def targets(self) -> Array: ...

    def __len__(self) -> int: ...

    def take(self, rows: Array) -> Array:
        """Returns: (B, C, H, W) uint8 (or (B, C, D, H, W)) for positions `rows` of this part."""
        ...


@dataclass(frozen=True, slots=True)
class ArraySamples:
    """Samples in memory: generated sets, tests, self-checks."""

    images: Array
    targets: Array

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Array) -> Array:
        return self.images[rows]


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image, or one volume, in physical units.

    values: (H, W) grey, (H, W, 3) colour RGB, or (D, H, W) grey volume; a numeric dtype as decoded. MONOCHROME1
        is already turned so that larger is brighter; modality rescale is already applied.
    shown: (low, high), the values that a viewer draws black and white (VOI window, or the stored bits).
    modality: DICOM modality (0008,0060) such as "CT", or None when the format does not say.
    unit: "HU" for CT, else None.
    header: acquisition facts that may betray a label (format, size, scanner, site); never identity.
    patient: the raw patient identifier as found, None when absent. It is pseudonymised by the first caller.
    """

    values: Array
    shown: tuple[float, float]
    modality: str | None = None
    unit: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    frame: int | None = None
    frames: int = 1
    header: Mapping[str, str] = field(default_factory=dict)
    patient: str | None = None

    @property
    def colour(self) -> bool:
        return self.values.ndim == 3 and self.values.shape[-1] == 3 and not self.volume

    @property
    def volume(self) -> bool:
        return self.values.ndim == 3 and self.header.get("layout") == "volume"


class Event(msgspec.Struct, array_like=True, frozen=True):
    """One thing that happened to a patient, as every reader of records tells it.

    time: hours from the start of the record (or from the epoch, until the prediction time is known).
    code: as the source says it, with its system where there is one ("loinc|2160-0", "HR").
    value: a number in `unit`, or None for something that only happened; `text`: a coded or worded result.
    """

    time: float
    code: str
    value: float | None = None
    unit: str | None = None
    text: str | None = None


class Wave(msgspec.Struct, array_like=True, frozen=True):
    """A waveform in physical units. data: little-endian float32, (leads, samples), row-major; NaN: not recorded."""

    leads: list[str]
    hz: float
    data: bytes
    unit: str = "mV"

    @property
    def values(self) -> Array:
        """(leads, samples) float32."""
        return np.frombuffer(self.data, "<f4").reshape(len(self.leads), -1)

    @classmethod
    def of(cls, values: Array, leads: "list[str]", hz: float, unit: str = "mV") -> "Wave":
        """From an array (leads, samples)."""
        return cls(list(leads), float(hz), np.ascontiguousarray(values, "<f4").tobytes(), unit)


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw outputs of a model for a batch, before calibration.

    logits: (B, K) float32 (binary, number and survival: K == 1; ordinal: K == labels - 1).
    distance: (B,) float32, distance to the training data in feature space; None where the model has none.
    cam: (B, K, h, w) float32 class activation maps; None where the architecture has none.
    """

    logits: Array
    distance: Array | None = None
    cam: Array | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | Array) -> "Scores":
        return Scores(*(None if a is None else a[rows] for a in (self.logits, self.distance, self.cam)))  # type: ignore[arg-type]

    @staticmethod
    def concat(parts: "list[Scores]") -> "Scores":
        columns = zip(*((p.logits, p.distance, p.cam) for p in parts), strict=True)
        return Scores(*(None if c[0] is None else np.concatenate(c) for c in columns))  # type: ignore[arg-type]


class Waiter(Protocol):
    """Who is told what comes of something, on the event loop that it belongs to: a future, or what costs less.

    done: it was told already, or waits no more.
    """

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, error: Any, /) -> None: ...
