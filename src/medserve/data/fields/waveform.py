"""A waveform: the wanted leads in the wanted order, at one rate, filtered, cut to one window.

    ecg = Waveform("ecg").fit(training_waves)            # leads, rate, window and unit of the training part
    ecg.encode(ecg.parse(Path("100.hea").read_bytes()))  # (leads, samples) float32, NaN where nothing was recorded

Longer strips are cut around their middle, shorter ones stand in the middle between NaNs. Voltages are filtered forwards
and backwards (no shift in time) to 0.5 to 40 Hz, the usual band of a monitor; other units and strips of unknown rate
are taken as they are.
Source of the limb leads that follow from I and II: Einthoven's and Goldberger's equations.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields._sent import sent_file
from medserve.data.readers.waves import MAX_LEADS, MAX_SAMPLES, lead_name, read_wave
from medserve.data.readers.waves._signals import fill, resample
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.types import Array, Named, Wave

STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
DERIVED = {  # lead -> weights of I and II
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
MOST_HZ = 250.0  # chosen where nothing is declared: the QRS complex lies below 40 Hz
ECG_BAND = (0.5, 40.0)  # Hz
PLAUSIBLE_MV = 20.0
SETTLE_S = 4.0  # beside the window, so that the filter's ends lie outside it
MOST_MADE = 10_000_000  # samples that a slow strip may become at the rate of the model
FIT_WAVES = 20_000


@FIELDS.register("waveform")
@dataclass(frozen=True, slots=True)
class Waveform:
    """leads: in order. hz: of the record; 0: as it comes. samples: of the window; 0 until fitted. seconds: declared.

    unit: UCUM, "" for none, None until known. band: (low, high) in Hz, () for no filter, None until known.
    shortest: samples below which a strip is refused. limit: largest plausible magnitude, in `unit`.
    """

    kind: ClassVar[str] = "waveform"
    name: str
    leads: tuple[str, ...] = ()
    hz: float | None = None
    samples: int = 0
    seconds: float | None = None
    unit: str | None = None
    band: tuple[float, ...] | None = None
    shortest: int = 0
    limit: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "leads", tuple(self.leads))
        if self.band is not None:
            object.__setattr__(self, "band", tuple(self.band))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Waveform":
        leads = tuple(lead_name(lead) for lead in getattr(said, "leads", None) or ())
        hz, seconds = getattr(said, "hz", None), getattr(said, "seconds", None)
        limits = getattr(said, "range", None)
        limit = max(abs(float(v)) for v in limits) if limits else None
        return cls(name, leads, hz, seconds=seconds, unit=said.unit, limit=limit)

    def parse(self, raw: Any) -> Wave | None:
        """A Wave; a file's bytes or path, or {"data": base64} of it; {"leads", "hz", "unit", "values": [[...]]}; or the
        samples of one lead.

        Raises: Refusal "wave-expected", "wrong-unit", and those of `read_wave`.
        """
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return None
        if isinstance(raw, dict) and "data" in raw:
            raw = sent_file(raw)
            if raw is None:
                raise self._expected()
        if isinstance(raw, Path):
            wave = read_wave(raw, unit=self._file_unit)
        elif isinstance(raw, bytes | bytearray | memoryview):
            wave = read_wave(bytes(raw), name=self.name, unit=self._file_unit)
        elif isinstance(raw, Wave):
            wave = raw
        else:
            wave = self._plain(raw)
        return self._in_unit(wave)

    @property
    def _file_unit(self) -> str | None:
        """Of a file's leads; a voltage is read as mV and converted afterwards."""
        return None if self.unit in (None, "V", "uV", "mV", "nV") else self.unit

    def _expected(self) -> Refusal:
        return Refusal(
            "wave-expected",
            f'{self.name}: a waveform file, or {{"leads", "hz", "unit", "values": [[...]]}}, was expected.',
            hint='Lists of one length, one a lead, null where nothing was recorded; a file: {"data": BASE64}.',
        )

    def _plain(self, raw: Any) -> Wave:
        said, expected = raw if isinstance(raw, dict) else {"values": raw}, self._expected()
        if not set(said) <= {"leads", "hz", "unit", "values"} or isinstance(said.get("values"), str | None):
            raise expected
        values = _matrix(said["values"])
        unit, hz = said.get("unit", self.unit or ""), said.get("hz", 0 if not self.hz else None)
        if hz is None:
            raise Refusal(
                "wave-expected",
                f"{self.name}: the sampling rate is missing.",
                hint='Add "hz": samples per second.',
            )
        if values is None or not isinstance(unit, str) or isinstance(hz, bool) or not isinstance(hz, int | float):
            raise expected
        leads = said.get("leads")
        if leads is None:
            leads = list(self.leads) if len(self.leads) == len(values) else [str(i + 1) for i in range(len(values))]
        if not isinstance(leads, list) or len(leads) != len(values) or not all(isinstance(w, str) for w in leads):
            raise Refusal("wave-expected", f"{self.name}: one name a lead was expected.")
        if len(set(leads)) < len(leads) or not 0 <= hz <= 100_000:
            raise expected
        return Wave.of(values, [lead_name(word) for word in leads], float(hz), unit)

    def _in_unit(self, wave: Wave) -> Wave:
        if self.unit is None or wave.unit == self.unit:
            return wave
        if not wave.unit or not self.unit:
            raise Refusal(
                "wrong-unit",
                f"{self.name}: a waveform in {self.unit or 'no unit'} was expected, not in {wave.unit or 'no unit'}.",
                hint="State the unit in the file or the request, as the training data had it.",
            )
        factor = np.float32(convert(1.0, wave.unit, self.unit, what=self.name))
        return Wave.of(wave.values * factor, wave.leads, wave.hz, self.unit)

    def restore(self, stored: Any) -> Wave | None:
        return None if stored is None else msgspec.convert(stored, Wave)

    def fit(self, values: Iterable[Any]) -> "Waveform":
        """Whatever is not declared: the leads that all training strips have, median rate and length, the usual unit."""
        seen: list[tuple[tuple[str, ...], float, int, str]] = [
            (tuple(w.leads), w.hz, w.values.shape[1], w.unit) for w in islice(_known(values), FIT_WAVES)
        ]
        if not seen:
            return replace(self, samples=max(1, self.samples), hz=self.hz or 0.0)
        unit = self.unit if self.unit is not None else Counter(s[3] for s in seen).most_common(1)[0][0]
        leads = self.leads or _common([s[0] for s in seen])
        hz = self.hz
        if hz is None:
            rates = [s[1] for s in seen]
            hz = min(float(np.median(rates)), MOST_HZ) if min(rates) > 0 else 0.0
        lengths = [_length(samples, rate, hz) for _, rate, samples, _ in seen]
        window = round(self.seconds * hz) if self.seconds and hz else round(float(np.median(lengths)))
        window = int(np.clip(window, 1, MAX_SAMPLES // max(1, len(leads))))
        shortest = max(1, min(window // 2, int(np.quantile(lengths, 0.05, method="lower"))))
        band = self.band
        if band is None:
            band = ECG_BAND if unit in ("mV", "V", "uV") and hz > 2 * ECG_BAND[0] else ()
        limit = self.limit
        if limit is None and unit in ("mV", "V", "uV"):
            limit = float(convert(PLAUSIBLE_MV, "mV", unit, what=self.name))
        return replace(self, leads=leads, hz=hz, samples=window, unit=unit, band=band, shortest=shortest, limit=limit)

    def check(self, value: Any) -> None:
        """Raises: Refusal "lead-missing", "wrong-unit", "wave-short", "wave-flat", "value-out-of-range"."""
        if value is None or not self.samples:
            return
        missing = [lead for lead in self.leads if not self._has(value, lead)]
        if missing:
            raise Refusal(
                "lead-missing",
                f"{self.name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
                hint=f"The model was trained on {', '.join(self.leads)}.",
            )
        if value.unit != self.unit:
            raise Refusal(
                "wrong-unit",
                f"{self.name}: {self.unit or 'no unit'} was expected, not {value.unit or 'no unit'}.",
            )
        if bool(value.hz) != bool(self.hz):
            raise Refusal("wave-expected", f"{self.name}: a strip with{'' if self.hz else 'out'} a rate was expected.")
        self._check_values(value)

    def _check_values(self, wave: Wave) -> None:
        if self.hz and 0 < wave.hz < self.hz and wave.values.size * self.hz / wave.hz > MOST_MADE:
            raise Refusal(
                "wave-too-large",
                f"{self.name}: at {self.hz:g} Hz, the rate of the model, the strip has more than {MOST_MADE} samples.",
                hint="Check the sampling rate, or send a shorter strip.",
            )
        length = _length(wave.values.shape[1], wave.hz, self.hz or 0.0)
        if length < self.shortest:
            least = f"{self.shortest / self.hz:.2f} s" if self.hz else f"{self.shortest} samples"
            raise Refusal("wave-short", f"{self.name}: at least {least} were expected.", hint="Send a longer strip.")
        strip = self._choose(wave)
        known = np.isfinite(strip)
        empty = [lead for lead, row in zip(self.leads, known, strict=True) if not row.any()]
        if empty:
            raise Refusal("lead-missing", f"{self.name}: nothing was recorded of {', '.join(empty)} in the window.")
        top, bottom = np.nanmax(strip, 1), np.nanmin(strip, 1)
        flat = [lead for lead, same in zip(self.leads, top == bottom, strict=True) if same]
        if flat and strip.shape[1] > 1:
            raise Refusal(
                "wave-flat",
                f"{self.name}: {', '.join(flat)} is one flat line.",
                hint="Check the electrode of the lead.",
            )
        if self.limit is not None and max(float(top.max()), -float(bottom.min())) > self.limit:
            raise Refusal(
                "value-out-of-range",
                f"{self.name}: a sample lies beyond {self.limit:g} {self.unit}.",
                hint="Check the gain and the unit of the record.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (max(1, len(self.leads)), max(1, self.samples))

    @property
    def facts(self) -> dict[str, Any]:
        return {"leads": list(self.leads), "hz": self.hz or 0.0, "unit": self.unit or ""}

    def encode(self, value: Any) -> Array:
        out = np.full(self.shape, np.nan, np.float32)
        if value is None:
            return out
        strip = self._choose(value)
        if value.hz and self.hz:
            strip = self._filtered(strip, value.hz)
            strip = resample(strip, value.hz, self.hz)
        have, want = strip.shape[1], out.shape[1]
        if have >= want:
            start = (have - want) // 2
            return np.ascontiguousarray(strip[:, start : start + want], np.float32)
        start = (want - have) // 2
        out[:, start : start + have] = strip
        return out

    def example(self, random: np.random.Generator) -> Array:
        """A beat a second, with noise."""
        rate = self.hz or self.shape[1]
        time = np.arange(self.shape[1]) / rate + random.uniform()
        beat = np.exp(-0.5 * ((time % 1.0 - 0.5) / 0.02) ** 2)
        size = random.normal(1.0, 0.3, (self.shape[0], 1))
        return (size * beat + random.normal(0, 0.05, self.shape)).astype(np.float32)

    def named(self) -> Named:
        given: dict[str, Any] = {
            "leads": list(self.leads),
            "hz": self.hz,
            "samples": self.samples,
            "seconds": self.seconds,
            "unit": self.unit,
            "band": None if self.band is None else list(self.band),
            "shortest": self.shortest,
            "limit": self.limit,
        }
        return Named("waveform", {"name": self.name, **{k: v for k, v in given.items() if v is not None}})

    def _has(self, wave: Wave, lead: str) -> bool:
        return lead in wave.leads or (lead in DERIVED and {"I", "II"} <= set(wave.leads))

    def _choose(self, wave: Wave) -> Array:
        """(leads, samples) around the middle of the record, with room for the filter to settle; NaN where missing."""
        values = wave.values
        if self.hz and wave.hz:
            wanted = int(np.ceil((self.samples / self.hz + 2 * SETTLE_S) * wave.hz))
            if values.shape[1] > wanted:  # the middle of the window stays the middle of the record
                start = (values.shape[1] - wanted) // 2
                values = values[:, start : start + wanted]
        rows = dict(zip(wave.leads, values, strict=True))
        empty = np.full(values.shape[1], np.nan, np.float32)
        out = []
        for lead in self.leads or wave.leads[: self.shape[0]]:
            if lead not in rows and self._has(wave, lead):
                one, two = DERIVED[lead]
                rows[lead] = np.float32(one) * rows["I"] + np.float32(two) * rows["II"]
            out.append(rows.get(lead, empty))
        return np.stack(out)

    def _filtered(self, strip: Array, hz: float) -> Array:
        if not self.band or strip.shape[1] < 2:
            return strip
        from scipy.signal import sosfiltfilt

        sections = _sections(*self.band, hz)
        if sections is None:
            return strip
        gaps = np.isnan(strip)
        pad = min(strip.shape[1] - 1, int(SETTLE_S * hz / 2))
        out = sosfiltfilt(sections, fill(strip).astype(float), axis=1, padtype="odd", padlen=pad)
        out[gaps] = np.nan
        return out.astype(np.float32)


@cache
def _sections(low: float, high: float, hz: float) -> Array | None:
    """Butterworth of order 2, for both directions; the upper edge falls away when the rate cannot hold it."""
    from scipy.signal import butter

    if low >= 0.45 * hz:
        return None
    if high >= 0.45 * hz:
        return np.asarray(butter(2, low, "highpass", fs=hz, output="sos"))
    return np.asarray(butter(2, (low, high), "bandpass", fs=hz, output="sos"))


def _known(values: Iterable[Any]) -> Iterable[Wave]:
    return (value for value in values if value is not None)


def _length(samples: int, hz: float, wanted: float) -> int:
    return max(1, int(samples * wanted / hz)) if hz and wanted else samples


def _common(leads: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Of all records; the standard ones first and in their order. Nothing in common: the commonest set."""
    shared = set(leads[0]).intersection(*map(set, leads[1:])) or set(Counter(leads).most_common(1)[0][0])
    rest = [lead for lead in leads[0] if lead in shared and lead not in STANDARD]
    found = [lead for lead in STANDARD if lead in shared] + (rest or [x for x in shared if x not in STANDARD])
    return tuple(found[:MAX_LEADS])


def _matrix(raw: Any) -> Array | None:
    """(leads, samples) float32 from lists of numbers and nulls, or None when it is something else."""
    if isinstance(raw, np.ndarray):
        raw = raw.tolist() if raw.ndim in (1, 2) and raw.size <= MAX_SAMPLES and raw.dtype.kind in "fiu" else None
    if not isinstance(raw, list | tuple) or not raw:
        return None
    rows = list(raw) if isinstance(raw[0], list | tuple) else [raw]
    if len(rows) > MAX_LEADS or not all(isinstance(row, list | tuple) for row in rows):
        return None
    if len({len(row) for row in rows}) != 1 or not rows[0] or len(rows) * len(rows[0]) > MAX_SAMPLES:
        return None
    if not all(v is None or type(v) in (int, float) for row in rows for v in row):
        return None
    try:
        values = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)
    except OverflowError:
        return None
    return None if np.isinf(values).any() or np.abs(np.nan_to_num(values)).max() > 3e38 else values.astype(np.float32)
