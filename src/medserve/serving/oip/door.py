"""gRPC: each call becomes a request to the same ASGI application, so that one door identifies, decides and writes down.

    door = GrpcDoor(application, Address("127.0.0.1", 8001), tls=None)
    await door.open()
    await door.close(30)

Metadata of a call stand for headers: authorization, x-purpose, x-priority, and a trace. The call's deadline is the
request's, and a call that is cancelled a client that left. The message of a stranger is never read; that is why every
method is served as one that takes a stream, which on the wire is the same. Health (`grpc.health.v1.Health` too) answers
without a key, for the service as a whole, and reads nothing either.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from medserve.access.policy import Principal
from medserve.errors import Busy, Denied, Usage
from medserve.runtime.naming import new_id
from medserve.serving.address import Address
from medserve.serving.asgi import Application
from medserve.serving.http import HEAD_S
from medserve.serving.oip.messages import pb, plain, request_of, response_of
from medserve.serving.oip.room import Room
from medserve.serving.oip.words import HEAD_LENGTH
from medserve.serving.tls import Tls
from medserve.serving.wire import Header, Message, Scope

SERVICE = "inference.GRPCInferenceService"
HEADERS = ("authorization", "x-purpose", "x-priority", "x-request-deadline-ms", "traceparent", "tracestate")
MOST_CALLS = 512
IDLE_S = 300
HOLD_S = 0.2  # of answers, when the service stops
WAIT_S = 5.0  # for room, with the message unread
MORE_BYTES = 2**16  # of a message around its file
COPIES = 2  # of a message: as it came, and as it was read
INLINE_BYTES = 64 * 1024  # a longer message is read in a thread
_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION, 410: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 499: grpc.StatusCode.CANCELLED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED, 0: grpc.StatusCode.INTERNAL,
}  # fmt: skip
_RETRY, _TRACE = b"retry-after", b"x-trace-id"


class GrpcDoor:
    """A second way into an application, beside HTTP; `server.Server` opens it when it starts and closes it first.

    Args:
        application: its limits hold here too. address: port 0 takes a free one; then `url` says which.
    """

    def __init__(self, application: Application, address: Address, *, tls: Tls | None = None) -> None:
        self._address, self._tls = address, tls
        self._bounds = [
            ("grpc.max_receive_message_length", application.limits.max_upload_bytes + MORE_BYTES),
            ("grpc.max_metadata_size", 32 * 1024),
            ("grpc.max_connection_idle_ms", IDLE_S * 1000),
            ("grpc.server_handshake_timeout_ms", int(HEAD_S * 1000)),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.bdp_probe", 0),  # else the window of a message that nobody reads yet grows to megabytes
        ]
        self._door = _Door(application, "http" if tls is None else "https")
        self._server: Any = None
        self.url = ""

    async def open(self) -> None:
        """Raises: Usage "port-taken"."""
        server = grpc.aio.server(options=self._bounds, maximum_concurrent_rpcs=MOST_CALLS)
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(SERVICE, self._door.handlers()),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": _served(self._door.check)}),
        ))  # fmt: skip
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        wanted = f"{host}:{self._address.port}"
        try:
            if self._tls is None:
                port = server.add_insecure_port(wanted)
            else:
                port = server.add_secure_port(wanted, _secured(self._tls))
        except RuntimeError as error:
            why = f"Cannot listen on {wanted} for gRPC."
            raise Usage("port-taken", why, hint="Choose another --grpc-port.") from error
        await server.start()
        self._server, self.url = server, f"{host}:{port}"

    async def close(self, grace_s: float) -> None:
        """Take no more calls, and finish those that were taken.

        From the moment at which it stops until its clients have heard so, gRPC cancels what they send. So answers are
        held back for a moment: whoever has one under way hears first that he is to go elsewhere, and then his answer.
        """
        if self._server is not None:
            self._door.leaving = released = asyncio.Event()
            await asyncio.sleep(HOLD_S)
            stopping = asyncio.ensure_future(self._server.stop(grace_s))
            await asyncio.sleep(HOLD_S / 4)
            released.set()
            await stopping
            await self._door.ended()


def _secured(tls: Tls) -> Any:
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    clients = tls.clients.read_bytes() if tls.clients else None
    return grpc.ssl_server_credentials([pair], root_certificates=clients, require_client_auth=clients is not None)


def _served(work: Callable[[Any, Any], Any]) -> Any:
    """work: is given the messages of a call, unread and as bytes, and its context."""
    return grpc.stream_unary_rpc_method_handler(work, response_serializer=lambda message: message.SerializeToString())


class Ended(Exception):
    """A call ends without its answer."""

    def __init__(self, code: grpc.StatusCode, said: str) -> None:
        super().__init__(said)
        self.code, self.said = code, said


class _Answer:
    """What the application sends for one request."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


