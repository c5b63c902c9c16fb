"""From stored DICOM values to a picture in physical units: modality LUT, VOI LUT, photometric interpretation.

    picture = picture_of(facts, dataset, stored_frame, index, syntax)

* Modality: a LUT sequence, else value * Rescale Slope + Rescale Intercept; Hounsfield units for CT. Integers stay
  integers while slope and intercept are whole.
* VOI: a window becomes `Picture.shown`. A VOI LUT or a sigmoid is no straight line: where values have no unit (CR, DX,
  MG) it is applied to the values; where they have one, values stay and `shown` is the range that the LUT covers.
* MONOCHROME1 is mirrored within its range of values, window included, so larger is brighter. Hounsfield units are never
  mirrored: dense is bright already, and -1000 must stay air.
* `header["window"]` says where `shown` comes from: "file", or "none" when the file has no say.

Source: DICOM PS3.3 C.7.6.3.1.2 (photometric), C.11.1 (modality LUT), C.11.2 (VOI LUT; C.11.2.1.2 the three functions),
C.7.6.16.2 (functional groups).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.data.readers.arrays import check_finite, size_of
from medserve.data.readers.raster import grey_if_equal
from medserve.errors import Refusal
from medserve.types import Array, Picture

_HEADER = {
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "kvp": "KVP",
    "photometric": "PhotometricInterpretation",
    "bits": "BitsStored",
}


def text(facts: Any, tag: str) -> str:
    """A short printable value of `tag` in a header (a mapping or a data set), "" when absent."""
    value = facts.get(tag)
    if value is None:
        return ""
    found = str(value)[:64].strip()
    return found if found.isprintable() else "".join(c for c in found if c.isprintable())


def number(facts: Any, tag: str) -> float | None:
    """The first value of `tag` as a finite number, None when absent or empty. Raises: Refusal `dicom-bad-header`."""
    value = facts.get(tag)
    if value is None:
        return None
    if not isinstance(value, (str, int, float)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else ""
    if value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise Refusal("dicom-bad-header", f"{tag} of the DICOM file is no finite number.")
    return found


def positive(facts: Any, tag: str) -> int:
    """A whole number, 0 when absent or below 1."""
    return max(int(number(facts, tag) or 0), 0)


def picture_of(facts: Mapping[str, Any], dataset: Any, frame: Array, index: int, syntax: str) -> Picture:
    """One stored frame as a `Picture`.

    Args:
        facts: header elements by keyword. dataset: the same for pydicom's lookup tables.

    Raises: Refusal `dicom-photometric`, `image-not-finite`, `dicom-bad-header`.
    """
    frames = positive(facts, "NumberOfFrames") or 1
    photometric = text(facts, "PhotometricInterpretation")
    frame = frame.astype(frame.dtype.newbyteorder("="), copy=False)
    header = {name: found for name, tag in _HEADER.items() if (found := text(facts, tag))}
    header |= {"format": "DICOM", "transfer_syntax": syntax, "size": size_of(frame), "window": "none"}
    unit = None
    if frame.ndim == 3:
        values, shown = _colour(frame, int(facts["BitsStored"]))
    elif photometric == "PALETTE COLOR":
        values, shown = _colour(_palette(frame, dataset), 8)
    elif photometric in ("MONOCHROME1", "MONOCHROME2"):
        values, shown, unit, window = _grey(facts, dataset, frame, index, photometric == "MONOCHROME1")
        header["window"] = window
    else:
        raise Refusal(
            "dicom-photometric", f"Photometric interpretation {photometric} is not read with one sample a pixel."
        )
    check_finite(values)
    return Picture(
        values,
        shown,
        modality=text(facts, "Modality") or None,
        unit=unit,
        spacing_mm=_spacing(facts, index),
        frame=index if frames > 1 else None,
        frames=frames,
        header=header,
        patient=str(facts.get("PatientID") or "") or None,
    )


def _colour(frame: Array, bits: int) -> tuple[Array, tuple[float, float]]:
    if frame.shape[-1] != 3:
        raise Refusal("dicom-photometric", f"{frame.shape[-1]} samples a pixel are not read; 1 or 3 were expected.")
    return grey_if_equal(frame), (0.0, float(2**bits - 1))


def _palette(frame: Array, dataset: Any) -> Array:
    from pydicom.pixels.processing import apply_color_lut

    colours = apply_color_lut(frame, dataset)[..., :3]
    return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours


def _grey(
    facts: Mapping[str, Any], dataset: Any, frame: Array, index: int, inverted: bool
) -> tuple[Array, tuple[float, float], str | None, str]:
    """Returns: values, shown, unit, where `shown` comes from."""
    values, ends, unit = _physical(facts, dataset, frame, index)
    window = "none"
    shown = _window(facts, index)
    if shown is None and facts.get("VOILUTSequence"):
        values, ends, shown = _voi_lut(dataset, values, ends, keep=unit is not None)
    elif shown is not None and unit is None and text(facts, "VOILUTFunction") == "SIGMOID":
        values, ends = _sigmoid(values, shown), (0.0, 1.0)
        shown = ends
    if shown is None:
        shown = ends
    else:
        window = "file"
    if inverted and unit is None:
        values, shown = _mirror(values, ends, shown)
    return values, shown, unit, window


def _physical(
    facts: Mapping[str, Any], dataset: Any, frame: Array, index: int
) -> tuple[Array, tuple[float, float], str | None]:
    """Returns: values, the values that the stored range can reach, unit."""
    bits = int(facts["BitsStored"])
    if frame.dtype.kind == "f":
        return frame, (float(frame.min()), float(frame.max())), None
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(facts["PixelRepresentation"]) else (0, 2**bits - 1)
    if facts.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        values = apply_modality_lut(frame, dataset)
        out_bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        return values, (0.0, float(2**out_bits - 1)), None
    where = _group(facts, index, "PixelValueTransformationSequence") or facts
    slope, intercept = number(where, "RescaleSlope"), number(where, "RescaleIntercept")
    if slope is None and intercept is None:
        return frame, (float(low), float(high)), None
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise Refusal("dicom-bad-header", "RescaleSlope of the DICOM file is zero.")
    hounsfield = text(facts, "Modality") == "CT" and text(where, "RescaleType") in ("", "HU")
    values = _rescale(frame, slope, intercept, low, high)
    a, b = low * slope + intercept, high * slope + intercept
    return values, (min(a, b), max(a, b)), "HU" if hounsfield else None


def _rescale(frame: Array, slope: float, intercept: float, low: int, high: int) -> Array:
    if slope == 1 and intercept == 0:
        return frame
    if slope == 1 and intercept.is_integer():
        a, b = low + int(intercept), high + int(intercept)
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= min(a, low) and max(b, high) <= np.iinfo(dtype).max:
                same = frame.dtype.itemsize == np.dtype(dtype).itemsize  # the values fit, so reading anew is converting
                whole: Any = frame.view(dtype) if same else frame.astype(dtype)
                return whole + dtype(int(intercept))
    wide = np.float64 if frame.dtype.itemsize > 2 else np.float32
    values: Any = frame.astype(wide)
    values *= wide(slope)
    values += wide(intercept)
    return values


def _window(facts: Mapping[str, Any], index: int) -> tuple[float, float] | None:
    """The first window as (low, high), by the function it names; None when absent or invalid."""
    where = _group(facts, index, "FrameVOILUTSequence") or facts
    centre, width = number(where, "WindowCenter"), number(where, "WindowWidth")
    if centre is None or width is None:
        return None
    if (text(where, "VOILUTFunction") or "LINEAR") == "LINEAR":
        # C.11.2.1.2.1, worked for centre 40, width 400: 40 - 0.5 -+ (400 - 1) / 2 = -160 and 239
        centre, width = centre - 0.5, width - 1
    return (centre - width / 2, centre + width / 2) if width > 0 else None


def _voi_lut(dataset: Any, values: Array, ends: tuple[float, float], *, keep: bool) -> Any:
    """Returns: values, ends, shown."""
    from pydicom.pixels.processing import apply_voi

    entries, first, bits = (int(v) for v in dataset.VOILUTSequence[0].LUTDescriptor)
    entries = entries or 65536
    if first > 32767 and values.dtype.kind == "i" and values.min() < 0:
        first -= 65536  # the descriptor's VR is ambiguous; signed values mean a signed first entry
    if keep or values.dtype.kind == "f":
        return values, ends, (float(first), float(first + entries - 1))
    top = float(2**bits - 1)
    return apply_voi(values, dataset), (0.0, top), (0.0, top)


def _sigmoid(values: Array, shown: tuple[float, float]) -> Array:
    """C.11.2.1.3.1: 1 / (1 + exp(-4 (x - centre) / width))."""
    centre, width = (shown[0] + shown[1]) / 2, shown[1] - shown[0]
    return (1 / (1 + np.exp(-4 * (values.astype(np.float32) - centre) / width))).astype(np.float32)


def _mirror(values: Array, ends: tuple[float, float], shown: tuple[float, float]) -> tuple[Array, tuple[float, float]]:
    total = ends[0] + ends[1]
    if values.dtype.kind in "ui":
        info = np.iinfo(values.dtype)
        fits = info.min <= total <= info.max and total.is_integer()
        values = values.dtype.type(int(total)) - values if fits else int(total) - values.astype(np.int64)
    else:
        values = values.dtype.type(total) - values
    return values, (total - shown[1], total - shown[0])


def _group(facts: Mapping[str, Any], index: int, name: str) -> Any:
    """The item of functional group `name` for this frame, else the shared one, else None."""
    per_frame = facts.get("PerFrameFunctionalGroupsSequence")
    shared = facts.get("SharedFunctionalGroupsSequence")
    for groups, at in ((per_frame, index), (shared, 0)):
        if groups and at < len(groups) and groups[at].get(name):
            return groups[at].get(name)[0]
    return None


def _spacing(facts: Mapping[str, Any], index: int) -> tuple[float, ...] | None:
    where = _group(facts, index, "PixelMeasuresSequence") or facts
    for tag in ("PixelSpacing", "ImagerPixelSpacing"):
        found = where.get(tag)
        if found is not None and not isinstance(found, str) and len(found) == 2:
            row, column = float(found[0]), float(found[1])
            if row > 0 and column > 0:
                return row, column
    return None
