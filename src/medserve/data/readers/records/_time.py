"""Times and numbers as records write them; of times, hours.

    iso_hours("2020-05-01T12:30:00+02:00")     # hours since 1970-01-01T00:00Z
    clock_hours("47:30")                       # 47.5

A date without a time stands at the start of its day. A month or a year alone stands at its END: an event must not
look as if it had been known before it happened. A time without a zone is taken as UTC.
"""

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


LONGEST = 64  # characters


def iso_hours(text: str) -> float | None:
    """Any precision of a FHIR date, dateTime or instant, and the usual SQL ones; None: it is no date."""
    return _iso_hours(text) if len(text) <= LONGEST else None


@lru_cache(65536)
def _iso_hours(text: str) -> float | None:
    text = text.strip()
    try:
        if len(text) == 4:
            when = datetime(int(text), 12, 31, 23, 59, 59)
        elif len(text) == 7 and text[4] == "-":
            year, month = int(text[:4]), int(text[5:])
            when = datetime(year, month, monthrange(year, month)[1], 23, 59, 59)
        else:
            when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return (when - _EPOCH) / _HOUR
    except (ValueError, OverflowError):
        return None


def clock_hours(text: str) -> float | None:
    """`hh:mm` or `hh:mm:ss` since the start of the record; the hours may pass 24."""
    parts = text.strip().split(":")
    if not 2 <= len(parts) <= 3:
        return None
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        return None
    if min(numbers) < 0 or max(numbers[1:]) > 59 or numbers[0] > 10**6:
        return None
    return sum(n / 60.0**i for i, n in enumerate(numbers))


def finite(text: str) -> float | None:
    """None: it is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value - value == 0 else None
