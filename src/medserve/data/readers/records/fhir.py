"""FHIR R4: a Bundle (JSON), a folder of them, or a folder of NDJSON files as a bulk export writes them.

    for patient, static, events in read_ndjson(Path("export"), account): ...
    for patient, static, events in bundle_timelines(body): ...              # bytes, or a dict that was parsed already

Resources of a kind that tells nothing about a patient's course are counted as ignored; one that should have been read
and cannot be is counted with its reason, and the rest of the source is read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from medserve.data.readers.records._account import Account
from medserve.data.readers.records._fhir_events import READ, code_of, events_of
from medserve.data.readers.records._fhir_types import Bundle, Head, RawBundle, Reference, Resource
from medserve.data.readers.records._spill import Row, Spill, Timeline
from medserve.data.readers.records._time import iso_hours
from medserve.errors import BadData

MAX_BUNDLE = 512 * 2**20
MAX_RESOURCE = 32 * 2**20
MAX_MEDICATIONS = 2_000_000
MAX_ID = 256

_BUNDLE = msgspec.json.Decoder(Bundle, strict=False)  # a decimal that a library wrote as text is still a number
_RAW_BUNDLE = msgspec.json.Decoder(RawBundle)
_RESOURCE = msgspec.json.Decoder(Resource, strict=False)
_HEAD = msgspec.json.Decoder(Head)
_BAD = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
Pair = tuple[str | None, Resource]  # fullUrl, resource


def bundle_timelines(body: bytes | dict[str, Any], account: Account | None = None) -> Iterator[Timeline]:
    """The patients of one Bundle.

    Raises: BadData "fhir-too-large", "fhir-unreadable", "fhir-not-a-bundle".
    """
    account = account if account is not None else Account()
    pairs = _pairs_of_dict(body, account) if isinstance(body, dict) else _pairs(body, account)
    with Spill(account) as spill:
        spill.extend(_rows(pairs, account))
        yield from spill.patients()


def read_bundles(path: Path, account: Account) -> Iterator[Timeline]:
    """One file, or every `*.json` of a folder that holds a Bundle; a patient may stand in several."""
    files = sorted(p for p in path.rglob("*.json") if p.is_file()) if path.is_dir() else [path]
    with Spill(account) as spill:
        for file in files:
            try:
                if file.stat().st_size > MAX_BUNDLE:
                    raise BadData("fhir-too-large", f"{file.name}: at most {MAX_BUNDLE} bytes are read.")
                spill.extend(_rows(_pairs(file.read_bytes(), account), account))
            except FileNotFoundError as error:
                raise BadData("file-missing", f"{file.name}: there is no such file.") from error
            except BadData as error:
                if not path.is_dir():
                    raise type(error)(error.code, f"{file.name}: {error.message}", hint=error.hint) from error
                account.skip("Bundle", error.code)
        yield from spill.patients()


def read_ndjson(path: Path, account: Account) -> Iterator[Timeline]:
    """One file, or every `*.ndjson` of a folder; Medication files first, since others refer to them."""
    files = sorted(p for p in path.rglob("*.ndjson") if p.is_file()) if path.is_dir() else [path]
    medications: dict[str, str] = {}
    with Spill(account) as spill:
        for file in sorted(files, key=lambda p: not _only_medications(p)):
            for line in _lines(file, account):
                resource = _resource(line, account)
                if resource is None:
                    continue
                if resource.resourceType == "Medication":
                    _remember(None, resource, medications, account)
                else:
                    spill.extend(_rows_of(resource, medications, {}, None, account))
        yield from spill.patients()


def _only_medications(path: Path) -> bool:
    return path.name.split(".")[0].split("-")[0].lower() == "medication"


def _lines(path: Path, account: Account) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_RESOURCE + 1):
                if len(line) > MAX_RESOURCE:
                    account.skip("resource", "too-large")
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_RESOURCE)
                elif line.strip():
                    yield line
    except FileNotFoundError as error:
        raise BadData("file-missing", f"{path.name}: there is no such file.") from error
    except OSError as error:
        raise BadData("file-unreadable", f"{path.name}: {error.strerror}.") from error


def _resource(data: bytes | msgspec.Raw, account: Account) -> Resource | None:
    """One resource; None where it cannot be read or is of no kind that is read, which is counted."""
    try:
        return _RESOURCE.decode(data)
    except _BAD:
        pass
    try:
        kind = _HEAD.decode(data).resourceType
    except _BAD:
        account.skip("resource", "not-json")
        return None
    if kind in READ or kind in ("Patient", "Medication"):
        account.skip(kind, "malformed")
    else:
        account.ignored[kind or "unknown"] += 1
    return None


def _pairs(body: bytes, account: Account) -> list[Pair]:
    if len(body) > MAX_BUNDLE:
        raise BadData("fhir-too-large", f"The Bundle takes {len(body)} bytes; at most {MAX_BUNDLE} are read.")
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        bundle = _BUNDLE.decode(body)
        _must_be_bundle(bundle.resourceType)
        return [(entry.fullUrl, entry.resource) for entry in bundle.entry or () if entry.resource is not None]
    except _BAD:
        pass  # some resource is not as it should be: one at a time then
    try:
        raw = _RAW_BUNDLE.decode(body)
    except _BAD as error:
        raise BadData("fhir-unreadable", "The body is not JSON of a FHIR Bundle.") from error
    _must_be_bundle(raw.resourceType)
    entries = [entry for entry in raw.entry or () if bytes(entry.resource) not in (b"", b"null")]
    made = ((entry.fullUrl, _resource(entry.resource, account)) for entry in entries)
    return [(url, resource) for url, resource in made if resource is not None]


def _pairs_of_dict(body: dict[str, Any], account: Account) -> list[Pair]:
    _must_be_bundle(body.get("resourceType"))
    entries = body.get("entry", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadData("fhir-unreadable", "The Bundle's `entry` is not a list of entries.")
    pairs: list[Pair] = []
    for entry in entries:
        raw, url = entry.get("resource"), entry.get("fullUrl")
        if not isinstance(raw, dict):
            continue
        try:
            encoded = msgspec.json.encode(raw)
        except (RecursionError, TypeError, ValueError, OverflowError):
            account.skip("resource", "not-json")
            continue
        resource = _resource(encoded, account)
        if resource is not None:
            pairs.append((url if isinstance(url, str) else None, resource))
    return pairs


def _must_be_bundle(kind: Any) -> None:
    if kind != "Bundle":
        raise BadData("fhir-not-a-bundle", "A FHIR Bundle was expected.", hint='Its "resourceType" is "Bundle".')


def _rows(pairs: list[Pair], account: Account) -> Iterator[Row]:
    """Of one Bundle: its own medications and patients are known before the rest is read."""
    medications: dict[str, str] = {}
    patients: dict[str, str] = {}
    for url, resource in pairs:
        if resource.resourceType == "Medication":
            _remember(url, resource, medications, account)
        elif resource.resourceType == "Patient" and url and resource.id:
            patients[url] = resource.id
    ids = {resource.id for _, resource in pairs if resource.resourceType == "Patient"}
    alone = ids.pop() if len(ids) == 1 else None
    for url, resource in pairs:
        if resource.resourceType == "Patient" and resource.id is None and url:
            resource.id = url.rsplit("/", 1)[-1].removeprefix("urn:uuid:")
        if resource.resourceType != "Medication":
            yield from _rows_of(resource, medications, patients, alone, account)


def _remember(url: str | None, resource: Resource, medications: dict[str, str], account: Account) -> None:
    code = code_of(resource.code)
    if code is None or len(medications) >= MAX_MEDICATIONS:
        account.skip("Medication", "no-code" if code is None else "too-many")
        return
    account.read["Medication"] += 1
    for key in (url, resource.id):
        if key:
            medications[key] = code


def _rows_of(
    resource: Resource, medications: dict[str, str], patients: dict[str, str], alone: str | None, account: Account
) -> Iterable[Row]:
    kind = resource.resourceType
    if kind == "Patient":
        return _patient(resource, account)
    if kind not in READ:
        account.ignored[kind] += 1
        return ()
    patient = _who(resource.subject or resource.patient, patients) or alone
    if patient is None:
        account.skip(kind, "no-patient")
        return ()
    found = events_of(resource, medications)
    if isinstance(found, str):
        account.skip(kind, found)
        return ()
    account.read[kind] += 1
    return [(patient, *event) for event in found]


def _who(to: Reference | list[Reference] | None, patients: dict[str, str]) -> str | None:
    """The patient's id, whichever way the reference is written: Patient/1, urn:uuid:..., http://host/Patient/1."""
    if isinstance(to, list):
        to = to[0] if to else None
    said = to.reference if to is not None else None
    if not said or len(said) > MAX_ID * 4:
        return None
    if said in patients:
        return patients[said]
    if said.startswith("urn:uuid:"):
        return said[9:][:MAX_ID] or None
    said = said.split("/_history/")[0]
    kind, _, name = said.rpartition("/")
    if kind.rpartition("/")[2] not in ("Patient", "") or "?" in name or "#" in name:
        return None
    return name[:MAX_ID] or None


def _patient(resource: Resource, account: Account) -> list[Row]:
    if not resource.id:
        account.skip("Patient", "no-id")
        return []
    account.read["Patient"] += 1
    patient = resource.id[:MAX_ID]
    said = {"sex": resource.gender, "birth_date": resource.birthDate}
    rows: list[Row] = [(patient, None, key, None, None, value) for key, value in said.items() if value]
    if resource.deceasedDateTime and (time := iso_hours(resource.deceasedDateTime)) is not None:
        rows.append((patient, time, "death", None, None, None))
    return rows
