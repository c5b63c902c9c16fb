"""gRPC: each call becomes a request to the same ASGI application, so that one door identifies, decides and writes down.

    server, port = await open_grpc(application, "127.0.0.1", 8001, tls=None, most_bytes=64 * 2**20)

Metadata of a call stand for headers: authorization, x-purpose, x-priority, traceparent. The call's deadline is the
request's. `grpc.health.v1.Health` answers without a key, as the health addresses do.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import msgspec
import numpy as np
from grpc_health.v1 import health_pb2

from medserve.errors import Usage
from medserve.serving.oip import open_inference_pb2
from medserve.serving.oip.words import DTYPES, HEAD_LENGTH
from medserve.serving.tls import Tls
from medserve.serving.wire import Message, Scope

pb: Any = open_inference_pb2  # made by a tool, without types
SERVICE = "inference.GRPCInferenceService"
HEADERS = ("authorization", "x-purpose", "x-priority", "x-request-deadline-ms", "traceparent")
MOST_CALLS = 512
_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_RETRY, _TRACE = b"retry-after", b"x-trace-id"


async def open_grpc(
    application: Callable[..., Any], host: str, port: int, *, tls: Tls | None, most_bytes: int
) -> tuple[Any, int]:
    """A started server and its port; 0 takes a free one. Raises: Usage "port-taken"."""
    bounds = [
        ("grpc.max_receive_message_length", most_bytes + 2**16),
        ("grpc.max_metadata_size", 32 * 1024),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=bounds, maximum_concurrent_rpcs=MOST_CALLS)
    door = _Door(application, "http" if tls is None else "https")
    unary: dict[str, Any] = {}
    for name, work in door.methods().items():
        request = getattr(pb, f"{name}Request")
        unary[name] = grpc.unary_unary_rpc_method_handler(
            work, request_deserializer=request.FromString, response_serializer=_bytes
        )
    asked = health_pb2.HealthCheckRequest.FromString
    check = grpc.unary_unary_rpc_method_handler(door.check, request_deserializer=asked, response_serializer=_bytes)
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler(SERVICE, unary),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
    ))  # fmt: skip
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _secured(tls))
    except RuntimeError as error:
        why = f"Cannot listen on {address} for gRPC."
        raise Usage("port-taken", why, hint="Choose another --grpc-port.") from error
    await server.start()
    return server, bound


def _secured(tls: Tls) -> Any:
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    clients = tls.clients.read_bytes() if tls.clients else None
    return grpc.ssl_server_credentials([pair], root_certificates=clients, require_client_auth=clients is not None)


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


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
    def __init__(self, application: Callable[..., Any], scheme: str) -> None:
        self._application, self._scheme = application, scheme
        self._tasks: set[asyncio.Task[None]] = set()

    def methods(self) -> dict[str, Any]:
        return {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server,
            "ModelMetadata": self.model,
            "ModelInfer": self.infer,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }

    async def _ask(
        self, context: Any, method: str, path: str, body: bytes = b"", more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> _Answer:
        """The application's answer. A call that is cancelled looks to it like a client that left."""
        given = [(k.encode(), v.encode("latin-1", errors="replace")) for k, v in context.invocation_metadata() or ()
                 if k in HEADERS and isinstance(v, str)]  # fmt: skip
        left = context.time_remaining()
        if left is not None and not any(name == b"x-request-deadline-ms" for name, _ in given):
            given.append((b"x-request-deadline-ms", str(min(10**8, max(1, int(left * 1000)))).encode()))
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "2", "method": method, "path": path,
            "raw_path": path.encode(), "root_path": "", "query_string": b"", "scheme": self._scheme, "server": None,
            "headers": [*given, (b"content-length", str(len(body)).encode()), *more], "client": _peer(context.peer()),
        }  # fmt: skip
        gone, waiting = asyncio.Event(), [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if waiting:
                return waiting.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

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
        if answer.status >= 400:
            await context.abort(_STATUS.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT), _said(answer.body))
        return answer

    async def _json(self, context: Any, method: str, path: str) -> Any:
        return msgspec.json.decode((await self._good(context, await self._ask(context, method, path))).body)

    async def live(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=(await self._ask(context, "GET", "/v2/health/live")).status == 200)

    async def ready(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=(await self._ask(context, "GET", "/v2/health/ready")).status == 200)

    async def check(self, request: Any, context: Any) -> Any:
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
        more = ((b"content-type", b"application/json"),)
        body = msgspec.json.encode({"ready": request.ready})
        answer = await self._good(context, await self._ask(context, "POST", "/v2/repository/index", body, more))
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(models=[entry(**one) for one in msgspec.json.decode(answer.body)])

    async def load(self, request: Any, context: Any) -> Any:
        path = f"/v2/repository/models/{_step(request.model_name)}/load"
        await self._good(context, await self._ask(context, "POST", path))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: Any, context: Any) -> Any:
        path = f"/v2/repository/models/{_step(request.model_name)}/unload"
        await self._good(context, await self._ask(context, "POST", path))
        return pb.RepositoryModelUnloadResponse()

    async def infer(self, request: Any, context: Any) -> Any:
        try:
            head, behind = _request(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"infer-invalid: {error}")
            raise
        more = ((b"content-type", b"application/octet-stream"), (HEAD_LENGTH, str(len(head)).encode()))
        path = f"{_model(request.model_name, request.model_version)}/infer"
        answer = await self._good(context, await self._ask(context, "POST", path, b"".join([head, *behind]), more))
        return _response(answer)


