"""An S3-compatible bucket, where more than one node serves: MEDSERVE_BLOBS=s3://BUCKET/PREFIX.

    bucket = Bucket.open(settings)              # None where blobs stay on this disk
    bucket.put("packages/t/aa/model.json", data, new=False)
    objects = BucketObjects(bucket)             # what `ObjectFiles` is on a disk, see `object_files.Objects`

Endpoint, region and credentials come by the variables that every S3 client reads (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or the machine's role); they are read by the client and stand in no setting
and no log. What arrives there was encrypted in this process. A bucket knows no locks: a writer first leaves a mark
under `incoming/`, and marks without a row that are older than `DEAD_S` are swept with what they name.
"""

import datetime
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store.object_files import conflict

DEAD_S = 3600.0  # a writer commits its row within seconds of its mark
MEMORY_BYTES = 8 * 2**20  # of one object on its way; a longer one is gathered, encrypted, in a temporary file


class BucketFault(Fault):
    """The bucket does not answer: nothing is half done."""

    status = 503


class Bucket:
    """Bytes by name. Every method raises BucketFault "blobs-unreachable"."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    def open(cls, settings: Settings, environ: Mapping[str, str] | None = None) -> "Bucket | None":
        """Raises: Usage "blobs-address", "blobs-without-tls"; Fault "blobs-driver"."""
        if not settings.blobs:
            return None
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]{1,200}))?", settings.blobs)
        if found is None:
            raise Usage("blobs-address", "MEDSERVE_BLOBS is no address of a bucket.",
                        hint="For instance s3://medserve/ward; without it blobs stay under MEDSERVE_HOME.")  # fmt: skip
        env = os.environ if environ is None else environ
        more = _endpoint(_named(env))
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise Fault("blobs-driver", "A bucket needs obstore.", hint="pip install 'medserve[s3]'") from error
        return cls(S3Store(found[1], prefix=(found[2] or "").strip("/") or None, **more))

    def put(self, name: str, data: bytes | BinaryIO, *, new: bool) -> bool:
        """Whole or absent. new: never in the place of another one; False then says that there is one."""
        import obstore

        try:
            obstore.put(self._store, name, data, mode="create" if new else "overwrite", use_multipart=not new)
        except obstore.exceptions.AlreadyExistsError:
            return False
        except obstore.exceptions.BaseError as error:
            raise _unreachable() from error
        return True

    def open_file(self, name: str) -> Any:
        """`size` and `read(n)`, in bounded memory. Raises: FileNotFoundError."""
        import obstore

        try:
            return obstore.open_reader(self._store, name)
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            raise FileNotFoundError(name) from None
        except obstore.exceptions.BaseError as error:
            raise _unreachable() from error

    def read(self, name: str, most: int) -> bytes:
        file = self.open_file(name)
        if file.size > most:
            raise BucketFault(
                "blobs-size", f"A blob has {file.size} bytes, more than {most}.", hint="Who put it there?"
            )
        return _read(file, file.size)

    def remove(self, name: str) -> None:
        """One that is gone already is no error."""
        import obstore

        try:
            obstore.delete(self._store, name)
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return
        except obstore.exceptions.BaseError as error:
            raise _unreachable() from error

    def names(self, under: str) -> Iterator[tuple[str, datetime.datetime]]:
        """Names and times of the last change, by the bucket's clock."""
        import obstore

        try:
            for some in obstore.list(self._store, prefix=under):
                for one in some:
                    yield one["path"], one["last_modified"]
        except obstore.exceptions.BaseError as error:
            raise _unreachable() from error


class BucketObjects:
    """The vault's objects in a bucket; see `object_files.Objects`."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def incoming(self, name: str) -> "BucketIncoming":
        return BucketIncoming(self._bucket, name)

    def open(self, name: str) -> "BucketFile":
        return BucketFile(self._bucket.open_file(_place(name)))

    def remove(self, name: str) -> None:
        self._bucket.remove(_place(name))

    def leftovers(self) -> Iterator["BucketLeftover"]:
        now = datetime.datetime.now(datetime.UTC)
        for mark, at in list(self._bucket.names("incoming/")):
            if (now - at).total_seconds() > DEAD_S:
                yield BucketLeftover(self._bucket, mark)


class BucketIncoming:
    """One object on its way; `object_files.Incoming` says what each step means."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self._mark = f"incoming/{name}.{secrets.token_hex(4)}"
        self._held = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115
        self._marked = self._published = False

    def write(self, data: bytes) -> None:
        self._held.write(data)

    def publish(self) -> None:
        self._marked = True
        self._bucket.put(self._mark, b"", new=False)
        self._held.seek(0)
        if not self._bucket.put(_place(self._name), io.BytesIO(self._held.read()), new=True):
            raise conflict()
        self._published = True

    def settle(self) -> None:
        self._end()

    def discard(self) -> None:
        if self._published:
            self._bucket.remove(_place(self._name))
        self._end()

    def _end(self) -> None:
        self._held.close()
        if self._marked:
            try:
                self._bucket.remove(self._mark)
            except BucketFault:  # a mark that stays is swept later
                return


class BucketFile:
    def __init__(self, file: Any) -> None:
        self._file, self.size = file, int(file.size)

    def read(self, count: int) -> bytes:
        return _read(self._file, count)

    def close(self) -> None:
        self._file.close()


class BucketLeftover:
    def __init__(self, bucket: Bucket, mark: str) -> None:
        self._bucket, self._mark = bucket, mark
        self.name = mark.removeprefix("incoming/").rsplit(".", 1)[0]

    def sweep(self, *, visible: bool) -> None:
        if not visible:
            self._bucket.remove(_place(self.name))
        self._bucket.remove(self._mark)


def _place(name: str) -> str:
    return f"objects/{name[:2]}/{name}"


def _named(env: Mapping[str, str]) -> str:
    """The endpoint, by any name by which the client would take one; it reads `AWS_` in capitals and the rest as it
    comes."""
    said = {name.upper(): value for name, value in env.items() if name.startswith("AWS_") and value}
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((said[name] for name in names if name in said), "")


def _endpoint(url: str) -> dict[str, Any]:
    """Raises: Usage "blobs-without-tls": another machine, and the way to it can be read."""
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if url and parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise Usage("blobs-without-tls", "The bucket's endpoint is on another machine, and its address is no https.",
                    hint="Set AWS_ENDPOINT_URL to an address that begins with https://")  # fmt: skip
    # Said in any case: else AWS_ALLOW_HTTP and AWS_ALLOW_INVALID_CERTIFICATES of the environment would count.
    options = {"allow_http": parts.scheme == "http", "allow_invalid_certificates": False}
    found: dict[str, Any] = {"client_options": options}
    return found | {"endpoint": url, "virtual_hosted_style_request": False} if url else found


def _read(file: Any, count: int) -> bytes:
    """A reader may give less at a time than was asked for."""
    import obstore

    parts: list[bytes] = []
    try:
        while count > 0 and (part := bytes(file.read(count))):
            parts.append(part)
            count -= len(part)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _unreachable() from error
    return b"".join(parts)


def _unreachable() -> BucketFault:
    return BucketFault("blobs-unreachable", "The bucket of blobs does not answer, so nothing is done.",
                       hint="Check MEDSERVE_BLOBS and the AWS_* variables of this node.")  # fmt: skip
