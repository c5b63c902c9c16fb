"""A protein as the letters of its amino acids, from plain letters or FASTA, checked letter by letter.

    read_sequence("mkt ayi\n")                      # "MKTAYI"
    read_sequence(">sp|P68871\nMVHLTPEEK*\n")       # "MVHLTPEEK": the stop at the end is no residue

Letters are those of IUPAC-IUB (Eur J Biochem 138:9, 1984): the twenty; U, O (selenocysteine, pyrrolysine); B, Z and J
(one of two); X (any). Nothing else is read, and nothing is repaired: a gap of an alignment or a digit is a sign that
the text is something else.
"""

import re

from medserve.errors import Refusal

TWENTY = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = frozenset(TWENTY + "UOBZJX")
MOST_RESIDUES = 40_000  # the longest known protein, titin, has 35,991
NUCLEOTIDES, FROM = frozenset("ACGTUN"), 30  # residues from which these letters alone are no protein
_SPACE = re.compile(r"[\s\x00-\x1f]+")
FASTA_SUFFIXES = (".fasta", ".fa", ".faa")


def read_sequence(text: str, *, name: str = "protein") -> str:
    """The residues in capitals.

    Args:
        text: letters, spaces and line breaks among them; or FASTA of one sequence. name: of the input, for messages.

    Raises: Refusal "protein-empty", "protein-too-long", "protein-invalid" (naming the letter and its place, from 1),
        "protein-several" (FASTA of more than one), "protein-nucleotides".
    """
    if len(text) > 4 * MOST_RESIDUES:
        raise too_long(name, MOST_RESIDUES)
    if text.lstrip().startswith((">", ";")):
        lines = text.strip().splitlines()
        if any(line.startswith(">") for line in lines[1:]):
            raise Refusal(
                "protein-several", f"{name}: the FASTA holds several sequences; one was expected.",
                hint="Send one case for each protein.",
            )  # fmt: skip
        text = "\n".join(line for line in lines if not line.startswith((">", ";")))
    written = _SPACE.sub("", text).removesuffix("*")
    found = written.upper() if written.isascii() else written  # "\u00df" would become two residues
    if not found:
        raise Refusal(
            "protein-empty", f"{name}: the sequence holds no residue.",
            hint="Send one-letter codes of amino acids, such as MVHLTPEEK, or leave the input out.",
        )  # fmt: skip
    if len(found) > MOST_RESIDUES:
        raise too_long(name, MOST_RESIDUES)
    wrong = next((i for i, letter in enumerate(found) if letter.upper() not in LETTERS or not letter.isascii()), None)
    if wrong is not None:
        said = "a gap" if found[wrong] in "-." else f"{found[wrong]!r}"
        raise Refusal(
            "protein-invalid", f"{name}: residue {wrong + 1} is {said}, which is no amino acid.",
            hint="One-letter codes of IUPAC: the twenty, U, O, B, Z, J and X; no gaps, digits or modifications.",
        )  # fmt: skip
    if len(found) >= FROM and set(found) <= NUCLEOTIDES:
        raise Refusal(
            "protein-nucleotides", f"{name}: the letters are those of DNA or RNA, not of a protein.",
            hint="Translate the sequence first.",
        )  # fmt: skip
    return found


def too_long(name: str, most: int) -> Refusal:
    return Refusal(
        "protein-too-long", f"{name}: the sequence is longer than {most} residues.",
        hint="Send the domain that matters, or train a model whose window is long enough (`residues` in dataset.yaml).",
    )  # fmt: skip
