"""What enters the service: a body of known size, in bounded time, of the kind that its header says.

need  = expected_bytes(scope, limit)          # refused here, before the first byte
body  = await read_body(receive, limit, timing)          # or: async for part in parts_of(receive, limit, timing)
data  = picture_bytes(body, media, spec)      # the raw file, out of JSON where it was wrapped
"""

import asyncio
import time
import types
from collections.abc import AsyncGenerator, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from medserve.data.readers import HEAD_BYTES, sniff
from medserve.errors import Refusal, Usage
from medserve.models.spec import InputSpec, ModelSpec
from medserve.serving.schema import Predict, PredictCase
from medserve.serving.wire import JSON, ClientLeft, Message, Receive, Scope, SlowBody, TooLarge, WrongMedia, header

T = TypeVar("T")
JSON_TYPE = JSON.decode()


@dataclass(frozen=True, slots=True)
class BodyTiming:
    """stall_s: longest silence. least_rate: bytes a second that a body must keep after the first `stall_s`."""

    stall_s: float = 10.0
    least_rate: float = 16 * 1024


_decoder, _case_decoder = msgspec.json.Decoder(Predict), msgspec.json.Decoder(PredictCase)
PARTS = 10
MOST_CASE_BYTES = 256  # of a body that names a stored case


def media_type(scope: Scope, spec: ModelSpec) -> str:
    """The declared type of the body, without parameters.

    Raises: WrongMedia "media-type" (415): the model does not take it; "content-encoding".
    """
    return check_media(declared_media(scope), spec)


def declared_media(scope: Scope) -> str:
    """In lower case, without parameters; "" without the header.

    Raises: WrongMedia "content-encoding" (415): the body is compressed.
    """
    check_encoding(scope)
    return header(scope, b"content-type").partition(";")[0].strip().lower()


def check_encoding(scope: Scope) -> None:
    """Raises: WrongMedia "content-encoding" (415): what is compressed would be refused as something unreadable."""
    if header(scope, b"content-encoding").strip().lower() not in ("", "identity"):
        raise WrongMedia("content-encoding", "A body is taken as it is.", hint="Send it uncompressed.")


def check_media(media: str, spec: ModelSpec) -> str:
    """Raises: WrongMedia "media-type" (415): the model does not take it."""
    if media != JSON_TYPE and media not in spec.media_types:
        taken = [kind for kind in spec.media_types if kind != JSON_TYPE]
        raise WrongMedia(
            "media-type",
            f"The model takes {', '.join([*taken, JSON_TYPE])}; not {media or 'an untyped body'}.",
            hint=f"For instance: curl -H 'Content-Type: {spec.media_types[0]}' --data-binary @FILE",
        )
    return media


def body_limit(media: str, limit: int) -> int:
    """Base64 and JSON around a file cost a third more."""
    return limit * 4 // 3 + 1024 if media == JSON_TYPE else limit


def expected_bytes(scope: Scope, limit: int) -> int:
    """Bytes to set aside for the body: what it declares, or the limit for one of unknown length.

    Raises: TooLarge "body-too-large" (413), Usage "content-length" (400).
    """
    declared = header(scope, b"content-length")
    if not declared:
        return limit
    if not (declared.isascii() and declared.isdigit() and len(declared) < 20):
        raise Usage(
            "content-length",
            "Content-Length is not a number of bytes.",
            hint="Leave it to your client, which counts the body.",
        )
    if int(declared) > limit:
        raise too_large(limit)
    return int(declared)


async def read_body(receive: Receive, limit: int, timing: BodyTiming) -> bytes:
    """The whole body. Raises as `parts_of`."""
    message = await _next(receive, timing)
    if not message.get("more_body", False):  # a small one is whole when its head is
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    chunks = [chunk async for chunk in parts_of(receive, limit, timing, message)]
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


async def _next(receive: Receive, timing: BodyTiming) -> Message:
    """Waits in `PARTS`: of the time for which this process stood still, which is no fault of the client, no more than
    one of them counts. Before it is given up, what came meanwhile is read: a loop looks at its clock first."""
    for _ in range(PARTS):
        if (message := await _within(receive, timing.stall_s / PARTS)) is not None:
            break
    else:
        for _ in range(2):  # turns of the loop, in each of which it reads
            await asyncio.sleep(0)
        if (message := await _within(receive, 0.0)) is None:
            raise _slow()
    if message["type"] == "http.disconnect":
        raise ClientLeft("client-left", "The client closed the connection before its request was complete.")
    return message


