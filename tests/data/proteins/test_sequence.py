"""Sequences of amino acids: what is read, and what is refused with which code."""

import pytest

from medserve.data.proteins.sequence import MOST_RESIDUES, TWENTY, read_sequence
from medserve.errors import Refusal


@pytest.mark.parametrize(("text", "residues"), [
    ("mkt ayi\n", "MKTAYI"),
    (">sp|P68871|HBB_HUMAN Hemoglobin\nMVHLTPEEKS\nAVTALWGKV*\n", "MVHLTPEEKSAVTALWGKV"),
    ("\r\n;comment\r\nMV HL\r\n", "MVHL"),
    (TWENTY + "UOBZJX", TWENTY + "UOBZJX"),
    ("GATTACA", "GATTACA"),  # a short peptide may well be
])  # fmt: skip
def test_letters_and_fasta_are_read(text, residues):
    """Spaces, line breaks, headers, lower case and a stop at the end change nothing."""
    assert read_sequence(text) == residues


@pytest.mark.parametrize(("text", "code", "said"), [
    ("MKT1AYI", "protein-invalid", "residue 4 is '1'"),
    ("MKT AY-I", "protein-invalid", "residue 6 is a gap"),
    ("MKT*AYI", "protein-invalid", "residue 4"),
    ("MKΔ", "protein-invalid", "residue 3"),
    ("MKß", "protein-invalid", "residue 3"),
    (">only a header\n", "protein-empty", "no residue"),
    ("  \n ", "protein-empty", "no residue"),
    (">a\nMKT\n>b\nMKT\n", "protein-several", "one"),
    ("ACGT" * 10, "protein-nucleotides", "DNA"),
    ("M" * (MOST_RESIDUES + 1), "protein-too-long", str(MOST_RESIDUES)),
    ("M" * (5 * MOST_RESIDUES), "protein-too-long", str(MOST_RESIDUES)),
])  # fmt: skip
def test_anything_else_is_refused_with_its_place(text, code, said):
    """A coded refusal that names the first wrong residue, counted from 1 without spaces; the sequence is not shown."""
    with pytest.raises(Refusal) as told:
        read_sequence(text, name="target")
    assert told.value.code == code and said in told.value.message and told.value.message.startswith("target:")
    assert "MKT" not in told.value.message
