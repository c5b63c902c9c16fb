"""Readers of records: FHIR, OMOP, tables of events and PhysioNet 2012, all as one patient's events after another's.

    account = Account()
    for patient, static, events in read_timelines(path, "omop", account=account):
        ...                             # static: {"sex": "female", "birth_date": "1998-04-09"}; events: by time
    sniff_records(path)                 # "fhir-ndjson" | "fhir-bundle" | "omop" | "physionet2012" | None

Memory is bounded whatever the size of the source: rows are grouped by patient through temporary files. What could not
be read is counted with its reason in the account, and never silently left out. Times are hours: since 1970-01-01 UTC
where the source has dates, since the start of the record where it has none.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from medserve.catalog import Catalog
from medserve.data.readers.records import event_table, fhir, omop, physionet2012
from medserve.data.readers.records._account import Account
from medserve.data.readers.records._reader import Reader
from medserve.data.readers.records._spill import Timeline
from medserve.data.readers.records.sniff import sniff_records
from medserve.errors import BadData

__all__ = ["RECORDS", "Account", "Timeline", "read_timelines", "sniff_records"]

RECORDS: Catalog[Reader] = Catalog("form of records")
RECORDS.register("fhir-ndjson")(fhir.read_ndjson)
RECORDS.register("fhir-bundle")(fhir.read_bundles)
RECORDS.register("omop")(omop.read)
RECORDS.register("physionet2012")(physionet2012.read)


def read_timelines(
    path: Path | str, form: str, *, columns: Mapping[str, str] | None = None, account: Account | None = None
) -> Iterator[Timeline]:
    """One patient at a time: (patient as the source names it, static inputs, events by time).

    Args:
        form: of `RECORDS`, or "events": a table in CSV or Parquet whose `columns` are named.
        columns: role (patient, time, code, value, unit, text) -> column; for "events" only.
        account: is filled while reading; complete when the iterator is at its end.

    Raises: NotFound: no such form; BadData: the source as a whole cannot be read.
    """
    path, account = Path(path), account if account is not None else Account()
    if not path.exists():
        raise BadData("file-missing", f"{path.name}: there is no such file or folder.")
    if form == "events":
        return event_table.read(path, account, columns or {})
    return RECORDS[form](path, account)
