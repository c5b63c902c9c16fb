"""Passes over large pictures that share all threads: what is run where the tuner has not measured."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graphs import SIDE, conv_graph

from medserve.runtime.engine import DEFAULT, LARGE_GRAPH, OVERLAP, Choice, Engine, default_batch, usual
from medserve.runtime.engines.ort import OnnxRuntime


@pytest.mark.parametrize(
    ("shape", "threads", "streams"),
    [
        ((1, 224, 224), 1, 2),
        ((1, 224, 224), 2, 2),
        ((1, 224, 224), 16, default_batch((1, 224, 224))),  # no more memory than one long pass
        ((3, 320, 320), 2, 2),
    ],
)
def test_large_pictures_pass_one_by_one_several_at_once(shape, threads, streams):
    assert usual(shape, 2**20, threads) == Choice(streams=streams, batch=1, shared=True)


@pytest.mark.parametrize("shape", [(30,), (1, 64, 64), (1, 1024, 1024), (1, 32, 64, 64)])
def test_small_pictures_records_and_volumes_pass_together_as_before(shape):
    assert usual(shape, 2**20, 2) == DEFAULT


def test_a_large_graph_of_records_is_left_alone():
    assert usual((512,), LARGE_GRAPH + 1, 2) == DEFAULT


def test_passes_that_share_threads_do_not_mix_their_answers():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (48, 1, SIDE, SIDE), dtype=np.uint8)
    plain = Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=2)
    choice = Choice(streams=OVERLAP * 2, batch=1, shared=True)
    shared = Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=2, choice=choice)
    assert shared.max_batch == 1
    wanted = plain.score(images)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: shared.score(images[at : at + 1]).logits[0, 0], range(48)))
    np.testing.assert_allclose(found, wanted.logits[:, 0], atol=1e-5)
    np.testing.assert_allclose(shared.score(images).logits, wanted.logits, atol=1e-5)


def test_a_lone_pass_has_all_threads_and_those_beside_it_their_own():
    """The second pass begins while the first one runs: it stays on the thread that calls it."""
    session = OnnxRuntime(conv_graph(), 2, beside=1)
    feed = {"image": np.zeros((1, 1, SIDE, SIDE), np.uint8)}
    taken: list[str] = []

    class Told:
        def __init__(self, name, inner):
            self._name, self._inner = name, inner

        def run(self, names, given):
            taken.append(self._name)
            if len(taken) == 1:
                session.run(["logits"], feed)
            return self._inner.run(names, given)

    session._session, session._beside = Told("all", session._session), Told("one", session._beside)
    session.run(["logits"], feed)
    session.run(["logits"], feed)
    assert taken == ["all", "one", "all"]


@pytest.mark.parametrize(("threads", "streams"), [(1, 2), (2, 1)])
def test_where_each_pass_has_all_threads_there_is_one_copy_of_the_graph(threads, streams):
    choice = Choice(streams=streams, batch=1, shared=True)
    assert Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=threads, choice=choice)._session._beside is None
