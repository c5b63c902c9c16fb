"""Cases of like length share a pass where length costs anything; other models know no buckets."""

from types import SimpleNamespace

import numpy as np

from medserve.data.fields import Block
from medserve.models.spec import Named
from medserve.runtime.lengths import bucket_of

NOTE = Block("note", "text", 1, (512,), {"vocabulary": 50})
DRUG = Block("drug", "molecule", 0, (2048 + 100,), {"bits": 2048, "descriptors": [], "length": 100})


def spec(name: str, **params) -> SimpleNamespace:
    return SimpleNamespace(architecture=Named(name, params))


def row(length: int, *filled: slice) -> np.ndarray:
    case = np.full(length, np.nan, np.float32)
    for part in filled:
        case[part] = 1.0
    return case


def test_a_text_is_told_by_its_words_and_not_by_what_stands_beside_it():
    """Within a bucket the longest has at most twice the words of the shortest; short ones are all alike."""
    bucket = bucket_of(spec("case-net", encoders={"text": {"name": "text-gru"}}), [NOTE])
    of = {count: bucket(row(513, slice(0, 1), slice(1, 1 + count))) for count in (0, 1, 31, 32, 63, 64, 512)}
    assert of[0] == of[1] == of[31] < of[32] == of[63] < of[64] < of[512]


def test_a_molecule_is_told_by_the_letters_of_its_smiles():
    """Its fragments, always there, say nothing of its size; a network that reads those alone has no buckets."""
    bucket = bucket_of(spec("case-net", encoders={"molecule": {"name": "molecule-graph"}}), [DRUG])
    assert bucket(row(2148, slice(0, 2048), slice(2048, 2060))) < bucket(row(2148, slice(0, 2048), slice(2048, 2148)))
    assert bucket_of(spec("case-net", encoders={"molecule": {"name": "fragments"}}), [DRUG]) is None
    assert bucket_of(spec("case-net"), [DRUG]) is None


def test_models_that_read_every_place_have_no_buckets():
    """Counted words, trees, tables."""
    assert bucket_of(spec("linear"), [NOTE]) is None
    assert bucket_of(spec("case-net"), [Block("age", "number", 0, (1,))]) is None
