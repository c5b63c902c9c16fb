"""dataset.yaml is parsed strictly; a mistake meets its neighbours."""

import pytest

from medserve.data.declaration import parse
from medserve.errors import BadData

WHOLE = b"""
name: chest
source: a hospital
licence: CC BY 4.0
table: labels.csv
patient: subject_id
split: {by: site, column: hospital, test: 0.25, seed: 3}
inputs:
  film: {kind: image, column: path, size: [64, 64]}
target: {column: label, kind: binary, classes: [normal, pneumonia]}
subgroups: [sex, site]
public: true
"""


def test_a_whole_declaration_is_read():
    """Every documented field of an image data set arrives."""
    declared = parse(WHOLE)
    assert declared.name == "chest" and declared.patient == "subject_id" and declared.public
    assert declared.split.by == "site" and declared.split.test == 0.25  # type: ignore[union-attr]
    assert declared.input.column == "path" and declared.input.size == [64, 64]  # type: ignore[union-attr]
    assert declared.target.classes == ["normal", "pneumonia"]  # type: ignore[union-attr]
    assert declared.described == {"source": "a hospital", "licence": "CC BY 4.0", "public": True}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("nmae: x", "declaration-key", "name"),
        ("name: x\ntarget: {colunm: y}", "declaration-key", "column"),
        ("name: x\ninputs: {film: {kind: image, colum: y}}", "declaration-key", "column"),
        ("name: x\ninputs: {film: {kind: imge}}", "declaration-key", "image"),
        ("name: 3", "declaration-key", "`name`"),
        ("public: maybe", "declaration-key", "`public`"),
        ("name: x\ntarget: {kind: binry}", "declaration-key", "binary"),
        ("name: x\ntarget: {kind: survival, column: t}", "declaration-key", "event"),
        ("name: x\ntable: a.csv\ntarget: {kind: tags, column: spans}", "declaration-value", "one input"),
        ("inputs: {target: {kind: protein, residues: 4}}", "declaration-value", "16 to 5000"),
        ("inputs: {age: {kind: number, residues: 400}}", "declaration-value", "of a protein"),
        ("inputs: {a: {kind: image}, b: {kind: volume}}", "kind-not-supported", "alone"),
        ("inputs: {age: {kind: number, range: [9, 1]}}", "declaration-value", "lowest"),
        ("treatment: {column: arm}", "treatment-incomplete", "outcome"),
        ("target: {kind: binary, classes: [a, b, c]}", "declaration-value", "multiclass"),
        ("target: {classes: [a, a]}", "declaration-value", "twice"),
        ("patient: p\nindependent: true", "declaration-value", "patient"),
        ("split: {by: site}", "declaration-key", "column"),
        ("split: {by: patient, order: balanced}", "declaration-value", "scaffold"),
        ("split: {by: scaffold, order: balancd}\ninputs: {m: {kind: molecule}}", "declaration-key", "order"),
        ("split: {by: patient, test: 1.5}", "declaration-value", "fraction"),
        ("inputs: {film: {kind: image, size: [4, 4]}}", "declaration-value", "size"),
        ("a: [b", "declaration-yaml", "line"),
        ("- a list", "declaration-yaml", "name:"),
        ("", "declaration-yaml", "name:"),
        ("name: !!python/object/apply:os.system [id]", "declaration-yaml", "line"),
    ],
)
def test_a_mistake_is_named_with_the_next_step(text, code, said):
    """Unknown keys list their neighbours, later kinds say what is read, wrong values say what fits."""
    with pytest.raises(BadData) as caught:
        parse(text.encode())
    assert caught.value.code == code
    assert said in str(caught.value)


def test_a_huge_declaration_is_not_parsed():
    """A megabyte of YAML is no declaration."""
    with pytest.raises(BadData, match="larger") as caught:
        parse(b"#" * (2**20 + 1))
    assert caught.value.code == "declaration-yaml"
