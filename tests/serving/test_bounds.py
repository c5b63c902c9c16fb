"""What costs more than its size is counted before it is read: parts of a file, marks of a text, units, JSON."""

import json

import pytest
from bombs import BODIES, jpeg_of_scans

from medserve.data.fields.timeline import MOST_ENTRIES, Timeline
from medserve.data.readers import read
from medserve.data.readers.records._time import iso_hours
from medserve.data.readers.waves import wfdb
from medserve.data.text.tokens import clean
from medserve.data.text.words import plain_words, words
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.runtime.inputs import MOST_PIECES, raw_inputs

FILES = {
    "png a million chunks": "file-unreadable",
    "jpeg 20000 scans": "file-unreadable",
    "jpeg a million segments": "file-unreadable",
    "tiff 200,000 pages": "file-unreadable",
    "tiff pages in a ring": None,
    "dicom a million wanted items": "dicom-bad-header",
    "dicom a million elements": None,
    "dicom deflated 1 GiB": "image-too-large",
    "dicom 64 bits stored in 8": "dicom-bad-header",
    "dicom rle of too much": "dicom-bad-header",
    "dicom jpeg of 20,000 scans": "file-unreadable",
    "dicom jpeg 2000 16384 components": "dicom-bad-header",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_too_many_parts_is_refused_and_its_twin_is_read(name):
    bomb = next(b for b in BODIES if b.name == name)
    assert len(read(bomb.twin())) >= 1
    if FILES[name] or name == "dicom a million elements":
        with pytest.raises(Refusal) as refused:
            read(bomb.make())
        assert FILES[name] in (refused.value.code, None)
    else:
        assert len(read(bomb.make())) == 2


def test_a_large_jpeg_is_not_painted_a_hundred_times():
    assert len(read(jpeg_of_scans(1))) == 1
    with pytest.raises(Refusal, match="goes over its pixels") as refused:
        read(jpeg_of_scans(100))
    assert refused.value.code == "image-too-large"


def test_an_archive_of_half_a_million_files_is_refused_by_the_size_of_its_directory():
    bomb = next(b for b in BODIES if b.name == "zip 500,000 entries")
    assert len(wfdb.signals_of_zip(bomb.twin())) == 2
    with pytest.raises(Refusal, match="far too many files"):
        wfdb.signals_of_zip(bomb.make())


def test_marks_on_one_letter_are_bounded_and_usual_ones_are_kept():
    assert clean("caf" + "e\u0301" + " e\u0323\u0301") == "caf\u00e9 \u1eb9\u0301"
    long = "e" + "\u0301\u0316" * 250_000
    assert len(clean(long)) <= 31
    assert len(plain_words(long, words(long))[0]) <= 31


@pytest.mark.parametrize("unit", ["(" * 3000 + "g" + ")" * 3000, "g" + ".m" * 500_000])
def test_a_unit_is_short(unit):
    assert convert(5.0, "g", "mg", what="mass") == pytest.approx(5000)
    with pytest.raises(Refusal) as refused:
        convert(5.0, unit, "mg", what="mass")
    assert refused.value.code == "wrong-unit" and len(refused.value.message) < 200


def test_a_date_is_short():
    assert iso_hours("2020-01-01") == iso_hours("2020-01-01T00:00:00Z")
    assert iso_hours("2020-01-01T00:00:00." + "0" * 2**20) is None


def test_json_of_too_many_values_is_refused_before_it_is_decoded():
    few, many = (b'{"inputs": {"history": [' + b"[]," * n + b"[]]}}" for n in (3, MOST_PIECES))
    assert len(raw_inputs(None, few, media="application/json")["history"]) == 4
    with pytest.raises(Refusal) as refused:
        raw_inputs(None, many, media="application/json")
    assert refused.value.code == "json-too-many-values"


def test_a_bundle_of_too_many_entries_is_refused():
    bomb = next(b for b in BODIES if b.name == "fhir 200,000 entries")
    history = Timeline("history", window_h=24.0)
    assert len(history.parse(json.loads(bomb.twin())).events) == 1
    with pytest.raises(Refusal, match=f"at most {MOST_ENTRIES}"):
        history.parse(json.loads(bomb.make()))
