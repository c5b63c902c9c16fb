"""One JSON line a request on stderr: events with keys, never a value of a patient.

    log = make_log()
    log.info("request", trace=..., route="predict", status=200, ms=12.3)

File names, header values, query strings and message texts stay out: routes are named, not quoted.
"""

import sys
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger


def make_log(stream: TextIO | None = None, **always: Any) -> FilteringBoundLogger:
    """A logger of its own; nothing global is configured. `always` stands on every line."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        **always,
    )


def where(error: BaseException) -> str:
    """Type and place of an unexpected error, without its text: `KeyError at engine.py:41`."""
    place = error.__traceback__
    if place is None:
        return type(error).__name__
    while place.tb_next is not None:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{type(error).__name__} at {file}:{place.tb_lineno}"
