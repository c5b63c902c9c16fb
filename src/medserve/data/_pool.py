"""Files read by worker processes over plain pipes, in order, in bounded memory.

    for item, event in read_all(items, job, workers=2): ...     # Records, then None or a Failure, per item

A worker is `python -m medserve.data._pool`: it reads length-prefixed msgpack messages on its standard input and writes
them on its standard output. Nothing is pickled, and the caller's main module is not imported again, so a plain script
may call it. When a worker dies (a codec that crashes, the system's memory killer) the file it was reading is refused
and a new worker goes on with the rest.
"""

import contextlib
import math
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from medserve.data._records import Failure, Job, Record, file_records
from medserve.data.cohort import Item
from medserve.errors import MedServeError

CHUNK = 8  # files a worker takes at a time
QUEUED = 3  # chunks a worker has in hand
WORKER = (sys.executable, "-m", "medserve.data._pool")
BUFFER_BYTES = 8 * 2**20  # prepared images a worker may be ahead

Event = Record | Failure | None


class _Message(msgspec.Struct, array_like=True, omit_defaults=True):
    """From a worker: a record, a failure, or (both None) the end of one file."""

    record: Record | None = None
    failure: Failure | None = None


_decode = msgspec.msgpack.Decoder(_Message).decode


def read_all(items: Sequence[Item], job: Job, workers: int) -> Iterator[tuple[Item, Event]]:
    """Events of all items in their order; with fewer than two workers, in this process."""
    if workers < 2:
        for item in items:
            for event in read_one(item.file, job):
                yield item, event
        return
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    ahead = max(4, BUFFER_BYTES // math.prod(job.shape))
    with contextlib.ExitStack() as stack:
        crew = [stack.enter_context(contextlib.closing(_Worker(job, ahead))) for _ in range(min(workers, len(chunks)))]
        sent = 0
        for number in range(len(chunks)):
            while sent < len(chunks) and sent < number + QUEUED * len(crew):
                crew[sent % len(crew)].send(chunks[sent])
                sent += 1
            yield from crew[number % len(crew)].receive()


def read_one(path: Path, job: Job) -> Iterator[Event]:
    """Records of one file, then None; or, at any point, a Failure."""
    try:
        yield from file_records(path, job)
    except MedServeError as error:
        yield Failure(error.code, error.message)
    except MemoryError:
        yield Failure("image-too-large", f"{path.name}: too large for this machine's memory.")
    else:
        yield None


class _Worker:
    """One process, the chunks it has in hand, and what it has answered so far."""

    def __init__(self, job: Job, ahead: int) -> None:
        self._job, self._ahead = job, ahead
        self._chunks: deque[Sequence[Item]] = deque()
        self._start()

    def _start(self) -> None:
        env = dict(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._answers: queue.Queue[_Message | None] = queue.Queue(self._ahead)
        assert self._process.stdin and self._process.stdout
        listen = threading.Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True)
        listen.start()
        self._listener = listen
        self._put(msgspec.msgpack.encode(self._job))

    def send(self, chunk: Sequence[Item]) -> None:
        self._chunks.append(chunk)
        self._ask(chunk)

    def receive(self) -> Iterator[tuple[Item, Event]]:
        """Events of the oldest chunk in hand."""
        left = deque(self._chunks[0])
        while left:
            answer = self._answers.get()
            if answer is None:
                yield left.popleft(), Failure("decoder-crashed", "Reading this file ended its process.")
                self._chunks[0] = list(left)
                self._restart()
            elif answer.record is not None:
                yield left[0], answer.record
            else:
                yield left.popleft(), answer.failure
        self._chunks.popleft()

    def close(self) -> None:
        self._process.kill()
        while self._listener.is_alive():  # let it out of a full queue
            with contextlib.suppress(queue.Empty):
                self._answers.get(timeout=0.05)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _restart(self) -> None:
        self.close()
        self._start()
        for chunk in self._chunks:
            if chunk:
                self._ask(chunk)

    def _ask(self, chunk: Sequence[Item]) -> None:
        self._put(msgspec.msgpack.encode([os.fspath(item.file) for item in chunk]))

    def _put(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is met when its answer is awaited
            write_message(self._process.stdin, data)


def _listen(pipe: IO[bytes], answers: "queue.Queue[_Message | None]") -> None:
    with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
        while (data := read_message(pipe)) is not None:
            answers.put(_decode(data))
    answers.put(None)


def write_message(pipe: IO[bytes], data: bytes) -> None:
    """With its length before it; `read_message` takes it apart again."""
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def read_message(pipe: IO[bytes]) -> bytes | None:
    """One message, or None at the end."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "little")
    data = pipe.read(size)
    return data if len(data) == size else None


def work(source: IO[bytes], sink: IO[bytes]) -> None:
    """The worker's life: a job, then chunks of file names until the pipe closes."""
    head = read_message(source)
    if head is None:
        return
    job = msgspec.msgpack.decode(head, type=Job)
    encode = msgspec.msgpack.encode
    while (data := read_message(source)) is not None:
        for name in msgspec.msgpack.decode(data, type=list[str]):
            for event in read_one(Path(name), job):
                record = event if isinstance(event, Record) else None
                failure = event if isinstance(event, Failure) else None
                write_message(sink, encode(_Message(record, failure)))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a codec prints does not mix with the answers
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        work(sys.stdin.buffer, answers)
