"""What a SMILES has open is told of its letters, and what cannot come next is barred: all at once as one by one."""

import numpy as np
import onnxruntime
import pytest
import torch

from medserve.data.fields import Block
from medserve.data.fields.molecule import Molecule
from medserve.models.export import export_step, write_graph
from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401
from medserve.models.record.syntax import BAR, Syntax

PLAIN = "()+-=123456[]BCHNOlnrc"
LONG = PLAIN + "%7890"
NAPHTHALENE = "c1ccc2ccccc2c1"


def ids_of(text: str, alphabet: str) -> torch.Tensor:
    return torch.tensor([[0, *(alphabet.index(c) + 1 for c in text)]])


def open_after(text: str, alphabet: str = PLAIN) -> torch.Tensor:
    return Syntax(alphabet).read(ids_of(text, alphabet))[0, -1]


def allowed(text: str, alphabet: str = PLAIN) -> set[str]:
    """Letters that may follow; "$" is the end."""
    bars = Syntax(alphabet).barred(open_after(text, alphabet))
    return {c for c, bar in zip("$" + alphabet, bars[:-1].tolist(), strict=True) if not bar}


@pytest.mark.parametrize(
    ("text", "branches", "brackets", "rings"),
    [
        ("", 0, 0, set()),
        ("CC(=O", 1, 0, set()),
        ("CC(C(C)", 1, 0, set()),
        ("CC(=O)O", 0, 0, set()),
        ("c1ccc2cc", 0, 0, {1, 2}),
        (NAPHTHALENE, 0, 0, set()),
        ("c1ccc2ccccc2", 0, 0, {1}),
        ("C[N", 0, 1, set()),
        ("C[NH2+", 0, 1, set()),  # a digit in brackets counts hydrogens
        ("C[NH2+]1", 0, 0, {1}),
        ("C1CC1C1", 0, 0, {1}),  # a number that is free again
    ],
)
def test_what_is_open(text, branches, brackets, rings):
    """Counted by hand."""
    told = open_after(text).tolist()
    assert told[:2] == [branches, brackets]
    assert {i for i, v in enumerate(told[2:12]) if v} == rings


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("C1", {1: 1}),
        ("c1cccc", {1: 5}),
        ("c1cc(CCCCC)cc", {1: 5}),  # a branch that is left is not on the way round
        ("c1cc(CCC(C)C", {1: 7}),
        ("Clc1c(Br)[nH]c2cc", {1: 6, 2: 3}),  # Cl, Br and what stands in brackets are one atom each
        ("C1CCCCCCCCCCC", {1: 8}),  # so many or more
        ("c1ccccc1CC1C", {1: 2}),  # the number was free, and begins again
        ("C(C(C(C(C(C(C(C(C(C1CC", {1: 3}),  # deeper than what is counted apart
    ],
)
def test_how_far_round_an_open_ring_is(text, sizes):
    """Atoms from where it was opened to the last, counted by hand."""
    syntax = Syntax(PLAIN)
    told = syntax.told(open_after(text))[12:].reshape(10, -1)
    assert {ring: int(row.sum()) for ring, row in enumerate(told) if row.any()} == sizes
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in told)


def test_ring_numbers_of_two_digits():
    """%12 is one ring, C%121 opens ring 1 beside it, and neither digit stands for a ring of its own."""

    def rings(text: str) -> set[int]:
        return {i for i, v in enumerate(open_after(text, LONG)[2:102].tolist()) if v}

    assert rings("C%12CC") == {12} and rings("C%121CC") == {1, 12} and rings("C%12CC%12") == set()
    assert rings("C1C%11C") == {1, 11} and rings("[13CH2]C%10") == {10}
    digits = set("1234567890")
    assert allowed("C%", LONG) == digits and allowed("C%1", LONG) == digits and "C" in allowed("C%12", LONG)


def test_what_cannot_come_next_is_barred():
    """An end while something is open, a closing of what is not, and what no bracket atom holds."""
    assert allowed("CC") >= {"$", "(", "1", "C", "["} and allowed("CC").isdisjoint(")]")
    assert "$" not in allowed("CC(") and ")" in allowed("CC(C") and "$" in allowed("CC(C)")
    assert "$" not in allowed("c1cccc") and "$" in allowed("c1ccccc1")
    assert allowed("C[").isdisjoint("$()[=") and allowed("C[N") >= {"]", "H", "+", "2"}


