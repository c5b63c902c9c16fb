"""Fitting the taggers of words: lists of phrases and a conditional random field, on records alone.

    architecture, net, history = fit_tagger(Named("tag-crf", {"blocks": [...]}), train, val, output, seed=7)

Phrases of the training part are listed and looked up as one more attribute. A phrase would always find itself in the
text that it came from, so each fold of the training part sees the lists of the other folds. Behind every phrase stand
at least `SEEN` texts, and behind every weight as many words.

Sources: Okazaki, CRFsuite (2007); Ratinov and Roth, CoNLL 2009 (lists).
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medserve.data.text.features import LONGEST_PHRASE
from medserve.data.text.tags import places
from medserve.errors import BadData, Usage
from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401
from medserve.models.record.tagger import TagCrf, TagLookup
from medserve.models.spec import OutputSpec
from medserve.questions.tags import scored
from medserve.types import Array, Named, Samples

SEEN = 3
FOLDS = 5
L1, L2, ITERATIONS = 0.02, 0.3, 120  # chosen on the development part of the NCBI disease corpus
CHUNK = 64  # texts in memory
Lists = dict[int, int]  # digest of a phrase -> number of the name


def fit_tagger(
    architecture: Named, train: Samples, val: Samples, output: OutputSpec, seed: int
) -> tuple[Named, nn.Module, dict[str, Any]]:
    """Fit "tag-crf" or "tag-lookup".

    Args:
        architecture: its parameters hold `blocks`.
        train: those of one patient or document one after the other.

    Returns: the architecture with every parameter that the empty module needs, the fitted module in eval mode, and the
        history: learner, phrases, attributes, entity F1 of the validation part, seconds. Plain JSON.
    Raises: BadData "tags-none": no word of the training part belongs to an entity. Usage "crfsuite-missing".
    """
    started = time.perf_counter()
    targets = np.asarray(train.targets)
    if not (targets > 0).any():
        raise BadData("tags-none", "No word of the training part belongs to an entity.")
    texts = _Texts(architecture, train, targets, output)
    params, net, history = (_crf if architecture.name == "tag-crf" else _lookup)(texts)
    net = net.eval().requires_grad_(False)
    right, wanted, given = _counts(net, val, output)
    history |= {"learner": architecture.name, "seed": seed}
    history["val_f1"] = round(2 * right / max(1, wanted + given), 6)
    history["seconds"] = round(time.perf_counter() - started, 3)
    return Named(architecture.name, {**architecture.params, **params}), net, history


class _Texts:
    """The training part, fold by fold, and the phrases of its entities."""

    def __init__(self, architecture: Named, train: Samples, targets: Array, output: OutputSpec) -> None:
        self.architecture, self.train, self.targets, self.output = architecture, train, targets, output
        self.words = output.words
        self.edges = np.linspace(0, len(train), min(FOLDS, len(train)) + 1).astype(int)
        self.counts = [self._phrases(a, b) for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def build(self, **params: int) -> Any:
        block = self.architecture.params["blocks"]
        return MODELS[self.architecture.name](0, (), self.output.width, blocks=block, **params)

    def chunks(self, start: int, stop: int) -> Iterator[tuple[Array, Array]]:
        """(n, T, columns) records and (n, words) targets, in order."""
        for at in range(start, stop, CHUNK):
            rows = np.arange(at, min(at + CHUNK, stop))
            yield self.train.take(rows).reshape(len(rows), self.words, -1), self.targets[rows]

    def lists(self, without: int | None = None) -> Lists:
        """Phrases of entities that `SEEN` texts hold; the most frequent name of each."""
        total: Counter[tuple[int, int]] = Counter()
        for fold, counts in enumerate(self.counts):
            if fold != without:
                total.update(counts)
        ordered = sorted(total, key=lambda key: (total[key], key))
        return {phrase: name for phrase, name in ordered if total[phrase, name] >= SEEN}

    def marked(self, net: Any) -> Iterator[tuple[Array, Array]]:
        """Every chunk, with the lists of the other folds in `net`."""
        for fold, (start, stop) in enumerate(zip(self.edges[:-1], self.edges[1:], strict=True)):
            net.marks.fill(self.lists(without=fold))
            yield from self.chunks(start, stop)

    def _phrases(self, start: int, stop: int) -> Counter[tuple[int, int]]:
        found: Counter[tuple[int, int]] = Counter()
        for records, targets in self.chunks(start, stop):
            phrases = records[..., -LONGEST_PHRASE:]
            for phrase, target in zip(phrases, targets, strict=True):
                here = places(target[np.isfinite(target)][: self.words])
                keys = {(phrase[a, b - a - 1], name) for a, b, name in here if b - a <= phrase.shape[1]}
                found.update((int(key), name) for key, name in keys if np.isfinite(key))
        return found


def _lookup(texts: _Texts) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    most = max(len(texts.lists(without=fold)) for fold in [None, *range(len(texts.counts))])
    draft = texts.build(phrases=most)
    seen = np.ones((draft.tags, draft.tags))
    for records, targets in texts.marked(draft):
        with torch.no_grad():
            marks = draft.marks(torch.from_numpy(records[..., draft.attributes :])).numpy()
        known = np.isfinite(targets[:, : texts.words])
        np.add.at(seen, (marks[:, : known.shape[1]][known], targets[:, : texts.words][known].astype(int)), 1)
    listed = texts.lists()
    net = texts.build(phrases=len(listed))
    assert isinstance(net, TagLookup)
    net.marks.fill(listed)
    net.shares.copy_(torch.from_numpy(np.log(seen / seen.sum(1, keepdims=True))))
    return {"phrases": len(listed)}, net, {"phrases": len(listed)}


def _crf(texts: _Texts) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    try:
        import pycrfsuite
    except ImportError as error:
        raise Usage(
            "crfsuite-missing", "Training a tagger takes python-crfsuite.", hint="Install medserve[train]."
        ) from error
    most = max(len(texts.lists(without=fold)) for fold in range(len(texts.counts)))
    draft = texts.build(phrases=most)
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params(
        {"c1": L1, "c2": L2, "max_iterations": ITERATIONS}
        | {"feature.minfreq": SEEN, "feature.possible_transitions": True}
    )
    for records, targets in texts.marked(draft):
        with torch.no_grad():
            lists = draft.list_ids(torch.from_numpy(records[..., draft.attributes :])).numpy()
        for record, ids, target in zip(records[..., : draft.attributes], lists, targets, strict=True):
            tags = target[np.isfinite(target)][: texts.words].astype(int)
            rows = [
                [*(f"a{a:.0f}" for a in word[np.isfinite(word)].tolist()), *(f"m{i}" for i in marks)]
                for word, marks in zip(record[: len(tags)], ids[: len(tags)].tolist(), strict=True)
            ]
            trainer.append(pycrfsuite.ItemSequence(rows), [str(tag) for tag in tags])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        tagger = pycrfsuite.Tagger()
        tagger.open(path)
        info = tagger.info()
        tagger.close()
    tables = _tables(info.state_features, draft.tags)
    listed = texts.lists()
    net = texts.build(attributes=len(tables["a"]), phrases=len(listed))
    assert isinstance(net, TagCrf)
    net.marks.fill(listed)
    net.fill(tables["a"], tables["m"])
    for (before, after), weight in info.transitions.items():
        net.between[int(before), int(after)] = weight
    said = {"attributes": len(tables["a"]), "phrases": len(listed)}
    return said, net, dict(said)


def _tables(weights: Mapping[tuple[str, str], float], tags: int) -> dict[str, dict[int, list[float]]]:
    """crfsuite's own account of its weights: attributes ("a") and marks ("m"), number -> a weight for each tag."""
    found: dict[str, dict[int, list[float]]] = {"a": {}, "m": {}}
    for (name, label), weight in weights.items():
        found[name[0]].setdefault(int(name[1:]), [0.0] * tags)[int(label)] = weight
    return found


@torch.no_grad()
def _counts(net: nn.Module, part: Samples, output: OutputSpec) -> tuple[int, int, int]:
    """Entities found rightly, there, and given."""
    total = np.zeros(3)
    for at in range(0, len(part), CHUNK):
        rows = np.arange(at, min(at + CHUNK, len(part)))
        logits = net(torch.from_numpy(part.take(rows))).logits.numpy()
        total += scored(output, logits, np.asarray(part.targets)[rows]).sum(0)
    return int(total[0]), int(total[1]), int(total[2])
