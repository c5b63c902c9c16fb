"""Waveform readers: one record in, a `Wave` in physical units out, or a coded refusal. They know no model.

    wave = read_wave(Path("100.hea"))                    # WFDB: the header; its data files stand beside it
    wave = read_wave(body, name="ecg.dcm")               # DICOM, EDF, BDF, CSV, or a zip of one WFDB record
    labels, waves = read_ucr(path)                       # a UCR file: one case a row

Voltages become mV. A record that also holds leads of other units (a pulse, a pressure) loses them, with a note in
`notes`, unless `unit` asks for theirs. Whatever is wrong with a file, the answer is a `Refusal`:
    wave-unreadable  wave-truncated  wave-empty  wave-too-large  wave-unit  wave-flat
"""

from collections.abc import Callable
from pathlib import Path

import medserve.data.readers.waves.dicom_ecg as dicom_ecg
import medserve.data.readers.waves.edf as edf
import medserve.data.readers.waves.ucr as ucr
import medserve.data.readers.waves.wfdb as wfdb
from medserve.data.readers import outside
from medserve.data.readers.waves._signals import MAX_BYTES, MAX_LEADS, MAX_SAMPLES, Signal, as_wave, lead_name
from medserve.data.readers.waves.ucr import read_ucr
from medserve.errors import MedServeError, Refusal
from medserve.types import Wave

__all__ = ["MAX_LEADS", "MAX_SAMPLES", "MEDIA", "lead_name", "read_ucr", "read_wave", "sniff_wave"]

MEDIA: dict[str, Callable[[bytes], list[Signal]]] = {
    "application/dicom": dicom_ecg.signals,
    "application/edf": edf.signals,
    "application/bdf": edf.signals,
    "application/zip": wfdb.signals_of_zip,
    "text/csv": ucr.signals_of_csv,
}


def sniff_wave(head: bytes) -> str:
    """The media type that the first 1,024 bytes show; "" when they show none that is read here."""
    if head[128:132] == b"DICM":
        return "application/dicom"
    if head[:8] == b"0       " and head[184:192].strip().isdigit():
        return "application/edf"
    if head[:8] == b"\xffBIOSEMI":
        return "application/bdf"
    if head[:4] == b"PK\x03\x04":
        return "application/zip"
    if wfdb.looks_like_header(head):
        return "text/x-wfdb-header"
    return "text/csv" if ucr.looks_like_numbers(head) else ""


def read_wave(
    source: Path | str | bytes,
    *,
    name: str = "",
    media: str | None = None,
    unit: str | None = None,
    notes: list[str] | None = None,
) -> Wave:
    """One record.

    Args:
        source: the bytes of one file; or a path, for WFDB that of the header, with or without ".hea".
        name: what messages call the file.
        media: what the sender calls the bytes; their first bytes decide, and must not contradict it.
        unit: keep the leads of this unit; None: the voltages where there are any, in mV, else the commonest unit.
        notes: receives one sentence for whatever was left out or changed.

    Raises: Refusal, with a code of the list above, or "file-missing", "codec-missing".
    """
    if isinstance(source, bytes) and notes is None and (others := outside.crew()) is not None:
        return others.wave(source, name=name, media=media, unit=unit)
    where = None if isinstance(source, bytes) else Path(source)
    name = name or (where.name if where else "the record")
    kind = ""
    try:
        if where is not None and (header := wfdb.header_of(where)) is not None:
            kind, found = "WFDB", wfdb.signals_of_path(header)
        else:
            data = source if isinstance(source, bytes) else _bytes_of(Path(source))
            kind = _kind(data, media)
            found = MEDIA[kind](data)
        return as_wave(found, unit, notes if notes is not None else [])
    except MedServeError as error:
        raise type(error)(error.code, f"{name}: {error.message}", hint=error.hint) from error
    except ImportError as error:
        raise Refusal(
            "codec-missing",
            f"{name}: reading {kind} needs the Python package {error.name or 'of its format'}, which is not installed.",
            hint="Install it with: pip install 'medserve[signals]'",
        ) from error
    except MemoryError as error:
        raise Refusal("wave-too-large", f"{name}: the record does not fit into memory.") from error
    except Exception as error:  # the format libraries share no base class
        raise Refusal(
            "wave-unreadable",
            f"{name}: the file is damaged or not valid {kind or 'in any waveform format'} ({type(error).__name__}).",
            hint="Open it in a viewer, and export it again if that fails too.",
        ) from error


def _kind(data: bytes, media: str | None) -> str:
    if not data:
        raise Refusal("wave-empty", "The file holds no bytes.", hint="Copy or export it again.")
    if len(data) > MAX_BYTES:
        raise Refusal("wave-too-large", f"{len(data)} bytes; at most {MAX_BYTES} are read.")
    kind = sniff_wave(data[:1024])
    if kind == "text/x-wfdb-header":
        raise Refusal(
            "wave-unreadable",
            "A WFDB header came without its data.",
            hint="Send header and data together in one zip, or give the path of the header.",
        )
    if kind not in MEDIA:
        raise Refusal(
            "wave-unreadable",
            "The bytes are of no waveform format that is read here (WFDB, EDF, BDF, DICOM, CSV).",
            hint="The extension of a file is not looked at; export it in one of these formats.",
        )
    if media in MEDIA and media != kind:
        raise Refusal("wave-unreadable", f"The bytes were sent as {media} but are {kind}.")
    return kind


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Refusal("wave-too-large", f"{path.stat().st_size} bytes; at most {MAX_BYTES} are read.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Refusal("file-missing", "There is no such file.") from error
    except OSError as error:
        raise Refusal("wave-unreadable", f"{error.strerror}.") from error
