"""What passes between a service and its decoding workers: a length, a msgpack head, raw bytes."""

from typing import IO, Any

import msgspec


class Asked(msgspec.Struct, array_like=True, frozen=True):
    """bytes: of the file, which follows. seconds: of processor time."""

    what: str
    bytes: int
    seconds: float
    name: str = ""
    max_pixels: int = 0
    volume: bool = False
    media: str | None = None
    unit: str | None = None


class Told(msgspec.Struct, array_like=True, frozen=True):
    """One thing found (`said`, and `bytes` of values that follow); an error (class, code, message, hint); the end."""

    last: bool = False
    error: tuple[str, str, str, str] | None = None
    said: Any = None
    bytes: int = 0


decode_asked = msgspec.msgpack.Decoder(Asked).decode
decode_told = msgspec.msgpack.Decoder(Told).decode
_encode = msgspec.msgpack.Encoder().encode


def send(pipe: IO[bytes], head: Asked | Told, data: Any = b"") -> None:
    encoded = _encode(head)
    pipe.write(len(encoded).to_bytes(4, "little") + encoded)
    if len(data):
        pipe.write(data)
    pipe.flush()


def read_exactly(pipe: IO[bytes], size: int) -> bytearray | None:
    """None where the pipe ends before."""
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        got = pipe.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            return None
        at += got
    return found
