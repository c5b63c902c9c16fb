"""One stream of bytes as authenticated segments, written and read in bounded memory.

    writer = SegmentWriter(file.write, key, bound)
    writer.write(data)                                     # any number of times
    writer.finish()                                        # the last segment says that it is the last
    for plain in read_segments(file.read, key, bound, size=writer.size): ...

Each segment is AES-256-GCM under the object's own fresh key. Nonce: 3 zero bytes, the segment's number (8 bytes), 1 for
the last segment and else 0 (1 byte). Associated data: the caller's words (tenant, object, version, ...) and again
number and last. Nothing leaves `read_segments` before its segment was authenticated.
Source: Hoang, Reyhanitabar, Rogaway, Vizar, Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance
(CRYPTO 2015), the STREAM construction; a key that is used for one stream needs no nonce prefix.
"""

from collections.abc import Callable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medserve.errors import Fault
from medserve.store.wrap import TAG_BYTES, binding

SEGMENT_BYTES = 256 * 2**10
SMALLEST, LARGEST = 64 * 2**10, 2**20


class SegmentWriter:
    """Encrypts a stream; holds at most one segment. `size` counts the plaintext so far.

    Args:
        sink: takes each encrypted segment.
        key: 32 bytes, never used for another stream.
        bound: the words this stream belongs to.
        segment_bytes: plaintext bytes of a segment; all but the last are full.
    """

    def __init__(
        self, sink: Callable[[bytes], object], key: bytes, bound: bytes, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._sink, self._cipher, self._bound, self._segment = sink, AESGCM(key), bound, segment_bytes
        self._held = bytearray()
        self._number = 0
        self._finished = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._finished:
            raise ValueError("the stream is finished")
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._held:
            room = self._segment - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if not view:
                return  # a full segment waits: it may be the last one
            self._seal(self._held, last=False)
            self._held.clear()
        while len(view) > self._segment:
            self._seal(view[: self._segment], last=False)
            view = view[self._segment :]
        self._held += view

    def finish(self) -> None:
        """Write the last segment, which may be empty; the stream takes nothing more."""
        if self._finished:
            raise ValueError("the stream is finished")
        self._seal(self._held, last=True)
        self._held.clear()
        self._finished = True

    def _seal(self, plain: bytes | bytearray | memoryview, *, last: bool) -> None:
        self._sink(self._cipher.encrypt(*_terms(self._number, last, plain, self._bound)))
        self._number += 1


def read_segments(
    source: Callable[[int], bytes], key: bytes, bound: bytes, *, size: int, segment_bytes: int = SEGMENT_BYTES
) -> Iterator[bytes]:
    """The plaintext, segment by segment, each authenticated before it is yielded.

    Args:
        source: reads that many bytes, fewer only at the end.
        size: bytes of plaintext in the whole stream.

    Raises: Fault "object-damaged": altered, cut, longer, in another order, or from another stream.
    """
    cipher, count = AESGCM(key), segments_of(size, segment_bytes)
    for number in range(count):
        last = number == count - 1
        plain_bytes = size - number * segment_bytes if last else segment_bytes
        sealed = source(plain_bytes + TAG_BYTES)
        if len(sealed) != plain_bytes + TAG_BYTES or (last and source(1)):
            raise damaged()
        try:
            plain = cipher.decrypt(*_terms(number, last, sealed, bound))
        except InvalidTag:
            raise damaged() from None
        if plain or not last:
            yield plain


def segments_of(size: int, segment_bytes: int) -> int:
    """An empty stream has one segment; 2 * segment_bytes has two, one byte more three."""
    return max(1, -(-size // segment_bytes))


def sealed_bytes(size: int, segment_bytes: int) -> int:
    """Length of the encrypted stream."""
    return size + TAG_BYTES * segments_of(size, segment_bytes)


def damaged() -> Fault:
    return Fault(
        "object-damaged",
        "A stored object does not open: its bytes are not those that were written for it.",
        hint="Restore it from a backup; nothing of a damaged part was given out.",
    )


def _terms(number: int, last: bool, data: bytes | bytearray | memoryview, bound: bytes) -> tuple[bytes, bytes, bytes]:
    """(nonce, data, associated data)"""
    nonce = bytes(3) + number.to_bytes(8) + bytes([last])
    return nonce, data, bound + binding(number, int(last))  # type: ignore[return-value]
