"""EDF, EDF+ and BDF, through edfio.

    found = signals(body)

An interrupted recording (EDF+D) is refused: its pauses are not in the samples, and a rhythm read over them is false.
Source: Kemp et al., "A simple format for exchange of digitized polygraphic recordings", 1992; edfplus.info.
"""

import io
import warnings
from typing import Any

import numpy as np

from medserve.data.readers.waves._signals import Signal, check_hz, check_size, lead_name
from medserve.errors import Refusal


def signals(data: bytes) -> list[Signal]:
    """Raises: Refusal; and whatever edfio raises on a damaged file."""
    import edfio

    _check(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # edfio warns of header fields that it reads nevertheless
        stream = io.BytesIO(data)
        if data[:1] == b"\xff":
            record: Any = edfio.read_bdf(stream)
        else:
            record = edfio.read_edf(stream, lazy_load_data=False)
        found = []
        for signal in record.signals:  # annotations are not among them
            hz = check_hz(float(signal.sampling_frequency))
            values = np.asarray(signal.data, np.float32)
            found.append(Signal(lead_name(signal.label), signal.physical_dimension.strip(), hz, values))
    if not found:
        raise Refusal("wave-empty", "The file holds annotations only.")
    return found


def _check(data: bytes) -> None:
    """The sizes that the header declares, against the limits and against the bytes that are there."""
    leads = _whole(data[252:256])
    check_size(leads, 1)
    header, records = 256 * (leads + 1), _whole(data[236:244])
    if len(data) < header:
        raise Refusal("wave-truncated", "The file ends within its header.", hint="Copy or export it again.")
    if data[192:197] in (b"EDF+D", b"BDF+D"):
        raise Refusal(
            "wave-unreadable",
            "The recording is interrupted (EDF+D); a continuous one was expected.",
            hint="Export each uninterrupted part as a file of its own.",
        )
    # after the fixed part each field stands for all leads together; samples a record begins at 216 bytes a lead
    start = 256 + 216 * leads
    per_record = sum(_whole(data[start + 8 * i : start + 8 * i + 8]) for i in range(leads))
    size = 3 if data[:1] == b"\xff" else 2
    if records == -1:  # still being written when it was copied: what is there counts
        records = (len(data) - header) // max(1, size * per_record)
    check_size(leads, per_record * records)
    if len(data) - header < size * per_record * records:
        raise Refusal(
            "wave-truncated",
            f"The header promises {records} data records; the data end before.",
            hint="Copy or export the file again.",
        )


def _whole(field: bytes) -> int:
    try:
        return int(field.decode("ascii").strip())
    except ValueError as error:
        raise Refusal("wave-unreadable", "The header of the EDF file holds no number where one is due.") from error