def test_a_letter_that_training_never_saw_is_never_barred():
    """It is no letter that is written; a record that holds it is scored as before."""
    syntax = Syntax(LONG)
    for text in ("", "C%1", "C[", "C(C1"):
        assert float(syntax.barred(syntax.read(ids_of(text, LONG)))[..., -1].abs().max()) == 0


@pytest.mark.parametrize("alphabet", [PLAIN, LONG])
def test_one_letter_after_another_gives_what_all_at_once_gives(alphabet):
    """Whatever the letters, sense or nonsense."""
    syntax = Syntax(alphabet)
    ids = torch.randint(0, len(alphabet) + 2, (64, 80), generator=torch.Generator().manual_seed(0))
    whole, state = syntax.read(ids), torch.zeros(64, syntax.size)
    for place in range(ids.shape[1]):
        state = syntax.after(ids[:, place], state)
        assert torch.equal(state, whole[:, place])


@pytest.fixture(scope="module", params=["c1ccccc1C(=O)N[N+](C)(C)C", "C%10CCCCC%10C(=O)N[N+](C)(C)C"])
def writer(request):
    """An untrained network that is told the syntax, its block and its field; with and without "%"."""
    texts = [request.param, "CC(=O)Nc1ccc2ccccc2c1", "C1CC1"]
    field = Molecule("smiles", letters=True).fit(texts)
    block = Block("smiles", "molecule", 0, field.shape, field.facts)
    torch.manual_seed(0)
    net = MODELS["letters-rnn"](0, (), 1, blocks=[block], hidden=16, layers=2, syntax=True)
    return net.eval().requires_grad_(False), field, texts


def test_steps_and_whole_texts_have_the_same_probabilities(writer):
    """Bars included: the mean log-probability of letters and end, added up from single steps."""
    net, field, texts = writer
    for text in [*texts, "CC(C", "C1CC)"]:  # what is barred is unlikely, and still a number
        total, state, letter = 0.0, net.start(1), torch.tensor([0])
        for wanted in [*(1 + field.alphabet.index(c) for c in text), 0]:
            logits, state = net.step(letter, state)
            total += float(logits.log_softmax(1)[0, wanted])
            letter = torch.tensor([wanted])
        whole = float(net(torch.from_numpy(field.encode(text)[None])).logits)
        assert whole == pytest.approx(total / (len(text) + 1), abs=1e-5)
        assert (whole < -0.8 * BAR / (len(text) + 1)) if text not in texts else True


def test_both_graphs_give_the_numbers_of_the_network(writer, tmp_path):
    """The step graph letter by letter, and the graph of whole texts."""
    net, field, texts = writer
    export_step(net, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "step.onnx"), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    a, b = net.start(4), net.start(4).numpy()
    for _ in range(30):
        letter = random.integers(0, net.vocabulary, 4)
        mine, a = net.step(torch.from_numpy(letter), a)
        theirs, b = session.run(["logits", "next"], {"letter": letter, "state": b})
        assert np.allclose(mine.numpy(), theirs, atol=1e-4) and np.allclose(a.numpy(), b, atol=1e-4)
    records = torch.from_numpy(np.stack([field.encode(t) for t in [*texts, "CC(C"]]))

    class Mean(torch.nn.Module):
        def forward(self, record):
            return net(record).logits

    write_graph(Mean(), {"record": records[:2]}, ["logits"], tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"record": records.numpy()})[0], net(records).logits.numpy(), atol=1e-4)


def test_what_it_writes_is_closed(writer):
    """Even before it has learned anything: no text that ended leaves a bracket, a branch or a ring open."""
    net, field, _ = writer
    random, ended = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        letter, state, text = torch.tensor([0]), net.start(1), [0]
        for _ in range(200):
            logits, state = net.step(letter, state)
            letter = torch.multinomial(logits[:, :-1].softmax(1), 1, generator=random)[:, 0]
            text.append(int(letter))
            if not text[-1]:
                break
        if text[-1] == 0 and len(text) > 2:
            ended += 1
            told = Syntax(field.alphabet).read(torch.tensor([text]))[0]
            assert not told[-1, : 2 + Syntax(field.alphabet).rings].any() and float(told[:, :2].min()) >= 0
    assert ended > 10
