"""Taggers of words: the graph gives what the library that trained it gives, and holds nobody's words."""

from pathlib import Path

import msgspec
import numpy as np
import pycrfsuite
import pytest
import torch
from made_entities import sentences

from medserve.data.fields import Records
from medserve.data.fields.words import Words
from medserve.data.forms.conll import tags_of as numbers_of
from medserve.data.text.crf import marginals
from medserve.data.text.features import PHRASES, digest, phrase, phrases_at, slot
from medserve.data.text.tags import Sentence
from medserve.errors import BadData, Usage
from medserve.models.heads import Head
from medserve.models.nets import MODELS
from medserve.models.record.tagger import Marks, tags_of
from medserve.models.spec import OutputSpec
from medserve.questions.tags import decoded, f1_of, parted, scored
from medserve.training import tagging
from medserve.training.tagging import fit_tagger
from medserve.types import ArraySamples, Named

WORDS = 24
FIELD = Words("note", "en", WORDS)
OUTPUT = OutputSpec(task="tags", labels=["Disease"], words=WORDS)
BLOCKS = {"blocks": msgspec.to_builtins(Records((FIELD,)).blocks)}


def samples(said: list[Sentence]) -> ArraySamples:
    texts = [" ".join(s.words) for s in said]
    targets = np.full((len(said), WORDS), np.nan, np.float32)
    for row, s in zip(targets, said, strict=True):
        row[: len(s.tags)] = [("O", "B-Disease", "I-Disease").index(t) for t in s.tags]
    return ArraySamples(np.stack([FIELD.encode(t).ravel() for t in texts]), targets)


def fit(said: list[Sentence], name: str = "tag-crf"):
    return fit_tagger(Named(name, BLOCKS), samples(said), samples(sentences(20, seed=8)), OUTPUT, 0)


@pytest.fixture(scope="module", autouse=True)
def few_iterations():
    before, tagging.ITERATIONS = tagging.ITERATIONS, 40
    yield
    tagging.ITERATIONS = before


@pytest.fixture(scope="module")
def crf():
    return fit(sentences(120))


@pytest.mark.parametrize("name", ["tag-crf", "tag-lookup"])
def test_it_finds_the_entities_of_new_sentences(name):
    """The chain nearly all; listed phrases alone all of these, which training has seen."""
    _, net, history = fit(sentences(120), name)
    test = samples(sentences(40, seed=1))
    with torch.no_grad():
        counts = scored(OUTPUT, net(torch.from_numpy(test.images)).logits.numpy(), test.targets)
    assert f1_of(*counts.sum(0)) > 0.97 and history["val_f1"] > 0.9 and history["phrases"] >= 20


def test_tags_and_probabilities_are_those_of_crfsuite(tmp_path, monkeypatch):
    """The graph's scores and the arithmetic on them beside the library's own, on a model that is unsure."""

    class Kept(pycrfsuite.Tagger):
        def open(self, path):
            (tmp_path / "crf").write_bytes(Path(path).read_bytes())
            return super().open(path)

    random = np.random.default_rng(2)
    noisy = [Sentence(s.words, tuple(t if random.random() < 0.8 else "O" for t in s.tags)) for s in sentences(60)]
    with monkeypatch.context() as patch:
        patch.setattr(pycrfsuite, "Tagger", Kept)
        _, net, _ = fit(noisy)
    theirs = pycrfsuite.Tagger()
    theirs.open(str(tmp_path / "crf"))
    least = 1.0
    for s in sentences(15, seed=3):
        record = FIELD.encode(" ".join(s.words))
        with torch.no_grad():
            logits = net(torch.from_numpy(record.reshape(1, -1))).logits[0].numpy()
            lists = net.list_ids(torch.from_numpy(record[None, :, net.attributes :]))[0].tolist()
        count = len(s.words)
        items = [[*(f"a{a:.0f}" for a in row[np.isfinite(row)]), *(f"m{i}" for i in ids)]
                 for row, ids in zip(record[:count, : net.attributes], lists, strict=False)]  # fmt: skip
        assert [str(t) for t in decoded(OUTPUT, logits, count)] == theirs.tag(pycrfsuite.ItemSequence(items))
        emissions, between = parted(OUTPUT, logits)
        ours = marginals(emissions[:count], between)
        wanted = [[theirs.marginal(str(k), t) for k in range(3)] for t in range(count)]
        assert ours == pytest.approx(np.array(wanted), abs=1e-3)
        least = min(least, ours.max(1).min())
    assert least < 0.95  # it was unsure somewhere, so the comparison meant something


