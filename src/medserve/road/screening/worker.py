"""The processes of a screen: each reads, describes and scores molecules, and dies with the one that started it.

    with Crew(job, workers=4) as crew:
        for number, told in crew.work(chunks): ...        # as they are done, each chunk's answers in its own order

A worker is `python -m medserve.road.screening.worker`: length-prefixed msgpack over its pipes, nothing pickled. When
one dies of a molecule, its chunk is asked again one by one by a new one, so that only that molecule is refused.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import msgspec

from medserve import guard
from medserve.data._pool import read_message, write_message
from medserve.errors import Fault, MedServeError
from medserve.road.screening.scorer import Job, Scorer, Scores, Told

WORKER = (sys.executable, "-m", "medserve.road.screening.worker")
MOST_DEATHS = 5  # in a row: it is not the molecules
AHEAD = 2  # chunks for each worker that are read before they are wanted
Chunk = tuple[int, Sequence[str | None]]


class Failed(msgspec.Struct):
    """In the place of an answer: the worker cannot work at all."""

    code: str
    message: str
    hint: str


class _Answer(msgspec.Struct):
    told: Told | None = None
    failed: Failed | None = None


_read_answer = msgspec.msgpack.Decoder(_Answer).decode


class Died(Exception):
    """The worker's process has ended."""


class _Worker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._start()

    def _start(self) -> None:
        env = dict(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._ask(msgspec.msgpack.encode(self._job))

    def __call__(self, texts: Sequence[str | None]) -> Told:
        """Raises: Fault, with the worker's own code: it cannot work at all."""
        try:
            return self._told(texts)
        except Died:
            self.close()
            self._start()
        parts, deaths = [], 0
        for text in texts:  # one of them ends the process; the others are answered
            try:
                parts.append(self._told([text]))
                deaths = 0
            except Died:
                deaths += 1
                if deaths >= MOST_DEATHS:
                    raise Fault(
                        "screen-worker-died", f"The process that scores molecules ended {deaths} times in a row.",
                        hint="See what it said; check the memory of this machine, or give fewer --workers.",
                    ) from None  # fmt: skip
                self.close()
                self._start()
                parts.append(crashed(len(self._job.models)))
        return joined(parts)

    def _told(self, texts: Sequence[str | None]) -> Told:
        """Raises: Died, Fault."""
        self._ask(msgspec.msgpack.encode(list(texts)))
        assert self._process.stdout is not None
        data = read_message(self._process.stdout)
        if data is None:
            raise Died
        answer = _read_answer(data)
        if answer.failed is not None:
            raise Fault(answer.failed.code, answer.failed.message, hint=answer.failed.hint)
        assert answer.told is not None
        return answer.told

    def _ask(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            write_message(self._process.stdin, data)
        except (BrokenPipeError, ValueError):
            raise Died from None

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass
        self._process.wait()


class Crew:
    """workers: processes; a thread here waits for each."""

    def __init__(self, job: Job, workers: int) -> None:
        self._crew = [_Worker(job) for _ in range(workers)]
        self._todo: queue.Queue[Chunk | None] = queue.Queue(AHEAD * workers)
        self._done: queue.Queue[tuple[int, Told] | BaseException] = queue.Queue()
        self._threads = [threading.Thread(target=self._serve, args=(one,), daemon=True) for one in self._crew]

    def __enter__(self) -> "Crew":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._crew:
            one.close()

    def work(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, Told]]:
        """Answers as they come. Raises: Fault: a worker cannot work at all."""
        under_way = 0
        for chunk in chunks:
            self._todo.put(chunk)
            under_way += 1
            while under_way > AHEAD * len(self._crew) or not self._done.empty():
                yield self._next()
                under_way -= 1
        for _ in range(under_way):
            yield self._next()

    def _next(self) -> tuple[int, Told]:
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _serve(self, worker: _Worker) -> None:
        while (chunk := self._todo.get()) is not None:
            try:
                self._done.put((chunk[0], worker(chunk[1])))
            except BaseException as error:
                self._done.put(error)
                return


def crashed(models: int) -> Told:
    """What is told of a molecule that ends a process."""
    none = [Scores([None], [None], [None], [None], [None]) for _ in range(models)]
    return Told([None], ["molecule-crashed"], ["Reading this molecule ended its process."], none, [None], [None])


def joined(parts: Sequence[Told]) -> Told:
    """The answers of several parts of a chunk as one."""
    models = [
        Scores(*(
            [value for part in parts for value in getattr(part.models[k], name)]
            for name in Scores.__struct_fields__
        ))
        for k in range(len(parts[0].models))
    ]  # fmt: skip
    rest = {
        name: [value for part in parts for value in getattr(part, name)]
        for name in Told.__struct_fields__ if name != "models"
    }  # fmt: skip
    return Told(models=models, **rest)


def main() -> None:
    """The worker's life: a job, then chunks until the pipe closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints does not mix with the answers
    guard.install()
    head = read_message(sys.stdin.buffer)
    if head is None:
        return
    scorer: Scorer | None = None
    while (data := read_message(sys.stdin.buffer)) is not None:
        try:
            scorer = scorer or Scorer(msgspec.msgpack.decode(head, type=Job))
            answer = _Answer(told=scorer(msgspec.msgpack.decode(data, type=list[str | None])))
        except MedServeError as error:
            answer = _Answer(failed=Failed(error.code, error.message, error.hint))
        write_message(answers, msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
