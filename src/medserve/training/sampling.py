"""Which images an epoch draws, in which order, and reading them ahead of the network.

    order = epoch_rows(targets, task="binary", count=4096, seed=7, epoch=0)     # class-balanced
    for rows, images in read_ahead(samples, order, batch=64): ...

`order` is a pure function of its arguments. Reading ahead is one thread and a queue of four batches, so that memory
does not grow with the data.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator

import numpy as np

from medserve.types import Array, Samples, Task

AHEAD = 4  # batches waiting, at most
PIECE = 16  # cases of one value in a row: enough to save work, few enough that a batch is no sample of a few values


def epoch_rows(
    targets: Array, *, task: Task, count: int, seed: int, epoch: int, balance: bool = True,
    together: Array | None = None,
) -> Array:  # fmt: skip
    """Positions to draw in one epoch.

    Args:
        targets: as in `Samples`.
        balance: every class of the training part equally often (binary, multiclass, ordinal); a rare class repeats.
        together: (N,) integers; rows of one number follow each other in pieces, so that a batch holds each of its
            numbers several times.

    Returns: (count,) int64. No image comes back before all others of its class have had their turn.
    """
    random = np.random.default_rng((seed, epoch))
    if together is not None:
        return _in_groups(np.asarray(together), count, random)
    if not balance or task in ("multilabel", "number", "survival", "tags", "generate"):
        return _cycle(np.arange(len(targets)), count, random)
    classes = [np.flatnonzero(targets == k) for k in np.unique(targets)]
    share, extra = divmod(count, len(classes))
    lucky = set(random.permutation(len(classes))[:extra].tolist())  # who gets one more when it does not divide
    rows = [_cycle(members, share + (index in lucky), random) for index, members in enumerate(classes)]
    return random.permutation(np.concatenate(rows))


def class_weights(targets: Array, task: Task) -> Array:
    """(N,) float32, mean 1: each class weighs the same in a loss; ones for tasks without classes."""
    if task in ("multilabel", "number", "survival", "tags", "generate"):
        return np.ones(len(targets), np.float32)
    _, which, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return (len(targets) / (len(counts) * counts[which])).astype(np.float32)


def read_ahead(samples: Samples, order: Array, batch: int) -> Iterator[tuple[Array, Array]]:
    """Yield (rows, images) for consecutive slices of `order`; an error while reading is raised here."""
    waiting: queue.Queue[tuple[Array, Array] | BaseException | None] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: tuple[Array, Array] | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for start in range(0, len(order), batch):
                if stop.is_set():
                    return
                rows = order[start : start + batch]
                put((rows, samples.take(rows)))
            put(None)
        except BaseException as error:  # handed to the thread that waits
            put(error)

    thread = threading.Thread(target=read, name="medserve-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _in_groups(together: Array, count: int, random: np.random.Generator) -> Array:
    """Pieces of groups in random order, each of at most `PIECE` rows; another round where `count` asks for more."""
    rounds = []
    for _ in range(-(-count // max(1, len(together)))):
        rows = random.permutation(len(together))
        rows = rows[np.argsort(together[rows], kind="stable")]
        first = np.diff(together[rows], prepend=-1) != 0
        within = np.arange(len(rows)) - np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
        piece = np.cumsum(within % PIECE == 0) - 1
        place = random.permutation(len(rows))
        rounds.append(rows[np.argsort(place[piece], kind="stable")])
    return np.concatenate(rounds)[:count].astype(np.int64)


def _cycle(members: Array, count: int, random: np.random.Generator) -> Array:
    rounds = -(-count // max(1, len(members)))
    return np.concatenate([random.permutation(members) for _ in range(rounds)] or [members])[:count].astype(np.int64)
