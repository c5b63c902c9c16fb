"""What leaves the service: JSON, one form of error, and a trace id on everything.

await send_json(send, 200, answer, trace)
await send_error(send, error, trace, path)   # {"error": {"code", "message", "hint", "kind"}, "trace"}
"""

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from medserve.errors import Busy, Denied, MedServeError, Usage

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
SAFE: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
HSTS: Header = (b"strict-transport-security", b"max-age=31536000")  # over TLS only


class TooLarge(Usage):
    status = 413


class WrongMedia(Usage):
    status = 415


class WrongMethod(Usage):
    status = 405


class SlowBody(Usage):
    status = 408


class ClientLeft(Usage):
    """Nobody is there to read this; the status is for the log."""

    status = 499


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


async def send_json(send: Send, status: int, value: Any, trace: str, headers: tuple[Header, ...] = ()) -> None:
    await send_body(send, status, encode(value), trace, headers)


async def send_body(
    send: Send, status: int, body: bytes, trace: str, headers: tuple[Header, ...] = (), *, kind: bytes = JSON
) -> None:
    """JSON that is encoded already. kind: its media type."""
    start = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"x-trace-id", trace.encode()),
        *SAFE,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def error_headers(error: MedServeError) -> tuple[Header, ...]:
    """What a status asks for beside the body: when to come back, how to authenticate, which method is meant."""
    if isinstance(error, Busy):
        return ((b"retry-after", str(math.ceil(error.retry_after_s)).encode()),)
    if isinstance(error, Denied) and error.status == 401:
        return ((b"www-authenticate", b'Bearer realm="medserve"'),)
    if isinstance(error, WrongMethod):
        return ((b"allow", error.hint.removeprefix("Use ").removesuffix(".").encode()),)
    return ()


def is_open_inference(path: str) -> bool:
    """Whether it is an address of Open Inference Protocol, which has its own form of error; health has ours."""
    return path == "/v2" or path.startswith(("/v2/models", "/v2/repository"))


def error_body(error: MedServeError, trace: str, path: str) -> dict[str, Any]:
    """The error in the form of the address that was asked."""
    if is_open_inference(path):
        return {"error": f"{error.code}: {error}", "code": error.code, "kind": error.kind, "trace": trace}
    return {**error.as_dict(), "trace": trace}


async def send_error(send: Send, error: MedServeError, trace: str, path: str = "") -> None:
    await send_json(send, error.status, error_body(error, trace, path), trace, error_headers(error))


def header(scope: Scope, name: bytes) -> str:
    """The value of a header, the first where there are several, "" when absent. Names are lower case in a scope."""
    said = scope["headers"]
    kept: tuple[int, dict[bytes, bytes]] | None = scope.get("medserve.headers")
    if kept is None or kept[0] != len(said):  # a door may add some before the body is read
        kept = scope["medserve.headers"] = len(said), dict(reversed(said))
    value = kept[1].get(name)
    return "" if value is None else value.decode("latin-1")
