"""PhysioNet/CinC Challenge 2012: one text file a stay in intensive care, `Time,Parameter,Value`.

    for record, static, events in read(Path("set-a.zip"), account): ...
    static      # {"Age": 54.0, "Gender": 0.0, "ICUType": 4.0, "Weight": 81.6}; what is unknown is left out
    events[0]   # Event(time=0.117, code="HR", value=73.0)

Times are hours from admission. The general descriptors at 00:00 are static inputs; -1 means unknown. A weight at a
later time is a measurement like any other. The format gives no units.
Source: Silva et al., Computing in Cardiology 39:245 (2012).
"""

from collections.abc import Iterator
from pathlib import Path

from medserve.data.readers.records._account import Account
from medserve.data.readers.records._files import Source
from medserve.data.readers.records._spill import Timeline
from medserve.data.readers.records._time import clock_hours
from medserve.types import Event

HEADER = b"Time,Parameter,Value"
STATIC = ("Age", "Gender", "Height", "ICUType", "Weight")
UNKNOWN = -1.0
MAX_BYTES = 4 * 2**20  # of one stay; the longest of set A has 30 kB


def read(path: Path, account: Account) -> Iterator[Timeline]:
    """Every stay of a folder or a zip, in the order of the file names."""
    with Source(path) as source:
        for name in source.names:
            if not name.lower().endswith(".txt"):
                continue
            data = source.read(name, MAX_BYTES)
            if data is None:
                account.skip("file", "too-large")
            elif not data.startswith(HEADER):
                account.ignored["file"] += 1  # the outcomes stand beside the stays
            else:
                yield stay(data, name.rsplit("/", 1)[-1][:-4], account)


def stay(data: bytes, name: str, account: Account) -> Timeline:
    """One file. name: the patient, where the file holds no RecordID."""
    static: dict[str, float] = {}
    events: list[Event] = []
    record, read = name, 0
    for line in data.decode("utf-8", "replace").splitlines()[1:]:
        parts = line.split(",")
        if len(parts) != 3 or not parts[1]:
            if line.strip():
                account.skip("event", "malformed")
            continue
        when, code, said = parts
        if code == "RecordID":
            record = said.strip() or name
            continue
        time = clock_hours(when)
        try:
            value = float(said)
        except ValueError:
            value = float("nan")
        if time is None or value - value != 0:  # not finite
            account.skip("event", "no-time" if time is None else "no-number")
        elif code in STATIC and time == 0:
            if value != UNKNOWN:
                static[code] = value
            read += 1
        elif value == UNKNOWN:
            account.skip("event", "unknown-value")
        else:
            events.append(Event(time, code, value))
            read += 1
    account.read["stay"] += 1
    account.read["event"] += read
    events.sort(key=lambda event: event.time)
    return record, static, events
