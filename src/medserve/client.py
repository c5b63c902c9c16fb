"""A small typed client.

    with Client("http://127.0.0.1:8000", key) as client:
        answer = client.predict("film.dcm", model="chest", explain="occlusion")
        answer.decision, answer.outputs[1].probability, answer.explanation.verdict
        stored = client.upload("film.dcm", patient="p-8c1f")          # encrypted there, until it is deleted or erased
        answer = client.predict(case=stored.case, model="chest")

Errors of the service come back as the same classes that the service raised: `Refusal` for a picture out of scope,
`Denied` without a valid key, `Busy` (with `retry_after_s`) when it is full. Each carries the service's stable `code`
and the `trace` to quote to whoever runs it.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from medserve.errors import Busy, Denied, Fault, MedServeError, Refusal, Usage
from medserve.models.archive import pack
from medserve.serving.schema import (
    Answer,
    BatchInfo,
    BatchList,
    BatchStored,
    CasePage,
    CaseStored,
    ErrorAnswer,
    JobInfo,
    JobList,
    JobPage,
    ModelInfo,
    ModelList,
    ModelPage,
    PackageInfo,
    PackageList,
    PackagePage,
    SetTraffic,
    TrafficPage,
)

T = TypeVar("T")
KINDS: dict[str, type[MedServeError]] = {
    "refusal": Refusal,
    "usage": Usage,
    "access": Denied,
    "capacity": Busy,
    "fault": Fault,
}


class Client:
    """One service.

    Args:
        url: as `medserve serve` prints it.
        key: as `medserve keys create` printed it.
        timeout_s: longest wait for an answer.
        transport: another way to reach it, for tests.
    """

    def __init__(
        self, url: str, key: str, *, timeout_s: float = 60.0, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=5.0),
            transport=transport,
            follow_redirects=False,
        )

    def predict(
        self,
        picture: Path | str | bytes | None = None,
        *,
        model: str,
        case: str | None = None,
        version: str | None = None,
        explain: str | None = None,
        media_type: str | None = None,
    ) -> Answer:
        """The answer for one picture, or for a stored case.

        Args:
            picture: a file, or its bytes.
            case: what `upload` answered, instead of a picture.
            model: a name from `models()`.
            version: None: the one that answers under the bare name.
            explain: a method that the model offers.
            media_type: of bytes that do not show it themselves (PNG, JPEG, DICOM and NIfTI do).
        """
        if (picture is None) == (case is None):
            raise Usage("case-or-file", "A prediction is about one file or one stored case.", hint="Give one of them.")
        data = msgspec.json.encode({"case": case}) if picture is None else _bytes(picture)
        which = "" if version is None else f"/versions/{quote(version, safe='')}"
        return self._call(
            Answer,
            "POST",
            f"/v1/models/{quote(model, safe='')}{which}/predict",
            content=data,
            headers={"content-type": media_type or _media_type(data)},
            params={} if explain is None else {"explain": explain},
        )

    def upload(self, file: Path | str | bytes, *, patient: str, media_type: str | None = None) -> CaseStored:
        """Store one input of a patient, encrypted; returns once it is on disk.

        Args:
            file: a file, or its bytes.
            patient: his pseudonym, 1 to 128 printable characters.
            media_type: as for `predict`.
        """
        data = _bytes(file)
        headers = {b"content-type": (media_type or _media_type(data)).encode(), b"x-patient": patient.encode()}
        return self._call(CaseStored, "POST", "/v1/cases", content=data, headers=headers)

    def case(self, case: str) -> CasePage:
        """What is known of a stored case; not whose it is."""
        return self._call(CasePage, "GET", f"/v1/cases/{quote(case, safe='')}")

    def delete(self, case: str) -> None:
        """Destroy a stored case and the answers about it."""
        self._call(None, "DELETE", f"/v1/cases/{quote(case, safe='')}")

    def upload_package(self, package: Path | str) -> PackageInfo:
        """A model package: the folder that `medserve train` wrote, or a ZIP file of it. It is served once somebody
        else has published it."""
        source = Path(package)
        with tempfile.TemporaryDirectory() as scratch:
            archive = pack(source, Path(scratch) / "package.zip") if source.is_dir() else source
            with open(archive, "rb") as body:
                headers = {"content-type": "application/zip"}
                return self._call(PackageInfo, "POST", "/v1/packages", content=body, headers=headers)

    def packages(self) -> list[PackageInfo]:
        """All of the own tenant."""
        return self._call(PackageList, "GET", "/v1/packages").packages

    def package(self, digest: str) -> PackagePage:
        """One package and its card."""
        return self._call(PackagePage, "GET", f"/v1/packages/{quote(digest, safe='')}")

    def publish(self, digest: str) -> PackageInfo:
        """Serve it. Not by who uploaded it, nor by who had it trained."""
        return self._call(PackageInfo, "POST", f"/v1/packages/{quote(digest, safe='')}/publish")

    def start(self, kind: str, **asked: object) -> JobInfo:
        """Work in the background: "train" or "evaluate", with what `POST /v1/jobs` takes (`data`, `name`, ...)."""
        body = msgspec.json.encode({"kind": kind, **asked})
        return self._call(JobInfo, "POST", "/v1/jobs", content=body, headers={"content-type": "application/json"})

    def jobs(self) -> list[JobInfo]:
        """The newest of the own tenant."""
        return self._call(JobList, "GET", "/v1/jobs").jobs

    def job(self, job: str) -> JobPage:
        """State, result, and the end of the log."""
        return self._call(JobPage, "GET", f"/v1/jobs/{quote(job, safe='')}")

    def cancel(self, job: str) -> JobInfo:
        return self._call(JobInfo, "DELETE", f"/v1/jobs/{quote(job, safe='')}")

    def start_batch(
        self, manifest: Path | str | Iterable[bytes], *, model: str, version: str | None = None, key: str = "",
        media: str = "application/x-ndjson",
    ) -> BatchStored:  # fmt: skip
        """Many inputs, answered in the background.

        Args:
            manifest: a file of NDJSON or a ZIP of inputs (by its suffix), or lines; with `media` of SMILES or SDF, a
                library of molecules.
            key: the same key gives the same batch, however often it is sent.
        """
        which = "" if version is None else f"/versions/{quote(version, safe='')}"
        if isinstance(manifest, (Path, str)) and Path(manifest).suffix.lower() == ".zip":
            media = "application/zip"
        headers = {"content-type": media} | ({"idempotency-key": key} if key else {})
        with contextlib.ExitStack() as stack:
            if isinstance(manifest, (Path, str)):
                manifest = stack.enter_context(open(manifest, "rb"))
            path = f"/v1/models/{quote(model, safe='')}{which}/batch"
            return self._call(BatchStored, "POST", path, content=manifest, headers=headers)

    def batches(self) -> list[BatchInfo]:
        """The newest of the own tenant."""
        return self._call(BatchList, "GET", "/v1/batches").batches

    def batch(self, batch: str) -> BatchInfo:
        """State, counts, seconds left."""
        return self._call(BatchInfo, "GET", f"/v1/batches/{quote(batch, safe='')}")

    def results(self, batch: str, *, start: int = 0) -> Iterator[bytes]:
        """Lines of JSON, in the order of the manifest, as far as it has come. start: how many to skip."""
        path = f"/v1/batches/{quote(batch, safe='')}/results"
        try:
            with self._http.stream("GET", path, params={"from": str(start)}) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                rest = b""
                for part in response.iter_bytes():
                    *lines, rest = (rest + part).split(b"\n")
                    yield from lines
        except httpx2.TransportError as error:
            raise _unreachable(error) from error

    def delete_batch(self, batch: str) -> None:
        """End it, and destroy what it holds."""
        self._call(None, "DELETE", f"/v1/batches/{quote(batch, safe='')}")

    def models(self) -> list[ModelInfo]:
        return self._call(ModelList, "GET", "/v1/models").models

    def model(self, name: str) -> ModelPage:
        """All versions of one model and its card."""
        return self._call(ModelPage, "GET", f"/v1/models/{quote(name, safe='')}")

    def traffic(self, name: str) -> TrafficPage:
        """Which versions of a model answer under its bare name."""
        return self._call(TrafficPage, "GET", f"/v1/models/{quote(name, safe='')}/traffic")

    def split(self, name: str, versions: Mapping[str, int], *, shadow: Sequence[str] = ()) -> TrafficPage:
        """Split the requests among versions.

        Args:
            versions: shares in per cent, 100 together.
            shadow: versions that are asked too and never answer.
        """
        body = msgspec.json.encode(SetTraffic(dict(versions), list(shadow)))
        return self._call(TrafficPage, "PUT", f"/v1/models/{quote(name, safe='')}/traffic", content=body)

    def rollback(self, name: str) -> TrafficPage:
        """The split before, at once."""
        return self._call(TrafficPage, "POST", f"/v1/models/{quote(name, safe='')}/rollback")

    def withdraw(self, name: str, version: str) -> None:
        """Serve it no more; what is under way is finished."""
        self._call(None, "DELETE", f"/v1/models/{quote(name, safe='')}/versions/{quote(version, safe='')}")

    def ready(self) -> bool:
        """True when every model answers; False when not, or when nobody is there."""
        try:
            return self._http.get("/v2/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(
        self,
        wanted: type[T] | None,
        method: str,
        path: str,
        *,
        content: bytes | IO[bytes] | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        params: dict[str, str] | None = None,
    ) -> T:
        try:
            response = self._http.request(method, path, content=content, headers=headers, params=params)
        except httpx2.TimeoutException as error:
            raise Busy("timeout", "The service did not answer in time.", hint="Try again later.") from error
        except httpx2.TransportError as error:
            raise _unreachable(error) from error
        if response.status_code not in (200, 201, 202, 204):
            raise _error(response)
        if wanted is None:
            return None  # type: ignore[return-value]
        try:
            return msgspec.json.decode(response.content, type=wanted)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _foreign(response) from error


def _unreachable(error: httpx2.TransportError) -> Fault:
    return Fault(
        "unreachable", f"Cannot reach the service ({type(error).__name__}).", hint="Is it running at this url?"
    )


def _bytes(file: Path | str | bytes) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _error(response: httpx2.Response) -> MedServeError:
    try:
        answer = msgspec.json.decode(response.content, type=ErrorAnswer)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return _foreign(response)
    found = answer.error
    error = KINDS[found.kind](found.code, found.message, hint=found.hint)
    if isinstance(error, Busy) and response.headers.get("retry-after", "").isdigit():
        error.retry_after_s = float(response.headers["retry-after"])
    error.add_note(f"trace: {answer.trace}")
    return error


def _foreign(response: httpx2.Response) -> Fault:
    return Fault(
        "not-medserve",
        f"The answer (status {response.status_code}) is not one of this service.",
        hint="Check the url; a proxy may have answered in its place.",
    )


def _media_type(data: bytes) -> str:
    """What the bytes show; what shows nothing is sent as DICOM, and the service says what is wrong with it."""
    if data.lstrip()[:1] == b"{":
        return "application/json"
    from medserve.data.readers.formats import HEAD_BYTES, sniff  # with what reads pictures, which few clients need

    return sniff(data[:HEAD_BYTES]) or "application/dicom"
