"""Views of proteins: counts for simple models, convolutions for networks, each equal protein of a batch read once."""

import numpy as np
import torch

from medserve.data.fields import Block
from medserve.data.fields.protein import Protein
from medserve.models.record import ENCODERS, FEATURES
from medserve.models.record import protein as _protein  # noqa: F401 - registers
from medserve.models.record.casenet import each_once

FIELD = Protein("t", 90, True)
BLOCK = Block("t", "protein", 0, FIELD.shape, FIELD.facts)


def rows(*sequences: str | None) -> torch.Tensor:
    return torch.from_numpy(np.stack([FIELD.encode(s) for s in sequences]))


def made(count: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return rows(*("".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in random.integers(5, 140, count)))


def test_residues_and_pairs_are_counted():
    """Length, single residues and neighbours by name; letters beyond the twenty count in the length alone."""
    feature = FEATURES["protein"](BLOCK)
    found = dict(zip(feature.names, feature(rows("MKXKKM"))[0].tolist(), strict=True))
    assert found["t: length"] == 6 and found["t: K"] == 3 and found["t: M"] == 2 and found["t: A"] == 0
    assert found["t: MK"] == found["t: KK"] == found["t: KM"] == 1 and sum(found.values()) == 6 + 5 + 3
    assert torch.isnan(feature(rows(None))).all()


def test_a_protein_is_seen_the_same_in_any_company():
    """Beside longer ones, beside shorter ones or alone, and after the padding of the exported graph."""
    torch.manual_seed(0)
    for seed, name in enumerate(("protein-cnn",)):
        encoder = ENCODERS[name](BLOCK, embedding=8, channels=8).eval()
        x = made(40, seed)
        with torch.no_grad():
            alone = torch.cat([encoder(row[None]) for row in x])
            torch.testing.assert_close(encoder(x), alone)
            torch.testing.assert_close(encoder._read(torch.nn.functional.pad(x[:, 1:], (0, 2), value=np.nan)), alone)


def test_where_a_residue_stands_matters():
    """The encoder reads an order, not a bag: turned around, a sequence looks different."""
    torch.manual_seed(0)
    encoder = ENCODERS["protein-cnn"](BLOCK, embedding=8, channels=8).eval()
    x = rows("MKTAYIAKQRWWPLD", "DLPWWRQKAIYATKM")
    assert (encoder(x)[0] - encoder(x)[1]).abs().max() > 1e-3


def test_equal_rows_are_encoded_once():
    """64 rows of 5 proteins, missing values among them: the encoder sees 5 rows, and each row gets its own answer."""
    seen = []

    def encoder(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.nan_to_num(x).cumsum(1)[:, -3:]

    few = torch.cat([made(4), rows(None)])
    x = few[torch.randint(0, 5, (64,), generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(each_once(x, encoder), encoder(x), rtol=0, atol=0)
    assert seen == [5, 64]


def test_rows_that_only_look_equal_are_not_mixed_up(monkeypatch):
    """Should two different rows share their sum, every row is encoded."""
    monkeypatch.setattr(torch, "rand", lambda n, **kwargs: torch.ones(n, dtype=torch.float64))
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).repeat(8, 1)
    assert torch.equal(each_once(x, lambda r: r), x)