def test_an_empty_module_takes_the_tensors_back(crf):
    """From the architecture's parameters alone; what stands after the last word scores nothing."""
    architecture, net, _ = crf
    again = MODELS[architecture.name](0, (), OUTPUT.width, **architecture.params)
    again.load_state_dict(net.state_dict())
    x = torch.from_numpy(samples(sentences(4, seed=5)).images)
    assert torch.equal(net(x).logits, again.eval()(x).logits)
    emissions, _ = parted(OUTPUT, net(x).logits[0].numpy())
    words = int(np.isfinite(x[0].reshape(FIELD.shape)[:, 0].numpy()).sum())
    assert emissions[:words].any() and not emissions[words:].any()


def test_a_word_of_two_texts_leaves_no_weight():
    """Neither as an attribute nor as a phrase."""
    rare = Sentence(("Zebrowski", "syndrome", "and"), ("B-Disease", "I-Disease", "O"))
    _, net, _ = fit([*sentences(120), rare, rare])
    for said in ("w=Zebrowski", "l=zebrowski", "-1l=zebrowski"):
        assert not net.weight[int(net.slot[slot(said)])].any()
    assert phrase(["zebrowski", "syndrome"]) not in net.marks.keys.tolist()
    assert phrase(["colon", "cancer"]) in net.marks.keys.tolist() and net.weight[int(net.slot[slot("l=cancer")])].any()


def test_the_list_of_a_fold_comes_from_the_others():
    """A phrase that stands in one fold alone is not marked there, but is listed for serving."""
    train = samples([*[Sentence(("Menkes", "disease"), ("B-Disease", "I-Disease"))] * 4, *sentences(36)])
    texts = tagging._Texts(Named("tag-lookup", BLOCKS), train, train.targets, OUTPUT)
    menkes = phrase(["menkes", "disease"])
    assert menkes in texts.lists() and menkes not in texts.lists(without=0) and menkes in texts.lists(without=1)


def test_listed_phrases_are_marked_the_longest_first():
    """A phrase within a longer one is part of that; a number that only shares a place in the table is none."""
    marks = Marks(2)
    marks.fill({phrase(["colon", "cancer"]): 0, phrase(["cancer"]): 1})

    def marked(words):
        return marks(torch.from_numpy(phrases_at(words)[None]))[0].tolist()

    assert marked(["Colon", "cancers", "and", "cancer"]) == [1, 2, 0, 3]
    assert marked(["no", "such", "word"]) == [0, 0, 0]
    near = torch.full((1, 1, 8), float((phrase(["cancer"]) + 2**18) % PHRASES))
    assert marks(near).tolist() == [[0]]


def test_the_width_says_how_many_tags():
    for labels in (1, 2, 10):
        output = OutputSpec(task="tags", labels=[str(i) for i in range(labels)], words=37)
        assert tags_of(output.width, 37) == output.tags == 2 * labels + 1


def test_the_loss_of_words_leaves_out_what_is_not_there():
    """Cross-entropy by hand: a certain right word costs 0, an even one ln 3, padding and transitions nothing."""
    output = OutputSpec(task="tags", labels=["D"], words=3)
    logits = torch.zeros(2, output.width)
    logits[0, 1] = 50.0
    logits[:, 9:] = torch.randn(9)
    targets = torch.tensor([[1.0, np.nan], [0.0, 2.0]])
    assert Head(output).loss(logits, targets).item() == pytest.approx(2 / 3 * np.log(3), abs=1e-6)
    each = Head(output).loss(logits, targets, per_sample=True).tolist()
    assert each == pytest.approx([0.0, np.log(3)], abs=1e-6)


def test_texts_without_an_entity_are_refused(monkeypatch):
    with pytest.raises(BadData) as caught:
        fit([Sentence(("Nothing", "here"), ("O", "O"))] * 8)
    assert caught.value.code == "tags-none"
    monkeypatch.setitem(__import__("sys").modules, "pycrfsuite", None)
    with pytest.raises(Usage) as missing:
        fit(sentences(10))
    assert missing.value.code == "crfsuite-missing" and missing.value.hint


def test_a_table_keeps_the_places_of_entities():
    """Spans in characters -> tags of words; one that ends inside a word is widened and counted."""
    text = "no colon cancers (CC)"
    assert numbers_of(text, [(3, 16, "D"), (18, 20, "D")], ["D"]) == ((0, 1, 2, 0, 1, 0), 0)
    assert numbers_of(text, [(3, 15, "D")], ["D"]) == ((0, 1, 2, 0, 0, 0), 1)
    assert digest("a") != digest("b")