class _Door:
    def __init__(self, application: Application, scheme: str) -> None:
        self._application, self._scheme = application, scheme
        limits = application.limits
        self.room = Room(limits.max_inflight_bytes, COPIES * (limits.max_upload_bytes + MORE_BYTES))
        self._tasks: set[asyncio.Task[None]] = set()
        self.leaving: asyncio.Event | None = None  # answers wait for it

    async def _let_go(self) -> None:
        if self.leaving is not None:
            await self.leaving.wait()

    async def ended(self) -> None:
        """Also those whose callers left have been written down."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def handlers(self) -> dict[str, Any]:
        """By method. What a stranger asks for is refused under the address that stands beside it."""
        model, repository = "/v2/models/-", "/v2/repository"
        known: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
            "ServerMetadata": (self.server, "GET", "/v2"),
            "ModelReady": (self.model_ready, "GET", f"{model}/ready"),
            "ModelMetadata": (self.model, "GET", model),
            "ModelInfer": (self.infer, "POST", f"{model}/infer"),
            "RepositoryIndex": (self.index, "POST", f"{repository}/index"),
            "RepositoryModelLoad": (self.load, "POST", f"{repository}/models/-/load"),
            "RepositoryModelUnload": (self.unload, "POST", f"{repository}/models/-/unload"),
        }
        found = {"ServerLive": _served(self.live), "ServerReady": _served(self.ready)}
        return found | {name: _served(self._identified(name, *given)) for name, given in known.items()}

    def _identified(self, name: str, work: Callable[[Any, Any], Any], method: str, path: str) -> Callable[..., Any]:
        read = getattr(pb, f"{name}Request").FromString

        async def call(messages: Any, context: Any) -> Any:
            caller = await self._caller(context)
            try:
                if caller is None:
                    await self._good(context, await self._ask(context, method, path))  # written down; it raises 401
                    raise Ended(grpc.StatusCode.UNAUTHENTICATED, "The key was refused.")
                answer = await self._answered(work, read, caller.id, context)
                await self._let_go()
                return answer
            except Ended as error:
                code, said = error.code, error.said
            except DecodeError:
                self._application.refused(new_id(), "grpc-invalid", 400)
                code, said = grpc.StatusCode.INVALID_ARGUMENT, f"grpc-invalid: This is no {name}Request."
            await context.abort(
                code, said
            )  # from here: its exception and this frame hold each other until a collection

        return call

    async def _answered(
        self, work: Callable[[Any, Any], Any], read: Callable[[bytes], Any], who: str, context: Any
    ) -> Any:
        """Raises: Ended, DecodeError."""
        try:
            async with self.room.held(who, wait_s=WAIT_S) as held:
                try:
                    async with asyncio.timeout(self._application.limits.deadline_s):
                        said = await context.read()  # of `messages`, whose generator would keep it
                except TimeoutError:
                    why = "body-slow: The message came too slowly."
                    raise Ended(grpc.StatusCode.DEADLINE_EXCEEDED, why) from None
                data: bytes = b"" if said is grpc.aio.EOF else said
                held.is_now(COPIES * len(data))
                request = read(data) if len(data) <= INLINE_BYTES else await asyncio.to_thread(read, data)
                del data, said
                return await work(request, context)
        except Busy as full:
            self._application.refused(new_id(), full.code, full.status)
            context.set_trailing_metadata([("retry-after", str(math.ceil(full.retry_after_s)))])
            raise Ended(_STATUS[full.status], f"{full.code}: {full.message} {full.hint}") from None

    async def _caller(self, context: Any) -> Principal | None:
        """None: the application would refuse him whatever he asks for."""
        said = next((v for k, v in context.invocation_metadata() or () if k == "authorization"), "")
        scheme, _, shown = str(said).partition(" ")
        if scheme.lower() != "bearer":
            return None
        identity, shown = self._application.identity, shown.strip()
        try:
            if identity.cached(shown):
                return identity.verify(shown)
            return await asyncio.to_thread(identity.verify, shown)
        except Denied:
            return None

    async def _ask(
        self,
        context: Any,
        method: str,
        path: str,
        body: bytes | Callable[[list[Header]], bytes] = b"",
        *,
        size: int = 0,
    ) -> _Answer:
        """The application's answer. A call that is cancelled looks to it like a client that left.

        Args:
            body: or what makes it when the application reads it, and may add headers. size: about as many bytes.
        """
        given = [(k.encode(), v.encode("latin-1", errors="replace")) for k, v in context.invocation_metadata() or ()
                 if k in HEADERS and isinstance(v, str)]  # fmt: skip
        left = context.time_remaining()
        if left is not None and not any(name == b"x-request-deadline-ms" for name, _ in given):
            given.append((b"x-request-deadline-ms", str(min(10**8, max(1, int(left * 1000)))).encode()))
        size = len(body) if isinstance(body, bytes) else size
        headers: list[Header] = [*given, (b"content-length", str(size).encode())]
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "2", "method": method, "path": path,
            "raw_path": path.encode(), "root_path": "", "query_string": b"", "scheme": self._scheme, "server": None,
            "headers": headers, "client": _peer(context.peer()),
        }  # fmt: skip
        gone, read = asyncio.Event(), False

        async def receive() -> Message:
            nonlocal read
            if read:
                await gone.wait()
                return {"type": "http.disconnect"}
            read = True
            if isinstance(body, bytes):
                made = body
            else:
                made = body(headers) if size <= INLINE_BYTES else await asyncio.to_thread(body, headers)
            return {"type": "http.request", "body": made, "more_body": False}

        answer = _Answer()
        task = asyncio.ensure_future(self._application(scope, receive, answer.send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            raise
        return answer

    async def _good(self, context: Any, answer: _Answer) -> _Answer:
        told = [("x-trace-id", answer.headers.get(_TRACE, b"").decode())]
        if _RETRY in answer.headers:
            told.append(("retry-after", answer.headers[_RETRY].decode()))
        context.set_trailing_metadata(told)
        if answer.status >= 400 or not answer.status:
            raise Ended(_STATUS.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT), _said(answer.body))
        return answer

    async def _json(self, context: Any, method: str, path: str, body: bytes = b"") -> Any:
        return msgspec.json.decode((await self._good(context, await self._ask(context, method, path, body))).body)

    async def live(self, messages: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=(await self._ask(context, "GET", "/v2/health/live")).status == 200)

    async def ready(self, messages: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=(await self._ask(context, "GET", "/v2/health/ready")).status == 200)

    async def check(self, messages: Any, context: Any) -> Any:
        ready = (await self._ask(context, "GET", "/v2/health/ready")).status == 200
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if ready else kinds.NOT_SERVING)

    async def server(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**await self._json(context, "GET", "/v2"))

    async def model_ready(self, request: Any, context: Any) -> Any:
        answer = await self._ask(context, "GET", f"{_model(request.name, request.version)}/ready")
        if answer.status not in (200, 503):
            await self._good(context, answer)
        return pb.ModelReadyResponse(ready=answer.status == 200)

    async def model(self, request: Any, context: Any) -> Any:
        found = await self._json(context, "GET", _model(request.name, request.version))
        for side in ("inputs", "outputs"):
            found[side] = [pb.ModelMetadataResponse.TensorMetadata(**one) for one in found[side]]
        return pb.ModelMetadataResponse(**found)

    async def index(self, request: Any, context: Any) -> Any:
        body = msgspec.json.encode({"ready": request.ready})
        found = await self._json(context, "POST", "/v2/repository/index", body)
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(models=[entry(**one) for one in found])

    async def load(self, request: Any, context: Any) -> Any:
        await self._change(request, context, "load")
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any, context: Any) -> Any:
        await self._change(request, context, "unload")
        return pb.RepositoryModelUnloadResponse()

    async def _change(self, request: Any, context: Any, what: str) -> None:
        body = msgspec.json.encode({"parameters": plain(request.parameters)})
        await self._json(context, "POST", f"/v2/repository/models/{_step(request.model_name)}/{what}", body)

    async def infer(self, request: Any, context: Any) -> Any:
        def body(headers: list[Header]) -> bytes:
            head, behind = request_of(request)
            headers.append((HEAD_LENGTH, str(len(head)).encode()))
            return b"".join([head, *behind])

        path = f"{_model(request.model_name, request.model_version)}/infer"
        answer = await self._good(context, await self._ask(context, "POST", path, body, size=request.ByteSize()))
        return response_of(answer.body, int(answer.headers.get(HEAD_LENGTH, str(len(answer.body)).encode())))


def _step(name: str) -> str:
    """One step of an address; a name that would be several, or none, is nobody's."""
    return name if name and "/" not in name else "\N{REPLACEMENT CHARACTER}"


def _model(name: str, version: str) -> str:
    return f"/v2/models/{_step(name)}" + (f"/versions/{_step(version)}" if version else "")


def _peer(text: str) -> tuple[str, int] | None:
    """ipv4:127.0.0.1:50000, ipv6:%5B::1%5D:50000."""
    kind, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    with contextlib.suppress(ValueError):
        if kind in ("ipv4", "ipv6"):
            return host.replace("%5B", "").replace("%5D", "").strip("[]"), int(port)
    return None


def _said(body: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
        found = msgspec.json.decode(body)["error"]
        return found if isinstance(found, str) else f"{found['code']}: {found['message']} {found['hint']}".strip()
    return "The service gave no reason."
