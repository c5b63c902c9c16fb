"""What every waveform reader yields, one `Signal` a lead, and how they become one `Wave`."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from medserve.errors import Refusal
from medserve.types import Array, Wave

MAX_SAMPLES = 50_000_000  # of all leads together
MAX_LEADS = 64
MAX_BYTES = 512 * 2**20
MAX_HZ = 100_000.0

_TO_MV = {"mv": 1.0, "millivolt": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "microvolt": 1e-3, "nv": 1e-6,
          "v": 1e3, "volt": 1e3}  # fmt: skip
_STANDARD = {name.upper(): name for name in
             ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")}  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """values: (samples,) float32 in `unit`, NaN where not recorded. hz: 0 when the file does not say."""

    name: str
    unit: str
    hz: float
    values: Array


def lead_name(said: str) -> str:
    """The usual name of a lead: "Lead I (Einthoven)", "ECG avf" and "MDC_ECG_LEAD_V1" are I, aVF and V1.

    A name that is no standard lead stays as it is said, without blanks around it.
    """
    word = said.strip().strip("\0").split("(")[0].strip()
    for before in ("MDC_ECG_LEAD_", "ECG LEAD ", "LEAD ", "EKG ", "ECG "):
        if word.upper().startswith(before):
            word = word[len(before) :].strip()
    return _STANDARD.get(word.upper().replace(" ", ""), said.strip().strip("\0")[:64])


def check_size(leads: int, samples: int) -> None:
    """A *declared* size, before anything is decoded. samples: of all leads together.

    Raises: Refusal "wave-too-large", "wave-empty".
    """
    if leads > MAX_LEADS or samples > MAX_SAMPLES:
        raise Refusal(
            "wave-too-large",
            f"The header declares {leads} leads and {samples} samples; at most {MAX_LEADS} and {MAX_SAMPLES} are read.",
            hint="Cut the record into shorter ones.",
        )
    if leads < 1 or samples < 1:
        raise Refusal("wave-empty", "The record holds no samples.", hint="Export it again.")


def check_hz(hz: float) -> float:
    """Raises: Refusal "wave-unreadable"."""
    if not 0 < hz <= MAX_HZ:
        raise Refusal("wave-unreadable", f"A sampling rate between 0 and {MAX_HZ:g} Hz was expected.")
    return hz


def as_wave(found: list[Signal], unit: str | None, notes: list[str]) -> Wave:
    """Voltages in mV; the leads of one unit; one sampling rate, the highest.

    Raises: Refusal "wave-empty", "wave-too-large", "wave-unit", "wave-flat".
    """
    check_size(len(found), sum(len(s.values) for s in found))
    found = [_in_mv(signal) for signal in found]
    units = Counter(s.unit for s in found)
    if unit is None:
        unit = "mV" if "mV" in units else units.most_common(1)[0][0]
    kept = [s for s in found if s.unit == unit]
    if not kept:
        raise Refusal(
            "wave-unit",
            f"No lead is in {unit or 'the expected unit'}, but in {', '.join(u or 'none' for u in sorted(units))}.",
            hint="Correct the units in the file's header, or declare the unit of the input.",
        )
    notes += [f"{s.name} is in {s.unit or 'no unit'} and was left out." for s in found if s.unit != unit]
    kept = _one_rate(kept, notes)
    values = np.stack([s.values for s in kept])
    if not np.isfinite(values).any():
        raise Refusal("wave-empty", "No sample was recorded.", hint="Every sample is marked as missing.")
    if np.isinf(values).any():
        raise Refusal("wave-unreadable", "A sample is infinite.")
    if not (np.nanmax(values) > np.nanmin(values)) or all(_flat(row) for row in values):
        raise Refusal("wave-flat", "Every lead is one flat line.", hint="Check the electrodes and the export.")
    return Wave.of(values, _unlike([s.name for s in kept]), kept[0].hz, unit)


def _flat(row: Array) -> bool:
    known = row[np.isfinite(row)]
    return not len(known) or bool(known.max() == known.min())


def _in_mv(signal: Signal) -> Signal:
    word = signal.unit.strip()
    factor = _TO_MV.get(word.lower()) if word not in ("MV", "NV") else None
    if factor is None:
        return replace(signal, unit=word)
    return replace(signal, unit="mV", values=signal.values if factor == 1 else signal.values * np.float32(factor))


def _one_rate(found: list[Signal], notes: list[str]) -> list[Signal]:
    rate = max(s.hz for s in found)
    if any(s.hz != rate for s in found):
        longest = max(len(s.values) * rate / s.hz for s in found)
        check_size(len(found), round(longest * len(found)))
    out = []
    for signal in found:
        values = np.asarray(signal.values, np.float32)
        if signal.hz != rate:
            values = resample(values, signal.hz, rate)
            notes.append(f"{signal.name} was resampled from {signal.hz:g} to {rate:g} Hz.")
        out.append(replace(signal, hz=rate, values=values))
    longest = max(len(s.values) for s in out)
    return [
        replace(s, values=np.pad(s.values, (0, longest - len(s.values)), constant_values=np.nan))
        if len(s.values) < longest
        else s
        for s in out
    ]


def resample(values: Array, hz: float, wanted: float) -> Array:
    """(..., samples) at another rate, through scipy's polyphase filter; gaps (NaN) stay gaps."""
    from scipy.signal import resample_poly

    ratio = Fraction(wanted / hz).limit_denominator(1000)
    if ratio == 1 or not ratio:
        return values
    gaps = np.isnan(values)
    filled = fill(values) if gaps.any() else values
    out = resample_poly(filled, ratio.numerator, ratio.denominator, axis=-1, padtype="line").astype(np.float32)
    if gaps.any():
        at = np.minimum(np.round(np.arange(out.shape[-1]) * float(1 / ratio)).astype(int), values.shape[-1] - 1)
        out[gaps[..., at]] = np.nan
    return out


def fill(values: Array) -> Array:
    """Gaps bridged by straight lines; a lead without any sample becomes 0."""
    out = np.array(values, np.float32)
    for row in out.reshape(-1, out.shape[-1]):
        known = np.isfinite(row)
        if not known.any():
            row[:] = 0
        elif not known.all():
            at = np.arange(len(row))
            row[~known] = np.interp(at[~known], at[known], row[known])
    return out


def _unlike(names: list[str]) -> list[str]:
    """Every name once: a second "V1" is "V1 (2)"."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out
