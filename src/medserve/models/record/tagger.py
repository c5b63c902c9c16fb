"""Training a tagger of words: attributes of each word, lists learned from the training part, a CRF by python-crfsuite.

    tagger = train_tagger(sentences, TaggerSettings())
    tagger.tag(words)                                    # data.text.crf: served without this module
    score_entities([s.tags for s in test], [tagger.tag(s.words) for s in test])

Phrases of the training part are listed and looked up as one more attribute. A phrase would always find itself in the
sentence that it came from, so each fold of the training part is described with the list of the other folds.

Sources: Okazaki, CRFsuite (2007); Ratinov and Roth, CoNLL 2009 (lists).
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.text.crf import Tagger
from medserve.data.text.features import Lexicon, describe, digest, normal
from medserve.data.text.tags import Sentence, entities
from medserve.errors import BadData, Usage
from medserve.types import Array


@dataclass(frozen=True, slots=True)
class TaggerSettings:
    """l1, l2: penalties of the weights. seen: sentences behind every listed phrase, occurrences behind every attribute.

    folds: for the lists.
    """

    l1: float = 0.1
    l2: float = 0.1
    seen: int = 3
    folds: int = 5
    iterations: int = 120


DEFAULT = TaggerSettings()


def train_tagger(sentences: Sequence[Sentence], settings: TaggerSettings = DEFAULT) -> Tagger:
    """
    Args:
        sentences: of the training part, those of one text one after the other.

    Raises: BadData "tags-none": no sentence holds an entity. Usage "crfsuite-missing".
    """
    try:
        import pycrfsuite
    except ImportError as error:
        raise Usage(
            "crfsuite-missing", "Training a tagger takes python-crfsuite.", hint="Install medserve[text]."
        ) from error
    if not any(tag != "O" for s in sentences for tag in s.tags):
        raise BadData("tags-none", "No word of the training part has a tag other than O.")
    lexicon, described = describe_all(sentences, settings)
    # crfsuite sees digests: its own reading of names (colons, spaces) never comes in, and serving sees the same.
    rows = [[[f"{digest(a):x}" for a in word] for word in sentence] for sentence in described]
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    # crfsuite counts occurrences; one word's attributes occur once in a sentence, or nearly so.
    trainer.set_params(
        {"c1": settings.l1, "c2": settings.l2, "max_iterations": settings.iterations}
        | {"feature.minfreq": settings.seen, "feature.possible_transitions": True}
    )
    for row, sentence in zip(rows, sentences, strict=True):
        trainer.append(pycrfsuite.ItemSequence(row), list(sentence.tags))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        tagger = pycrfsuite.Tagger()
        tagger.open(path)
        info = tagger.info()
        tagger.close()
    return _plain(info, lexicon)


def describe_all(sentences: Sequence[Sentence], settings: TaggerSettings) -> tuple[Lexicon, list[list[list[str]]]]:
    """The lexicon of all sentences, and every sentence's attributes as the lists of the other folds give them."""
    described: list[list[list[str]]] = []
    edges = np.linspace(0, len(sentences), min(settings.folds, len(sentences)) + 1).astype(int)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        others = [*sentences[:start], *sentences[stop:]]
        lists = Lexicon(phrases(others, settings.seen))
        described += [describe(s.words, lists) for s in sentences[start:stop]]
    return Lexicon(phrases(sentences, settings.seen)), described


def phrases(sentences: Sequence[Sentence], seen: int) -> dict[int, str]:
    """Digest of the normal form -> name, for entities that `seen` sentences hold."""
    counts: Counter[tuple[str, str]] = Counter()
    for s in sentences:
        counts.update({(normal(s.words[a:b]), name) for a, b, name in entities(s.tags)})
    # The most frequent name last, so that it stays.
    ordered = sorted(counts, key=lambda key: (counts[key], key))
    return {digest(phrase): name for phrase, name in ordered if counts[phrase, name] >= seen and len(phrase) > 1}


def _plain(info: Any, lexicon: Lexicon) -> Tagger:
    """crfsuite's own account of its weights, as arrays."""
    labels = tuple(sorted(info.labels, key=lambda label: int(info.labels[label])))
    column = {label: k for k, label in enumerate(labels)}
    digests = sorted({int(name, 16) for name, _ in info.state_features})
    row = {d: i for i, d in enumerate(digests)}
    weights: Array = np.zeros((len(digests), len(labels)), np.float32)
    for (name, label), weight in info.state_features.items():
        weights[row[int(name, 16)], column[label]] = weight
    transitions = np.zeros((len(labels), len(labels)))
    for (before, after), weight in info.transitions.items():
        transitions[column[before], column[after]] = np.float32(weight)
    return Tagger(labels, np.array(digests, np.int64), weights, transitions, lexicon)
