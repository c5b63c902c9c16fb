"""DICOM waveforms: 12-lead, general and ambulatory ECG, hemodynamic and other waveform objects.

    found = signals(body)

Of several multiplex groups the longest original one is read; a group of median beats is derived from it.
Source: DICOM PS3.3 C.10.9 (waveform module): value = stored * sensitivity * correction + baseline, in the unit of the
channel's sensitivity; PS3.3 A.34 (the objects).
"""

import io
import warnings
from typing import Any

import numpy as np

from medserve.data.readers.waves._signals import Signal, check_hz, check_size, lead_name
from medserve.errors import Refusal


def signals(data: bytes) -> list[Signal]:
    """Raises: Refusal; and whatever pydicom raises on a damaged file."""
    import pydicom
    from pydicom.waveforms import multiplex_array

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that the standard does not allow
        dataset = pydicom.dcmread(io.BytesIO(data))
        groups = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise Refusal(
                "wave-empty",
                "The DICOM object holds no waveform.",
                hint="A waveform object such as 12-lead ECG Waveform Storage was expected.",
            )
        for group in groups:
            _check(group)
        at = max(range(len(groups)), key=lambda i: (_original(groups[i]), int(groups[i].NumberOfWaveformSamples)))
        group = groups[at]
        values = multiplex_array(dataset, at, as_raw=False).astype(np.float32).T
        if "WaveformPaddingValue" in group:
            stored = multiplex_array(dataset, at, as_raw=True).T
            values[stored == _padding(group)] = np.nan
        hz = float(group.SamplingFrequency)
        channels = list(group.ChannelDefinitionSequence)
        return [Signal(_name(c, i), _unit(c), hz, row) for i, (c, row) in enumerate(zip(channels, values, strict=True))]


def _check(group: Any) -> None:
    leads, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    check_size(leads, leads * samples)
    check_hz(float(group.SamplingFrequency))
    if len(group.WaveformData) < leads * samples * int(group.WaveformBitsAllocated) // 8:
        raise Refusal(
            "wave-truncated",
            f"The header promises {samples} samples of {leads} channels; the data end before.",
            hint="Copy or export the file again.",
        )
    if len(group.ChannelDefinitionSequence) != leads:
        raise Refusal("wave-unreadable", f"{leads} channels, {len(group.ChannelDefinitionSequence)} definitions.")


def _original(group: Any) -> bool:
    return str(group.get("WaveformOriginality", "ORIGINAL")) == "ORIGINAL"


def _padding(group: Any) -> int:
    value = group.WaveformPaddingValue  # OB or OW: bytes of one sample
    if isinstance(value, bytes):
        return int.from_bytes(value[: int(group.WaveformBitsAllocated) // 8], "little", signed=True)
    return int(value)


def _name(channel: Any, index: int) -> str:
    label = str(channel.get("ChannelLabel", "") or "")
    source = channel.get("ChannelSourceSequence") or ()
    meaning = str(source[0].get("CodeMeaning", "") or "") if source else ""
    return lead_name(meaning or label or f"channel {index + 1}")


def _unit(channel: Any) -> str:
    units = channel.get("ChannelSensitivityUnitsSequence") or ()
    return str(units[0].get("CodeValue", "") or "") if units and "ChannelSensitivity" in channel else ""