def _request(request: Any) -> tuple[bytes, list[bytes]]:
    """The same request as JSON, and the bytes of its tensors. Raises: ValueError."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise ValueError("raw_input_contents has not one entry for each input")
    behind = raw or [_packed(tensor) for tensor in request.inputs]
    inputs = [
        {"name": t.name, "shape": list(t.shape), "datatype": t.datatype,
         "parameters": _plain(t.parameters) | {"binary_data_size": len(data)}}
        for t, data in zip(request.inputs, behind, strict=True)
    ]  # fmt: skip
    said = {
        "id": request.id,
        "parameters": _plain(request.parameters) | {"binary_data_output": True},
        "inputs": inputs,
        "outputs": [{"name": want.name} for want in request.outputs],
    }
    return msgspec.json.encode(said), behind


def _packed(tensor: Any) -> bytes:
    """Typed contents as raw ones."""
    if tensor.datatype not in _CONTENTS:
        raise ValueError("a tensor's datatype has no contents")
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if tensor.datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    try:
        return np.array(values, DTYPES[tensor.datatype]).tobytes()
    except OverflowError as error:
        raise ValueError(f"a value does not fit {tensor.datatype}") from error


def _response(answer: _Answer) -> Any:
    length = int(answer.headers.get(HEAD_LENGTH, str(len(answer.body)).encode()))
    said = msgspec.json.decode(answer.body[:length])
    at, outputs, raw = length, [], []
    for one in said["outputs"]:
        size = one["parameters"]["binary_data_size"]
        raw.append(answer.body[at : at + size])
        at += size
        tensor = pb.ModelInferResponse.InferOutputTensor
        outputs.append(tensor(name=one["name"], datatype=one["datatype"], shape=one["shape"]))
    return pb.ModelInferResponse(
        model_name=said["model_name"], model_version=said.get("model_version", ""), id=said.get("id", ""),
        parameters={k: pb.InferParameter(string_param=str(v)) for k, v in said.get("parameters", {}).items()},
        outputs=outputs, raw_output_contents=raw,
    )  # fmt: skip


def _plain(parameters: Any) -> dict[str, Any]:
    return {k: getattr(v, v.WhichOneof("parameter_choice") or "string_param") for k, v in parameters.items()}


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
