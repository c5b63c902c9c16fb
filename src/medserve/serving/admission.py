"""How much may be under way at once, decided before a body is read.

    with admission.admit(bytes_expected):
        body = await read_body(...)

Two bounds hold the memory of the process: requests under way, and the bytes set aside for their bodies.
"""

import contextlib
from collections.abc import Iterator

from medserve.errors import Busy


class Admission:
    """Counts of one event loop; not for several threads."""

    def __init__(self, *, max_requests: int = 256, max_bytes: int = 512 * 2**20) -> None:
        self.max_requests, self._max_bytes = max_requests, max_bytes
        self.requests = 0
        self.bytes = 0
        self.leaving = False  # the process ends: not ready, and still answering
        self.draining = False  # nothing new is let in

    @contextlib.contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Hold room for one request with a body of `size` bytes.

        Raises: Busy "service-stopping", "service-full" (503). A lone request is never too large.
        """
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
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size
