"""Every error a person or a client can meet: a stable code, what was expected, and the next step.

    raise Refusal("image-blank", "The image holds one single value.", hint="Send the picture as acquired.")

One shape everywhere (`as_dict`): `{"error": {"code", "message", "hint", "kind"}}`. A message may echo a
file name or a parameter, never a patient's value. `assert` guards our own logic; these guard input.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class MedServeError(Exception):
    """Base of the family.

    Args:
        code: stable, lower-case, dash-separated; clients may branch on it.
        message: what was asked and what was expected.
        hint: the next step for the reader.
    """

    kind: ClassVar[str] = "fault"  # refusal | usage | access | capacity | fault
    status: ClassVar[int] = 500  # HTTP
    exit_code: ClassVar[int] = 1  # command line: 1 failed, 2 bad input

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process boundaries whole
        return (_rebuild, (type(self), self.code, self.message, self.hint))

    def as_dict(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, "kind": self.kind}}


def _rebuild(cls: type[MedServeError], code: str, message: str, hint: str) -> MedServeError:
    error = cls.__new__(cls)
    MedServeError.__init__(error, code, message, hint=hint)
    return error


class Refusal(MedServeError):
    """One input is out of scope or unreadable; never a silent score."""

    kind, status, exit_code = "refusal", 422, 2


class BadData(MedServeError):
    """A data set cannot be used as it stands."""

    kind, status, exit_code = "refusal", 422, 2


class Usage(MedServeError):
    """The caller asked for something that does not exist or does not fit."""

    kind, status, exit_code = "usage", 400, 2


class NotFound(Usage):
    """A name that is not in the list of known names; the message lists its neighbours, unless the list is a secret."""

    status = 404

    def __init__(self, what: str, name: str, known: Iterable[str] | None, *, hint: str = "") -> None:
        near = "" if known is None else f" ({neighbours(name, known)})"
        called = name if name.startswith("of this ") else f"named {name!r}"  # a digest or a path is not repeated
        super().__init__(f"unknown-{what.replace(' ', '-')}", f"No {what} {called}{near}.", hint=hint)


class Gone(Usage):
    """It was here and has been destroyed on purpose."""

    status = 410


class BadPackage(MedServeError):
    """A model package is altered, unsigned, incomplete or from a signer who is not trusted."""

    kind, status, exit_code = "refusal", 422, 2


class Denied(MedServeError):
    """No key, a wrong key, or a key without the right."""

    kind, status, exit_code = "access", 401, 2


class Busy(MedServeError):
    """The service is full; `retry_after_s` tells when to come back."""

    kind, status = "capacity", 503

    def __init__(self, code: str, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(code, message, hint=hint)
        self.retry_after_s = retry_after_s


class Fault(MedServeError):
    """Our own failure, or the machine's (a full disk)."""


def neighbours(name: str, known: Iterable[str]) -> str:
    """'similar: a, b' or 'known: a, b' for an error message."""
    known = sorted(set(known))
    near = get_close_matches(name[:100], known, n=3)
    return f"similar: {', '.join(near)}" if near else f"known: {', '.join(known) or 'none'}"
