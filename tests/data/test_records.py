"""Tables whose rows are cases: guessed, declared, split, fitted on the training part, encoded."""

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medserve.data.fields import MOST_PLAIN, Records
from medserve.data.fields.category import Category
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.data.forms import list_items, write_yaml
from medserve.data.records import encode, fit_fields, prepare_records, values_of
from medserve.data.split import split
from medserve.errors import BadData, Refusal

YAML = """
name: clinic
table: visits.csv
patient: person
inputs:
  age: {kind: number, unit: a, range: [0, 120]}
  creatinine: {kind: number, unit: umol/L, range: [10, 2000]}
  ward: {kind: category}
target: {column: died, kind: binary, classes: ["no", "yes"]}
"""


def write(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def visits(n=80, seed=0):
    random = np.random.default_rng(seed)
    return [
        {
            "person": f"p{i // 2}",
            "age": int(random.integers(20, 90)),
            "creatinine": round(float(random.normal(90, 20)), 1) if i % 5 else "",
            "ward": ["icu", "general", "surgery"][i % 3],
            "died": "yes" if random.random() < 0.4 else "no",
        }
        for i in range(n)
    ]


@pytest.fixture
def clinic(tmp_path):
    write(tmp_path / "visits.csv", visits())
    (tmp_path / "dataset.yaml").write_text(YAML)
    return tmp_path


def test_columns_are_guessed_and_written_out(tmp_path):
    """Without a declaration: numbers, categories and texts by their cells; the patient and the label have their roles;
    a column that names its rows is left out and said so; the YAML that is written reads back the same."""
    rows = visits()
    for i, row in enumerate(rows):
        row |= {"note": f"seen for the {i}th time, no complaint at all today", "badge": f"x-{i}-{i * 7}"}
        row["label"] = row.pop("died")
        row["patient_id"] = row.pop("person")
    listing = list_items(write(tmp_path / "visits.csv", rows))
    assert listing.form == "records" and listing.kind == "record" and listing.task == "binary"
    kinds = {name: said.kind for name, said in listing.inputs.items()}
    assert kinds == {"age": "number", "creatinine": "number", "ward": "category", "note": "text"}
    assert any("badge" in text for text in listing.source["warnings"])
    assert not listing.independent and len({i.patient for i in listing.items}) == 40
    (tmp_path / "dataset.yaml").write_text(write_yaml(listing))
    again = list_items(tmp_path)
    assert {n: s.kind for n, s in again.inputs.items()} == kinds and again.labels == listing.labels


def test_missing_stays_missing_and_impossible_values_are_reported(clinic):
    """An empty cell is NaN; a value out of range counts as missing, is named with its case, and the case stays."""
    rows = visits()
    rows[3]["age"], rows[4]["age"], rows[7]["age"] = 430, "abc", "63 "
    write(clinic / "visits.csv", rows)
    cohort = prepare_records(list_items(clinic), clinic / "work")
    assert len(cohort) == 80
    found = {(t.field, t.code): t for t in cohort.troubles}
    assert found["age", "value-out-of-range"].cases == ["row 5"] and found["age", "number-expected"].count == 1
    assert values_of(cohort, 3)["age"] is None and values_of(cohort, 7)["age"] == 63.0
    assert values_of(cohort, 0)["creatinine"] is None


def test_what_is_fitted_sees_the_training_part_alone(clinic):
    """A word and a value that stand only in the test part change nothing that is fitted; at serving the word is
    refused, and training on other rows would have learned it."""
    rows = visits(120)
    test = {f"p{i}" for i in range(45, 60)}
    for row in rows:
        row["split"] = "test" if row["person"] in test else "train"
        if row["split"] == "test":
            row |= {"ward": "maternity", "age": 119}
    write(clinic / "visits.csv", rows)
    (clinic / "dataset.yaml").write_text(YAML + "split: split\n")
    cohort = prepare_records(list_items(clinic), clinic / "work")
    parts = split(cohort, seed=1)
    records = fit_fields(parts.train)
    ward = next(f for f in records.fields if f.name == "ward")
    age = next(f for f in records.fields if f.name == "age")
    assert set(ward.levels) == {"icu", "general", "surgery"} and age.centre < 90
    with pytest.raises(Refusal) as refused:
        records({"ward": "maternity", "age": 40})
    assert refused.value.code == "unknown-code" and "maternity" in refused.value.message
    parts = parts.over(encode(cohort, records, clinic / "work"))
    batch = parts.test.take(np.arange(4))
    assert batch.dtype == np.float32 and batch.shape == (4, 3) and (batch[:, 2] == 3).all()


def test_a_package_reads_its_fields_back(clinic):
    """Named transforms rebuild fields that encode a request exactly as training encoded the row."""
    cohort = prepare_records(list_items(clinic), clinic / "work")
    parts = split(cohort, seed=1)
    records = fit_fields(parts.train)
    encoded = parts.over(encode(cohort, records, clinic / "work"))
    again = Records.build(records.named())
    assert again.blocks == records.blocks
    for row in range(5):
        case = encoded.train.cases[row]
        raw = list_items(clinic).raw(next(i for i in list_items(clinic).items if i.id == case.id))
        assert np.array_equal(again(raw), encoded.train.take(np.array([row]))[0], equal_nan=True)


def test_units_are_converted_and_nonsense_is_refused(clinic):
    """mg/dL becomes umol/L only where the substance allows it; months become years; kilograms do not."""
    cohort = prepare_records(list_items(clinic), clinic / "work")
    records = fit_fields(split(cohort, seed=1).train)
    assert records({"age": {"value": 756, "unit": "mo"}})[0] == pytest.approx(63, abs=0.1)
    for raw, code in (
        ({"age": {"value": 63, "unit": "kg"}}, "wrong-unit"),
        ({"age": {"value": 63, "unit": "furlongs!"}}, "wrong-unit"),
        ({"age": 430}, "value-out-of-range"),
        ({"age": "old"}, "number-expected"),
        ({"age": float("inf")}, "number-expected"),
        ({"age": {"amount": 3}}, "number-expected"),
        ({"ward": ["icu"]}, "category-expected"),
        ({"agee": 63}, "input-unknown"),
    ):
        with pytest.raises(Refusal) as refused:
            records(raw)
        assert refused.value.code == code and refused.value.hint is not None


def test_a_wrong_declaration_names_the_neighbours(clinic):
    """A column that is not there, a range upside down, an unknown kind."""
    for old, new, code, word in (
        ("  age: {", "  agee: {", "column-missing", "age"),
        ("[0, 120]", "[120, 0]", "declaration-value", "range"),
        ("kind: category", "kind: categry", "declaration-key", "category"),
    ):
        (clinic / "dataset.yaml").write_text(YAML.replace(old, new))
        with pytest.raises(BadData) as error:
            list_items(clinic)
        assert error.value.code == code and word in str(error.value)


def test_equal_rows_are_a_leak_only_where_chance_is_no_reason(clinic):
    """Three equal columns agree by chance; twelve equal numbers are the same case under two names."""
    rows = visits()
    assert len({c.pixels for c in prepare_records(list_items(clinic), clinic / "a").cases}) == len(rows)
    random = np.random.default_rng(0)
    wide = [{f"x{k}": round(float(random.normal()), 3) for k in range(12)} | {"label": i % 2} for i in range(60)]
    wide[50] = dict(wide[3])
    listing = list_items(write(clinic / "wide.csv", wide))
    cases = prepare_records(listing, clinic / "b").cases
    assert cases[50].pixels == cases[3].pixels and len({c.pixels for c in cases}) == 59


def test_ucr_series_are_waveforms_with_official_parts(tmp_path):
    """NAME_TRAIN.tsv and NAME_TEST.tsv: a label and the samples in each row."""
    random = np.random.default_rng(0)
    for part, n in (("TRAIN", 12), ("TEST", 8)):
        rows = np.column_stack([np.arange(n) % 2, random.normal(size=(n, 30))])
        np.savetxt(tmp_path / f"Beats_{part}.tsv", rows, delimiter="\t")
    listing = list_items(tmp_path)
    assert listing.form == "ucr" and listing.task == "binary" and [i.part for i in listing.items].count("test") == 8
    raw = listing.raw(listing.items[0])["series"]
    assert len(raw["values"][0]) == 30 and raw["unit"] == ""


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_body_is_decoded_to_what_its_values_make(seed):
    """Byte for byte, or not at all: whatever the fields refuse, or read in another way, is left to them."""
    random = np.random.default_rng(seed)
    fields = [Number("a", "a", 0, 120), Number("b"), Number("é c", None, None, 9), Category("w", ("icu", "general")),
              Category("o", ("1", "2.5"), open=True)]  # fmt: skip
    records, decoded = Records(tuple(fields)), 0
    values = ["0", "-0", "-0.0", "71", "120", "120.00000001", "1e2", "-3", "1e400", "1e39", "3.4028235e38", "null",
              "true", '"icu"', '" icu"', '"attic"', '"71"', '""', '"?"', "[]", '{"value": 1}', "0.1", "1e-320", "NaN",
              "12345678901234567890123", "9007199254740993", "2.5", "1"]  # fmt: skip
    names = [*(field.name for field in fields), "x", "\\u0061"]
    for _ in range(1500):
        some = random.choice(names, random.integers(0, 6), p=[0.2, 0.2, 0.15, 0.2, 0.2, 0.03, 0.02])
        inner = ", ".join(f'"{name}": {values[random.integers(len(values))]}' for name in some)
        body = random.choice(['{"inputs": {%s}}', '{"inputs": {%s}}', "{%s}", '{"inputs": {%s}} ', '{"inputs": {%s}'])
        data = (body % inner).encode()
        row = records.decode(data)
        if row is None:
            continue
        decoded += 1
        said = msgspec.json.decode(data)["inputs"]
        expected = records(said)
        assert row.dtype == expected.dtype and np.array_equal(row, expected, equal_nan=True), data
    assert decoded > 100
    plain = {"a": 71, "b": 1.5, "w": "icu"}
    assert records.decode(msgspec.json.encode({"inputs": plain})) is not None
    assert records.decode(msgspec.json.encode({"inputs": plain}) + b" " * MOST_PLAIN) is None
    assert Records((Text("t"),)).decode(b'{"inputs": {"t": "x"}}') is None
