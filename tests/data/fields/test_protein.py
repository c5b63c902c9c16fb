"""The protein's field: letters as numbers, a window, and what lies beyond it."""

import numpy as np
import pytest

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields.protein import Protein, cut_off, residues
from medserve.errors import Refusal


def test_the_sequence_can_be_read_back_from_its_record():
    """The length first, then every residue; a missing protein is missing everywhere."""
    field = Protein.declare("target", Input(kind="protein")).fit(["MKTAYIAKQR" * 4, None])
    row = field.encode("MKTAYI")
    assert row.shape == field.shape == (51,) and row[0] == 6 and residues(row) == "MKTAYI" and cut_off(row) == 0
    assert np.isnan(field.encode(None)).all() and cut_off(field.encode(None)) == 0


def test_beyond_the_window_is_refused_unless_cutting_is_declared():
    """By default a longer protein is out of scope; with `residues` its beginning is read, and how much is left out is
    known from the record."""
    plain = Protein("target").fit(["M" * 40])
    with pytest.raises(Refusal) as told:
        plain.check("M" * 51)
    assert told.value.code == "protein-too-long" and "50 residues" in told.value.message
    declared = Protein.declare("target", Input(kind="protein", residues=16)).fit(["M" * 400])
    declared.check("MK" * 100)
    row = declared.encode("MK" * 100)
    assert declared.shape == (17,) and residues(row) == "MK" * 8 and cut_off(row) == 184


def test_a_package_makes_the_same_field():
    """The stored parameters give the same bytes, and hold no sequence."""
    field = Protein("target").fit(["MKTAYIAKQR" * 4])
    named = field.named()
    again = FIELDS[named.name](**named.params)
    assert again == field and "MKTAY" not in repr(named)
    assert np.array_equal(again.encode("MKV"), field.encode("MKV"), equal_nan=True)


def test_a_number_is_no_protein():
    """Refused with its code; nothing is missing."""
    with pytest.raises(Refusal) as told:
        Protein("target").parse(5)
    assert told.value.code == "protein-expected"
    assert Protein("target").parse("") is None and Protein("target").parse(float("nan")) is None
