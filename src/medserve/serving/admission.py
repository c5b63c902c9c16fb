"""How much may be under way at once, decided before a body is read.

    with admission.admit(bytes_expected):
        body = await read_body(...)

Two bounds hold the memory of the process: requests under way, and the bytes set aside for their bodies.
"""

from medserve.errors import Busy


class Admission:
    """Counts of one event loop; not for several threads."""

    def __init__(self, *, max_requests: int = 256, max_bytes: int = 512 * 2**20) -> None:
        self.max_requests, self._max_bytes = max_requests, max_bytes
        self.requests = 0
        self.bytes = 0
        self.leaving = False  # the process ends: not ready, and still answering
        self.draining = False  # nothing new is let in

    def admit(self, size: int) -> "_Room":
        """Hold room for one request with a body of `size` bytes, until the end of a `with` block.

        Raises, as the block begins: Busy "service-stopping", "service-full" (503). A lone request is never too large.
        """
        return _Room(self, size)

    def _enter(self, size: int) -> None:
        if self.draining:
            raise Busy("service-stopping", "The service is shutting down.", hint="Try again in a moment.")
        if self.requests and (self.requests >= self.max_requests or self.bytes + size > self._max_bytes):
            raise Busy(
                "service-full",
                "Too many requests are under way.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=1,
            )
        self.requests += 1
        self.bytes += size


class _Room:
    """A class, because a generator costs several times as much."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission, self._size = admission, size

    def __enter__(self) -> None:
        self._admission._enter(self._size)

    def __exit__(self, *_: object) -> None:
        self._admission.requests -= 1
        self._admission.bytes -= self._size
