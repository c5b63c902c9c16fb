"""Waveforms written as text: UCR files (a case a row) and tables of samples (a lead a column).

    labels, waves = read_ucr(Path("ECG200_TRAIN.tsv"))      # ["1", "0", ...], [Wave, ...]
    found = signals_of_csv(b"time,I,II\\n0.000,0.01,0.02\\n0.004,...")

A UCR row is its label, then its samples, parted by tabs, commas or blanks. Unit and rate stay unknown ("" and 0).
A table of samples has a header row of lead names, "name (unit)" where the unit is known; a first column called time (in
seconds; "time (ms)" in milliseconds) gives the rate. Without a time column the rate stays unknown.
Source: Dau et al., The UCR time series archive, 2018.
"""

import io
import re
from pathlib import Path

import numpy as np

from medserve.data.readers.waves._signals import MAX_SAMPLES, Signal, check_hz, check_size, lead_name
from medserve.errors import BadData, Refusal
from medserve.types import Array, Wave

MAX_TEXT_BYTES = 2**30
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?|[nN]a[nN]|")


def read_ucr(source: Path | bytes, *, name: str = "") -> tuple[list[str], list[Wave]]:
    """Every row of one file: the labels as they are written ("1" for 1.0), and one lead of samples each.

    Rows of one file may differ in length; NaN at a row's end is padding and is cut off, NaN within stays missing.

    Raises: BadData "wave-unreadable", naming the row; "wave-empty", "wave-too-large".
    """
    name = name or (source.name if isinstance(source, Path) else "the file")
    data = source if isinstance(source, bytes) else source.read_bytes()
    if len(data) > MAX_TEXT_BYTES:
        raise BadData("wave-too-large", f"{name}: {len(data)} bytes; at most {MAX_TEXT_BYTES} are read.")
    labels, waves = [], []
    for number, line in enumerate(io.BytesIO(data), 1):
        words = line.decode("utf-8", "replace").replace(",", " ").replace("\t", " ").split()
        if not words:
            continue
        try:
            values = np.array(words[1:], float).astype(np.float32)
        except ValueError as error:
            raise BadData("wave-unreadable", f"{name}: row {number}: a label and numbers were expected.") from error
        known = np.flatnonzero(~np.isnan(values))
        if not len(known) or np.isinf(values).any():
            raise BadData("wave-unreadable", f"{name}: row {number}: no samples, or an infinite one.")
        labels.append(_label(words[0]))
        waves.append(Wave.of(values[None, : known[-1] + 1], ["1"], 0.0, ""))
    if not waves:
        raise BadData("wave-empty", f"{name}: the file holds no rows.")
    return labels, waves


def _label(word: str) -> str:
    try:
        return f"{float(word):g}"
    except ValueError:
        return word


def looks_like_numbers(head: bytes) -> bool:
    """Text whose second whole row is numbers, or that is one row of numbers."""
    if not head or b"\0" in head:
        return False
    try:
        lines = head.decode("utf-8", "strict" if len(head) < 1024 else "ignore").splitlines()
    except UnicodeDecodeError:
        return False
    row = lines[1] if len(lines) > 1 else lines[0]
    if len(lines) == 2 and len(head) >= 1024:  # the row may be cut off within a number
        row = row[: max(row.rfind(","), row.rfind("\t"), row.rfind(";"))]
    words = [w.strip() for w in re.split(r"[,;\t]", row)]
    return bool(row.strip()) and all(_NUMBER.fullmatch(w) for w in words)


def signals_of_csv(data: bytes) -> list[Signal]:
    """Raises: Refusal."""
    text = data.decode("utf-8-sig", "replace")
    first, _, rest = text.partition("\n")
    sign = max(",;\t", key=first.count)
    names = [word.strip().strip('"') for word in first.split(sign)]
    headed = not all(_NUMBER.fullmatch(word) for word in names)
    if not headed:
        rest, names = text, [f"{i + 1}" for i in range(len(names))]
    rows = rest.count("\n") + 1
    check_size(len(names), min(len(names) * rows, MAX_SAMPLES + 1))
    try:
        values = np.genfromtxt(io.StringIO(rest), delimiter=sign, dtype=np.float64, ndmin=2, invalid_raise=True)
    except ValueError as error:
        raise Refusal("wave-unreadable", f"Rows of {len(names)} numbers were expected.") from error
    if not values.size or values.shape[1] != len(names):
        raise Refusal("wave-empty" if not values.size else "wave-unreadable", "Rows of numbers were expected.")
    _only_gaps_are_missing(rest, sign, values)
    time = re.fullmatch(r"(?i)(time|t|seconds)\s*[\[(]?(s|sec|ms)?[\])]?", names[0]) if headed else None
    hz = 0.0
    if time:
        hz = _rate(values[:, 0] / (1000 if (time[2] or "").lower() == "ms" else 1))
        values, names = values[:, 1:], names[1:]
    elif not headed and len(values) == 1:  # one row of samples: one lead
        values, names = values.T, ["1"]
    check_size(len(names), values.size)
    return [Signal(*_name_and_unit(n), hz, np.asarray(v, np.float32)) for n, v in zip(names, values.T, strict=True)]


def _rate(seconds: Array) -> float:
    steps = np.diff(seconds)
    if not len(steps) or not np.isfinite(steps).all() or not (steps > 0).all():
        raise Refusal("wave-unreadable", "The time column does not rise from row to row.")
    step = float(np.median(steps))
    if np.abs(steps - step).max() > 0.5 * step:
        raise Refusal(
            "wave-unreadable",
            "The samples are not evenly spaced in time.",
            hint="Export the record at one sampling rate, with an empty cell where nothing was recorded.",
        )
    return check_hz(round((len(seconds) - 1) / float(seconds[-1] - seconds[0]), 3))


def _only_gaps_are_missing(text: str, sign: str, values: Array) -> None:
    """A word that is no number must not become a missing value."""
    if not np.isnan(values).any():
        return
    rows = [line for line in text.splitlines() if line.strip()]
    for row in np.flatnonzero(np.isnan(values).any(1)):
        if not all(_NUMBER.fullmatch(word.strip()) for word in rows[row].split(sign)):
            raise Refusal("wave-unreadable", f"Row {row + 1} of the samples holds something that is no number.")


def _name_and_unit(said: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?)\s*[\[(]([^\])]{1,12})[\])]", said)
    return (lead_name(found[1]), found[2]) if found else (lead_name(said), "")
