"""An answer on its way out: written down in the audit log before its first byte, and marked with its trace.

    watched = Watch(send, trace, record, headers)
    await app(scope, receive, watched)
    watched.status, watched.failure         # 0 where nothing was answered yet

Whatever answers behind it, the control plane or a prediction, nothing leaves that could not be written down.
"""

from collections.abc import Awaitable, Callable

from medserve.access.audit import AuditFault, unwritable
from medserve.errors import MedServeError
from medserve.serving.wire import Header, Message, Send


class Watch:
    """Passes messages on once `before` has written the request down, remembers the status, and puts the trace on
    answers of the control plane. failure: why it could not be written down; then nothing but that is answered."""

    def __init__(
        self, send: Send, trace: str, before: Callable[[int], Awaitable[None]], more: tuple[Header, ...] = ()
    ) -> None:
        self._send, self._trace, self._before, self._more = send, trace.encode(), before, more
        self.status = 0
        self.failure: MedServeError | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.failure is None:
                try:
                    await self._before(message["status"])
                except Exception as error:
                    known = error if isinstance(error, MedServeError) else unwritable()
                    self.failure = AuditFault(known.code, known.message, hint=known.hint)
                    raise self.failure from error
            elif message["status"] != self.failure.status:
                raise self.failure
            self.status = message["status"]
            if self._more:
                message = {**message, "headers": [*message["headers"], *self._more]}
            if not any(name == b"x-trace-id" for name, _ in message["headers"]):
                message = {**message, "headers": [*message["headers"], (b"x-trace-id", self._trace)]}
        await self._send(message)
