"""Which form of records a file or a folder is, by its names and first bytes."""

import re
from pathlib import Path

from medserve.data.readers.records._files import Source
from medserve.data.readers.records.physionet2012 import HEADER
from medserve.errors import BadData

HEAD = 65536  # bytes looked at
LOOKED_AT = 50  # files of a folder
_BUNDLE = re.compile(rb'"resourceType"\s*:\s*"Bundle"')
_RESOURCE = re.compile(rb'"resourceType"\s*:\s*"[A-Z][A-Za-z]+"')
OMOP = {"person", "observation_period", "visit_occurrence", "condition_occurrence", "measurement", "drug_exposure"}


def sniff_records(path: Path | str) -> str | None:
    """ "fhir-ndjson", "fhir-bundle", "omop", "physionet2012", or None; never raises for what is in the files."""
    path = Path(path)
    try:
        if path.is_file() and path.suffix.lower() != ".zip":
            with path.open("rb") as file:
                return _of_head(path.name, file.read(HEAD))
        with Source(path) as source:
            return _of_many(source, path.is_dir())
    except (BadData, OSError):
        return None


def _of_head(name: str, head: bytes) -> str | None:
    lower = name.lower()
    if lower.endswith(".ndjson"):
        return "fhir-ndjson" if _RESOURCE.search(head.split(b"\n", 1)[0]) else None
    if lower.endswith(".json"):
        return "fhir-bundle" if _BUNDLE.search(head) else None
    if lower.endswith(".txt"):
        return "physionet2012" if head.startswith(HEADER) else None
    return None


def _of_many(source: Source, folder: bool) -> str | None:
    stems = {
        name.rsplit("/", 1)[-1].lower().removesuffix(".csv") for name in source.names if name[-4:].lower() == ".csv"
    }
    if "person" in stems and len(stems & OMOP) >= 2:
        return "omop"
    for suffix in (".ndjson", ".json", ".txt"):
        if suffix != ".txt" and not folder:
            continue  # FHIR is read from files, not from archives
        for name in [n for n in source.names if n.lower().endswith(suffix)][:LOOKED_AT]:
            with source.open(name) as file:
                form = _of_head(name, file.read(HEAD))
            if form is not None:
                return form
    return None
