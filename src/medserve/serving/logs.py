"""One JSON line a request on stderr: events with keys, never a value of a patient.

    log = make_log()
    log.info("request", trace=..., route="predict", status=200, ms=12.3)

File names, header values, query strings and message texts stay out: routes are named, not quoted.
"""

import datetime as dt
import sys
from typing import Any, TextIO

import msgspec


class Log:
    """Lines of one stream, each written when it is said."""

    def __init__(self, stream: TextIO, always: dict[str, Any]) -> None:
        self._stream, self._always = stream, always

    def info(self, event: str, **keys: Any) -> None:
        self._say("info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        self._say("warning", event, keys)

    def _say(self, level: str, event: str, keys: dict[str, Any]) -> None:
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
        line = {**self._always, **keys, "event": event, "level": level, "timestamp": now}
        self._stream.write(msgspec.json.encode(line, enc_hook=str).decode() + "\n")
        self._stream.flush()


def make_log(stream: TextIO | None = None, **always: Any) -> Log:
    """A logger of its own; nothing global is configured. `always` stands on every line."""
    return Log(stream or sys.stderr, always)


def where(error: BaseException) -> str:
    """Type and place of an unexpected error, without its text: `KeyError at engine.py:41`."""
    place = error.__traceback__
    if place is None:
        return type(error).__name__
    while place.tb_next is not None:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{type(error).__name__} at {file}:{place.tb_lineno}"
