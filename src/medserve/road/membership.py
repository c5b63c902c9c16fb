"""Which part a case stood in, kept in a package as keyed hashes: no identifier travels, no stranger can test a guess.

    record = split_record(parts, removed, key)          # split.json
    part_of = parts_by_hash(package.split)
    part_of.get(case_hash(key, case))                   # "train", "test" ..., or None for a case never seen

The key is this installation's (`pseudonym_key`); elsewhere every case counts as foreign.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from medserve.data.cohort import Case
from medserve.data.leaks import Removed
from medserve.data.molecules.standard import standard_key
from medserve.data.records import digest_of, values_of
from medserve.data.split import Parts, PartView


def case_hash(key: bytes, case: Case) -> str:
    """HMAC-SHA256 of the case's id and source bytes, 128 bits in hex."""
    message = b"case\0" + case.id.encode() + b"\0" + case.sha256
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:32]


def picture_hash(key: bytes, case: Case) -> str:
    """HMAC-SHA256 of what the picture shows, whatever its file is called, 128 bits in hex."""
    return digest_hash(key, case.pixels)


def digest_hash(key: bytes, digest: bytes) -> str:
    """`picture_hash` of a case of which only the digest is known."""
    return hmac.new(key, b"picture\0" + digest, hashlib.sha256).hexdigest()[:32]


def key_name(key: bytes) -> str:
    """What a record says of the key that it was made with."""
    return hashlib.sha256(b"split key\0" + key).hexdigest()[:16]


def trained_on(record: Mapping[str, Any], key: bytes) -> frozenset[str] | None:
    """`value_hash`es of the training part; None where the package was made at another installation."""
    if record["key"] != key_name(key):
        return None
    return frozenset(record["trained_on"])


def knows(known: frozenset[str], key: bytes, name: str, smiles: str) -> bool:
    """Whether a molecule is among those of `trained_on`, by its standard form or its InChIKey.

    Args:
        name: of the package's only input.
    """
    return value_hash(key, {name: smiles}) in known or molecule_hash(key, smiles) in known


def count_seen(view: PartView, known: frozenset[str], key: bytes) -> int:
    """How many cases of a part are among those of `trained_on`; a molecule also where another tautomer was drawn."""
    found = [picture_hash(key, case) in known for case in view.cases]
    if [f.kind for f in view.cohort.fields] == ["molecule"]:
        name = view.cohort.fields[0].name
        molecules = (values_of(view.cohort, int(row))[name] for row in view.rows)
        found = [seen or molecule_hash(key, one) in known for seen, one in zip(found, molecules, strict=True)]
    return sum(found)


def molecule_hash(key: bytes, smiles: str) -> str:
    """HMAC-SHA256 of the InChIKey of a standard form, 128 bits in hex."""
    message = b"molecule\0" + standard_key(smiles).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:32]


def value_hash(key: bytes, values: dict[str, Any]) -> str:
    """What `picture_hash` gives for a case of these parsed values, where they tell cases apart (a molecule, a text)."""
    return digest_hash(key, digest_of(values))


def split_record(parts: Parts, removed: Removed, key: bytes) -> dict[str, Any]:
    """What `split.json` holds: the rule, the seed, each part's cases and the pictures trained on, as keyed hashes."""
    cases = parts.cohort.cases
    return {
        "format": "medserve-split/1",
        **dict(parts.rule),
        "key": key_name(key),
        "parts": {part.name: sorted(case_hash(key, case) for case in part.cases) for part in parts},
        "removed": sorted(case_hash(key, cases[row]) for row in removed.rows),
        "trained_on": sorted({picture_hash(key, case) for case in parts.train.cases} | _molecules(parts, key)),
    }


def _molecules(parts: Parts, key: bytes) -> set[str]:
    """`molecule_hash`es of the training part, where the molecule is the whole case."""
    cohort = parts.cohort
    if [f.kind for f in cohort.fields] != ["molecule"] or cohort.values is None:
        return set()
    name = cohort.fields[0].name
    return {molecule_hash(key, values_of(cohort, int(row))[name]) for row in parts.train.rows}


def parts_by_hash(record: Mapping[str, Any]) -> dict[str, str]:
    return {digest: part for part, digests in record["parts"].items() for digest in digests}
