"""Folders of tagged words, and tables with a column of spans, are listed as texts with tags."""

import csv
import json

import pytest
import yaml
from made_entities import rows, sentences, write_conll, write_jsonl

from medserve.data.forms import list_items, write_yaml
from medserve.data.text.tags import places
from medserve.data.text.words import words
from medserve.errors import BadData

YAML = """
name: notes
table: {table}
patient: person
inputs: {{note: {{kind: text, column: note}}}}
target: {{kind: tags, column: spans}}
"""


def entities_of(listing, item) -> list[tuple[str, str]]:
    text, spans = next(iter(listing.raw(item).values())), None
    spans = words(text)
    return [(text[spans[a][0] : spans[b - 1][1]], listing.labels[k]) for a, b, k in places(item.label)]


def test_a_folder_of_tagged_words_is_recognised(tmp_path):
    """Without a declaration: task, names, official parts, one text a sentence, and every file accounted for."""
    write_conll(tmp_path, train=12, other=5, signs=True)
    (tmp_path / "README.md").write_text("about")
    listing = list_items(tmp_path)
    assert (listing.form, listing.task, listing.labels) == ("conll", "tags", ("Disease", "Sign"))
    assert [i.part for i in listing.items].count("val") == 10 and listing.independent
    assert [r.code for r in listing.refused] == ["not-tagged-words"] and listing.files == 12 + 10 + 5 + 3 + 1
    said = sentences(12, 0, signs=True)
    for item, s in zip(listing.items, said, strict=False):
        assert listing.raw(item)["text"] == " ".join(s.words)
        wanted = [t for t in s.tags if t.startswith("B-")]
        assert [f"B-{name}" for _, name in entities_of(listing, item)] == wanted
    (tmp_path / "dataset.yaml").write_text(write_yaml(listing))
    again = list_items(tmp_path)
    assert [i.label for i in again.items] == [i.label for i in listing.items]


def test_documents_are_kept_together(tmp_path):
    """-DOCSTART- begins a document: its sentences share one key, as one patient's would."""
    (tmp_path / "train.txt").write_text("-DOCSTART- O\n\na O\n\nb B-X\n\n-DOCSTART- O\n\nc O\n")
    one, two, three = list_items(tmp_path).items
    assert one.patient == two.patient != three.patient and one.patient is not None


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_table_with_spans(tmp_path, suffix):
    """Spans count in the text as it stands in the file, spaces at its ends too; CSV, Parquet and JSON lines agree."""
    if suffix == "jsonl":
        write_jsonl(tmp_path / "notes.jsonl", 12)
    elif suffix == "csv":
        with open(tmp_path / "notes.csv", "w", newline="") as file:
            out = csv.DictWriter(file, ["note", "spans", "person"])
            out.writeheader()
            out.writerows(r | {"spans": json.dumps(r["spans"])} for r in rows(12))
    else:
        import polars as pl

        pl.DataFrame([r | {"spans": json.dumps(r["spans"])} for r in rows(12)]).write_parquet(
            tmp_path / "notes.parquet"
        )
    (tmp_path / "dataset.yaml").write_text(YAML.format(table=f"notes.{suffix}"))
    listing = list_items(tmp_path)
    assert listing.task == "tags" and listing.labels == ("Disease",) and len({i.patient for i in listing.items}) == 6
    for item, row in zip(listing.items, rows(12), strict=True):
        wanted = [(row["note"][a:b], name) for a, b, name in row["spans"]]
        assert entities_of(listing, item) == wanted
    assert yaml.safe_load(write_yaml(listing))["target"]["kind"] == "tags"


def test_bad_spans_are_named(tmp_path):
    """Out of the text, not spans, nothing said: each row refused with its code; an empty list is a label."""
    cells = ['[[0, 5, "D"]]', "[]", '[[0, 99, "D"]]', "colon", "", "[[0, 5]]", '[{"start": 0, "end": 4, "label": "D"}]']
    lines = [json.dumps({"note": "colon cancer", "spans": cell, "person": str(n)}) for n, cell in enumerate(cells)]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    (tmp_path / "dataset.yaml").write_text(YAML.format(table="notes.jsonl"))
    listing = list_items(tmp_path)
    assert [i.label for i in listing.items] == [(1, 0), (0, 0), (1, 0)]
    assert [r.code for r in listing.refused] == ["label-invalid"] * 2 + ["label-missing", "label-invalid"]
    assert any("1 entities begin or end inside a word" in line for line in listing.source["warnings"])


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "notes.jsonl").write_text('{"note": "a", "spans": []}\n{"note": ')
    (tmp_path / "dataset.yaml").write_text(YAML.format(table="notes.jsonl"))
    with pytest.raises(BadData) as caught:
        list_items(tmp_path)
    assert caught.value.code == "table-unreadable" and "line 2" in caught.value.message


def test_marks_need_one_text(tmp_path):
    (tmp_path / "notes.jsonl").write_text('{"note": "a", "age": 3, "spans": []}')
    said = YAML.format(table="notes.jsonl").replace("column: note}", "column: note}, age: {kind: number}")
    (tmp_path / "dataset.yaml").write_text(said)
    with pytest.raises(BadData) as caught:
        list_items(tmp_path)
    assert caught.value.code == "declaration-value" and "one input" in caught.value.message
