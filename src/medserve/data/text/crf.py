"""A trained tagger of words: a linear-chain conditional random field as plain arrays, read without a training library.

    tagger = Tagger.load(data)                           # the bytes of tagger.safetensors
    tagger.tag(["Familial", "colon", "cancer"])          # ["B-Disease", "I-Disease", "I-Disease"]
    tagger.marginals(words)                              # (T, K): how probable each tag is at each word

Source: Lafferty, McCallum and Pereira, ICML 2001; Viterbi and forward-backward as in Rabiner, Proc IEEE 1989.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medserve.data.text.features import Lexicon, describe, digest
from medserve.data.text.tags import LONGEST, entities
from medserve.errors import BadPackage, Refusal
from medserve.types import Array

MAX_BYTES = 512 * 2**20
_ARRAYS = ("attributes", "weights", "transitions", "phrases", "phrase_names")


@dataclass(frozen=True)
class Tagger:
    """labels: K tags. attributes: (A,) int64 digests, ascending. weights: (A, K). transitions: (K, K), from, to."""

    labels: tuple[str, ...]
    attributes: Array
    weights: Array
    transitions: Array
    lexicon: Lexicon

    def tag(self, words: Sequence[str]) -> list[str]:
        """The most probable row of tags. Raises: Refusal "sentence-too-long"."""
        if not words:
            return []
        state = self._state(words)
        back = np.zeros(state.shape, np.int64)
        best = state[0]
        for t in range(1, len(state)):
            every = best[:, None] + self.transitions
            back[t] = every.argmax(0)
            best = every.max(0) + state[t]
        path = [int(best.argmax())]
        for t in range(len(state) - 1, 0, -1):
            path.append(int(back[t, path[-1]]))
        return [self.labels[k] for k in reversed(path)]

    def marginals(self, words: Sequence[str]) -> Array:
        """(T, K) float64; every row sums to 1."""
        if not words:
            return np.zeros((0, len(self.labels)))
        state = self._state(words)
        forward, backward = state.copy(), np.zeros_like(state)
        for t in range(1, len(state)):
            forward[t] += _log_sum(forward[t - 1][:, None] + self.transitions, 0)
        for t in range(len(state) - 2, -1, -1):
            backward[t] = _log_sum(self.transitions + (state[t + 1] + backward[t + 1])[None], 1)
        both = forward + backward
        made: Array = np.exp(both - _log_sum(both, 1)[:, None])
        return made

    def entities(self, words: Sequence[str]) -> list[tuple[int, int, str, float]]:
        """(first word, word after the last, name, probability): the least probable of its words' own tags."""
        tags = self.tag(words)
        chance = self.marginals(words)
        at = {label: k for k, label in enumerate(self.labels)}
        own = [chance[t, at[tag]] for t, tag in enumerate(tags)]
        return [(a, b, name, float(min(own[a:b]))) for a, b, name in entities(tags)]

    def _state(self, words: Sequence[str]) -> Array:
        """(T, K) float64: the sum of the weights of each word's attributes."""
        if len(words) > LONGEST:
            raise Refusal(
                "sentence-too-long", f"A sentence has at most {LONGEST} words.", hint="Cut the text at its full stops."
            )
        rows = [[digest(a) for a in row] for row in describe(words, self.lexicon)]
        flat = np.array([d for row in rows for d in row], np.int64)
        word = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        place = np.searchsorted(self.attributes, flat)
        place[place == len(self.attributes)] = 0
        known = self.attributes[place] == flat if len(self.attributes) else np.zeros(len(flat), bool)
        state = np.zeros((len(rows), len(self.labels)))
        np.add.at(state, word[known], self.weights[place[known]])
        return state

    def save(self) -> bytes:
        """Safetensors: numbers and digests, no word."""
        from safetensors.numpy import save

        phrases = sorted(self.lexicon.phrases)
        names = sorted(set(self.lexicon.phrases.values()))
        arrays: dict[str, Array] = {
            "attributes": self.attributes.astype(np.int64),
            "weights": self.weights.astype(np.float32),
            "transitions": self.transitions.astype(np.float32),
            "phrases": np.array(phrases, np.int64),
            "phrase_names": np.array([names.index(self.lexicon.phrases[d]) for d in phrases], np.int64),
        }
        return save(arrays, metadata={"labels": json.dumps(self.labels), "names": json.dumps(names)})

    @classmethod
    def load(cls, data: bytes) -> "Tagger":
        """Raises: BadPackage "tagger-damaged"."""
        from safetensors import SafetensorError, deserialize

        try:
            if len(data) > MAX_BYTES:
                raise ValueError
            size = int.from_bytes(data[:8], "little")
            said = json.loads(data[8 : 8 + size])["__metadata__"]
            labels, names = json.loads(said["labels"]), json.loads(said["names"])
            types = {"I64": "<i8", "F32": "<f4"}
            made = {
                name: np.frombuffer(entry["data"], types[entry["dtype"]]).reshape(entry["shape"])
                for name, entry in deserialize(data)
            }
            attributes, weights, transitions, phrases, phrase_names = (made[n] for n in _ARRAYS)
            if (
                weights.shape != (len(attributes), len(labels))
                or transitions.shape != (len(labels), len(labels))
                or len(phrases) != len(phrase_names)
                or not (np.diff(attributes) > 0).all()
                or not all(isinstance(text, str) for text in [*labels, *names])
            ):
                raise ValueError
            listed = {int(d): names[k] for d, k in zip(phrases, phrase_names, strict=True)}
        except (SafetensorError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise BadPackage("tagger-damaged", "The tagger's file is not whole.", hint="Fetch it again.") from error
        return cls(tuple(labels), attributes, weights, transitions.astype(np.float64), Lexicon(listed))


def _log_sum(x: Array, axis: int) -> Array:
    top = x.max(axis, keepdims=True)
    made: Array = np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)
    return made
