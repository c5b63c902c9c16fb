"""What writes molecules gives every letter its probability, and one step after another gives the same."""

import numpy as np
import pytest
import torch

from medserve.data.fields import Block
from medserve.data.fields.molecule import Molecule
from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401
from medserve.training.letters import fit_ngram
from medserve.types import ArraySamples, Named

TEXTS = ["CCO", "CCN", "c1ccccc1O", "CC(=O)O", "CCCCl", "CCOCC"] * 4


@pytest.fixture(scope="module")
def field() -> Molecule:
    return Molecule("smiles", letters=True).fit(TEXTS)


@pytest.fixture(scope="module")
def block(field) -> Block:
    return Block("smiles", "molecule", 0, field.shape, field.facts)


@pytest.fixture(scope="module")
def samples(field) -> ArraySamples:
    return ArraySamples(np.stack([field.encode(t) for t in TEXTS]), np.zeros(len(TEXTS), np.float32))


def test_the_record_of_a_writer_holds_letters_alone(field):
    """No fragment is counted, and the field comes back from JSON as it was."""
    assert field.facts["bits"] == 0 and field.shape == (field.facts["length"],)
    assert field.alphabet == "".join(sorted(set("".join(TEXTS))))
    assert Molecule(**field.named().params) == field


@pytest.mark.parametrize("name", ["letters-rnn", "letters-ngram"])
def test_steps_give_what_the_whole_text_gives(name, field, block, samples):
    """The mean log-probability of letters and end, added up by hand from single steps."""
    torch.manual_seed(0)
    given = {"hidden": 16, "layers": 2} if name == "letters-rnn" else {}
    net = MODELS[name](0, (), 1, blocks=[block], **given).eval().requires_grad_(False)
    if name == "letters-ngram":
        _, net, _ = fit_ngram(Named(name, {"blocks": [block]}), samples, samples)
    text = "CC(=O)O"
    total, state, letter = 0.0, net.start(1), torch.tensor([0])
    for wanted in [*(1 + field.alphabet.index(c) for c in text), 0]:
        logits, state = net.step(letter, state)
        total += float(logits.log_softmax(1)[0, wanted])
        letter = torch.tensor([wanted])
    whole = net(torch.from_numpy(field.encode(text)[None])).logits
    assert float(whole) == pytest.approx(total / (len(text) + 1), abs=1e-5)


def test_training_in_pieces_by_length_changes_nothing(block, samples):
    """Short molecules are read apart from long ones; each gets the same number at its own place."""
    torch.manual_seed(0)
    net = MODELS["letters-rnn"](0, (), 1, blocks=[block], hidden=8, dropout=0.0)
    x = torch.from_numpy(samples.images)
    a, b = net.train()(x).logits, net.eval()(x).logits
    assert torch.allclose(a, b, atol=1e-6)


def test_shares_after_few_letters_are_shares(block, samples):
    """Each row sums to 1, nothing is impossible, and what was seen often is likely."""
    _, net, told = fit_ngram(Named("letters-ngram", {"blocks": [block]}), samples, samples)
    shares = net.log.exp()
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)), atol=1e-4) and float(shares.min()) > 0
    assert told["val_log_likelihood"] > -1.2


def test_a_letter_that_training_never_saw_is_unlikely_and_no_error(field, block, samples):
    """Selenium's letters stand nowhere in the alphabet."""
    _, net, _ = fit_ngram(Named("letters-ngram", {"blocks": [block]}), samples, samples)
    usual, strange = (float(net(torch.from_numpy(field.encode(t)[None])).logits) for t in ("CCO", "C[Se]C"))
    assert strange < usual - 1
