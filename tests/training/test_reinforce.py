"""A model that writes moves towards what is rewarded, and continues bit by bit where it stopped."""

import pytest
import torch

from medserve.data.fields import Block
from medserve.data.fields.molecule import Molecule
from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401
from medserve.training.reinforce import Agent


@pytest.fixture
def agent() -> Agent:
    field = Molecule("smiles", letters=True).fit(["CCO", "CCN"])
    block = Block("smiles", "molecule", 0, field.shape, field.facts)
    torch.manual_seed(0)
    return Agent(MODELS["letters-rnn"](0, (), 1, blocks=[block], hidden=24), seed=1, rate=5e-3)


def reward(text: str) -> float:
    return text.count("N") / max(1, len(text))


def run(agent: Agent, steps: int) -> list[list[str]]:
    written = []
    for _ in range(steps):
        texts = agent.write(32)
        agent.learn(texts, [reward(t) for t in texts], [("NNN", 1.0)])
        written.append(texts)
    return written


def test_what_is_rewarded_is_written_more_often(agent):
    """The share of one letter rises by at least a quarter."""
    written = run(agent, 30)
    first, last = (sum(map(reward, texts)) / len(texts) for texts in (written[0], written[-1]))
    assert last > first + 0.25


def test_a_stopped_run_goes_on_with_the_same_texts(agent):
    """Weights, moments and the number of the step are all that it needs."""
    run(agent, 3)
    kept = {name: value.clone() for name, value in agent.tensors().items()}
    wanted = run(agent, 2)
    other = Agent(agent.prior, seed=1, rate=5e-3)
    other.restore(kept, 3)
    assert run(other, 2) == wanted


def test_a_text_of_unknown_letters_is_not_learned_from(agent):
    """Nothing to learn is no error."""
    assert agent.learn(["Br", ""], [1.0, 1.0]) == 0.0
