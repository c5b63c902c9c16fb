"""One JSON line a request on stderr: events with keys, never a value of a patient.

    log = make_log()
    log.info("request", trace=..., route="predict", status=200, ms=12.3)

File names, header values, query strings and message texts stay out: routes are named, not quoted.
"""

import asyncio
import datetime as dt
import sys
import threading
import time
from typing import Any, TextIO

import msgspec


class Log:
    """Lines of one stream. What is said on an event loop is written once a turn of it, anything else at once."""

    def __init__(self, stream: TextIO, always: dict[str, Any]) -> None:
        self._stream, self._always = stream, always
        self._encode = msgspec.json.Encoder(enc_hook=str).encode
        self._lines: list[bytes] = []
        self._turning: asyncio.AbstractEventLoop | None = None  # on which they will be written
        self._lock = threading.Lock()
        self._stamp = (0, "")  # a second, and its text

    def info(self, event: str, **keys: Any) -> None:
        self._say("info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        self._say("warning", event, keys)

    def _say(self, level: str, event: str, keys: dict[str, Any]) -> None:
        line = {**self._always, **keys, "event": event, "level": level, "timestamp": self._now()}
        said = self._encode(line) + b"\n"
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        with self._lock:
            self._lines.append(said)
            if loop is not None and self._turning is loop:
                return
            self._turning = loop
        if loop is None:
            self.flush()
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was said."""
        with self._lock:
            lines, self._lines, self._turning = self._lines, [], None
            self._stream.write(b"".join(lines).decode())
            self._stream.flush()

    def _now(self) -> str:
        now = time.time()
        second, text = self._stamp
        if int(now) != second:
            second = int(now)
            text = dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._stamp = second, text
        return f"{text}{int((now - second) * 1e6):06d}Z"


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