async def _within(receive: Receive, seconds: float) -> Message | None:
    """The next message; None where it takes longer."""
    coming: Any = receive()
    try:
        if isinstance(coming, types.CoroutineType):
            coming = _rest(coming, coming.send(None))  # what is there already needs no alarm
        async with asyncio.timeout(seconds):
            message: Message = await coming
    except StopIteration as there:
        message = there.value
    except TimeoutError:
        return None
    return message


@types.coroutine
def _rest(begun: Coroutine[Any, Any, T], waits: Any) -> Generator[Any, Any, T]:
    """The result of a coroutine that was begun by hand. waits: what it waits for."""
    while True:
        failure: BaseException | None = None
        try:
            yield waits
        except BaseException as error:  # of this task: it is for the one that waits
            failure = error
        try:
            waits = begun.send(None) if failure is None else begun.throw(failure)
        except StopIteration as end:
            result: T = end.value
            return result


async def parts_of(
    receive: Receive, limit: int, timing: BodyTiming, first: Message | None = None
) -> AsyncGenerator[bytes, None]:
    """The body as it comes; the next part is asked for when the one before has been dealt with.

    Args:
        first: its first message, where that was received already.

    Raises: TooLarge (413), SlowBody "body-slow" (408), ClientLeft.
    """
    size, started = 0, time.monotonic()
    while True:
        message, first = first or await _next(receive, timing), None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return
        waited = time.monotonic() - started - timing.stall_s
        if waited > 0 and size < waited * timing.least_rate:
            raise _slow()


def case_bytes(body: bytes, media: str, spec: ModelSpec) -> bytes:
    """What the model reads: the picture inside the body, or the body itself for a model of records."""
    return body if spec.is_record else picture_bytes(body, media, spec.inputs[0])


def case_named(body: bytes, media: str, spec: ModelSpec) -> str | None:
    """The stored case that a body asks about, `{"case": ID}`; None for a body that is the case itself."""
    if media != JSON_TYPE or len(body) > MOST_CASE_BYTES or b'"case"' not in body:
        return None
    if spec.is_record and any(want.name == "case" for want in spec.inputs):  # its own word
        return None
    try:
        return _case_decoder.decode(body).case
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        return None


def check_kind(head: bytes, media: str) -> None:
    """Raises: WrongMedia "media-type-mismatch" (415): the first bytes are of another known kind than is declared."""
    found = sniff(head[:HEAD_BYTES])
    if found and media not in (JSON_TYPE, found):
        raise _mismatch(media, found)


def picture_bytes(body: bytes, media: str, want: InputSpec) -> bytes:
    """The file inside a body, checked against the declared type.

    Raises: WrongMedia "media-type-mismatch" (415): the bytes are of another known kind. Bytes of no known kind are left
        to the reader, which says what is wrong with them.
    """
    data = _from_json(body, want) if media == JSON_TYPE else body
    found = sniff(data[:HEAD_BYTES])
    if found and found not in want.media_types:
        raise WrongMedia(
            "media-type", f"The bytes are {found}; the model takes {', '.join(want.media_types)}.", hint="Convert them."
        )
    if found and media not in (JSON_TYPE, found):
        raise _mismatch(media, found)
    return data


def _mismatch(media: str, found: str) -> WrongMedia:
    return WrongMedia(
        "media-type-mismatch",
        f"The header says {media}; the bytes are {found}.",
        hint=f"Send them with 'Content-Type: {found}'.",
    )


def _from_json(body: bytes, want: InputSpec) -> bytes:
    try:
        inputs = _decoder.decode(body).inputs
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise Usage(
            "json-invalid",
            f'The body is not {{"inputs": {{"{want.name}": BASE64}}}}.',
            hint='Or send the file itself with its own Content-Type, or {"case": ID} for a stored one.',
        ) from error
    if set(inputs) != {want.name}:
        raise Refusal(
            "inputs-mismatch",
            f"The model takes exactly one input, {want.name!r}.",
            hint=f'Send {{"inputs": {{"{want.name}": BASE64}}}}.',
        )
    return inputs[want.name]


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        "body-too-large", f"The body is larger than {limit} bytes.", hint="Send one image, not a whole study."
    )


def _slow() -> SlowBody:
    return SlowBody("body-slow", "The body came too slowly.", hint="Check the connection and send it again.")
