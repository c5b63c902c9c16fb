"""FHIR R4 into timelines."""

import json

import pytest
from made_records import NOTE, bundle, resources, write_ndjson

from medserve.data.readers.records import Account, read_timelines, sniff_records
from medserve.data.readers.records._time import iso_hours
from medserve.data.readers.records.fhir import bundle_timelines
from medserve.errors import BadData


def at(text: str) -> float:
    hours = iso_hours(text)
    assert hours is not None
    return hours


@pytest.fixture
def one():
    account = Account()
    ((patient, static, events),) = bundle_timelines(json.dumps(bundle()).encode(), account)
    assert patient == "p1" and static == {"sex": "female", "birth_date": "1950-02"}
    return account, {event.code: event for event in events}, events


def test_every_resource_is_accounted_for(one):
    """Read, skipped with a reason, or of a kind that holds no event; nothing else."""
    account, _, _ = one
    assert account.skipped == {("Observation", "no-value"): 1, ("Observation", "entered-in-error"): 1}
    assert account.ignored == {"Organization": 1, "Goal": 1}
    assert account.read.total() + account.skipped.total() + account.ignored.total() == len(resources())


def test_values_units_and_codes(one):
    """A number in its UCUM unit, the components of a panel, a coded result, a dose and a note."""
    _, by, events = one
    assert (by["loinc|2160-0"].value, by["loinc|2160-0"].unit) == (1.2, "mg/dL")
    assert (by["loinc|8480-6"].value, by["loinc|8462-4"].value) == (121, 79)
    assert by["loinc|72166-2"].text == "snomed|266919005"
    assert by["loinc|34117-2"].text == NOTE
    doses = [(e.text, e.value, e.unit) for e in events if e.code == "rxnorm|860975"]
    assert doses == [("request", None, None), ("administration", 500, "mg")]
    assert {"text|fish oil", "snomed|40701008", "cvx|140", "allergy/snomed|91936005", "loinc|58410-2"} <= set(by)
    assert "loinc|85354-9" not in by  # the panel's code says nothing beside its components


def test_times_are_those_at_which_a_fact_was_known(one):
    """With zones; a condition when it was recorded; a month at its end; an encounter's end is an event of its own."""
    _, by, events = one
    assert by["loinc|2160-0"].time == at("2020-05-01T09:00:00Z")
    assert by["snomed|44054006"].time == at("2020-05-02T09:00:00Z")
    assert by["allergy/snomed|91936005"].time == at("2020-05-31T23:59:59Z")
    assert by["encounter|IMP"].value is None and by["encounter-end|IMP"].time == at("2020-05-04T10:00:00Z")
    assert [e.time for e in events] == sorted(e.time for e in events)


@pytest.mark.parametrize(
    ("text", "hours"),
    [("1970", 8760 - 1 / 3600), ("1970-01", 744 - 1 / 3600), ("1970-01-02", 24), ("1970-01-01T01:30Z", 1.5),
     ("1970-01-01T00:00:00.5-01:00", 1 + 0.5 / 3600), ("1970-01-01 06:00:00", 6), ("yesterday", None), ("19-1", None),
     ("1970-13", None)],
)  # fmt: skip
def test_any_precision_of_a_date(text, hours):
    """FHIR R4 2.24.0.1: year, month, day, second and fractions, with a zone."""
    assert iso_hours(text) == (None if hours is None else pytest.approx(hours))


def test_a_bulk_export_gives_the_same_timelines_as_bundles(tmp_path):
    """NDJSON, one file a type and patients mixed, against one Bundle of each patient."""
    folder = write_ndjson(tmp_path / "bulk", "p1", "p2", "p3")
    (tmp_path / "bundles").mkdir()
    for name in ("p1", "p2", "p3"):
        (tmp_path / "bundles" / f"{name}.json").write_text(json.dumps(bundle(name)))
    assert sniff_records(folder) == "fhir-ndjson" and sniff_records(tmp_path / "bundles") == "fhir-bundle"
    first, second = Account(), Account()
    bulk = {p: (s, sorted(e)) for p, s, e in _sortable(read_timelines(folder, "fhir-ndjson", account=first))}
    whole = _sortable(read_timelines(tmp_path / "bundles", "fhir-bundle", account=second))
    assert bulk == {p: (s, sorted(e)) for p, s, e in whole}
    assert len(bulk) == 3 and first.read == second.read and first.skipped == second.skipped


def _sortable(timelines):
    return [
        (p, s, [(e.time, e.code, str(e.value), str(e.unit), str(e.text)) for e in events]) for p, s, events in timelines
    ]


def test_a_bundle_that_was_parsed_already_reads_the_same():
    """What the wire decoded into plain objects."""
    said = bundle()
    assert list(bundle_timelines(said)) == list(bundle_timelines(json.dumps(said).encode()))


@pytest.mark.parametrize("url", ["urn:uuid:9f0a", "http://x.org/fhir/Patient/9f0a", "Patient/9f0a/_history/2"])
def test_references_in_every_way_of_writing(url):
    """By urn, by absolute and by versioned address."""
    said = bundle()
    said["entry"][0]["resource"]["id"] = "9f0a"
    said["entry"][0]["fullUrl"] = "urn:uuid:9f0a"
    for entry in said["entry"][1:]:
        for key in ("subject", "patient"):
            if key in entry["resource"]:
                entry["resource"][key] = {"reference": url}
    ((patient, _, events),) = bundle_timelines(said)
    assert patient == "9f0a" and len(events) > 12


def test_one_bad_resource_does_not_stop_the_others():
    """It is counted as malformed, the rest is read."""
    said = bundle()
    said["entry"][2]["resource"]["valueQuantity"]["value"] = {"no": "number"}
    account = Account()
    ((_, _, events),) = bundle_timelines(json.dumps(said).encode(), account)
    assert account.skipped["Observation", "malformed"] == 1 and len(events) > 12


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "fhir-unreadable"), (b"{", "fhir-unreadable"), (b"\xff\xfe", "fhir-unreadable"),
     (b'{"resourceType": "Patient"}', "fhir-not-a-bundle"), (b"[" * 200_000, "fhir-unreadable"),
     (b'{"resourceType": "Bundle", "entry": ' + b'[{"resource":' * 100_000, "fhir-unreadable")],
)  # fmt: skip
def test_hostile_bodies_are_refused(body, code):
    """Neither a crash nor an empty timeline."""
    with pytest.raises(BadData) as caught:
        list(bundle_timelines(body))
    assert caught.value.code == code


def test_lines_that_are_not_json_are_counted(tmp_path):
    """A damaged line of an export costs that line."""
    folder = write_ndjson(tmp_path, "p1")
    with (folder / "Observation.ndjson").open("a") as file:
        file.write('{"resourceType": "Observation", \n' + '{"a":' * 50_000 + "\n")
    account = Account()
    assert len(list(read_timelines(folder, "fhir-ndjson", account=account))) == 1
    assert account.skipped["resource", "not-json"] == 2
