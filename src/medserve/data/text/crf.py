"""A linear chain over words: the best row of tags, and how probable each tag is, from scores. Plain arrays.

    tags = viterbi(emissions, transitions)               # (T,) numbers of tags
    chance = marginals(emissions, transitions)           # (T, K): how probable each tag is at each word

emissions: (T, K), the score of each tag at each word; transitions: (K, K), of one tag after another, from, to. With
transitions of 0 every word is decided by itself.

Source: Lafferty, McCallum and Pereira, ICML 2001; Viterbi and forward-backward as in Rabiner, Proc IEEE 1989.
"""

import numpy as np

from medserve.types import Array


def viterbi(emissions: Array, transitions: Array) -> Array:
    """(T,) int64, the most probable row of tags."""
    state, between = np.asarray(emissions, np.float64), np.asarray(transitions, np.float64)
    path = np.zeros(len(state), np.int64)
    if not len(state):
        return path
    back = np.zeros(state.shape, np.int64)
    best = state[0]
    for t in range(1, len(state)):
        every = best[:, None] + between
        back[t] = every.argmax(0)
        best = every.max(0) + state[t]
    path[-1] = best.argmax()
    for t in range(len(state) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


def marginals(emissions: Array, transitions: Array) -> Array:
    """(T, K) float64; every row sums to 1."""
    state, between = np.asarray(emissions, np.float64), np.asarray(transitions, np.float64)
    forward, backward = state.copy(), np.zeros_like(state)
    for t in range(1, len(state)):
        forward[t] += _log_sum(forward[t - 1][:, None] + between, 0)
    for t in range(len(state) - 2, -1, -1):
        backward[t] = _log_sum(between + (state[t + 1] + backward[t + 1])[None], 1)
    both = forward + backward
    made: Array = np.exp(both - _log_sum(both, 1)[:, None])
    return made


def _log_sum(x: Array, axis: int) -> Array:
    top = x.max(axis, keepdims=True)
    made: Array = np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)
    return made
