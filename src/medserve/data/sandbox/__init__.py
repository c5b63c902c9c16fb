"""Untrusted files decoded in processes of their own, which may do nothing else.

    with Crew(2) as crew, read_outside(crew):        # `app.serve` does this
        picture = model.read(body)                   # compressed DICOM, TIFF, NIfTI, waveforms: in a worker
    crew.walls                                       # "bubblewrap", or "limits"

A worker lives long and reads one file after another over plain pipes (`_worker.py`); nothing is pickled. It has no
environment, no keys, no network and, where bubblewrap works, no other folder than its own programs, read-only. It may
write no file (behind bubblewrap: a few, in memory, for the `wfdb` library), start no process, and has limits on memory
and on processor time. A file that takes longer than `seconds`, or that
breaks its worker, is refused; the next one gets a new worker.
Source: bwrap(1); setrlimit(2).
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import numpy as np

import medserve
from medserve.data.sandbox._wire import Asked, Told, decode_told, read_exactly, send
from medserve.errors import BadData, Fault, MedServeError, Refusal, Usage
from medserve.types import Picture, Wave

MEMORY_BYTES = 3 * 2**30  # address space of a worker; 0.15 GiB of it are its own programs
FILE_S = 4.0
START_S = 60.0
SCRATCH_BYTES = 256 * 2**20  # of a worker's own folder in memory, behind bubblewrap; without it there is none
MOST_TOLD = 2**20  # bytes of one message's head
MOST_BYTES = 16 * 8 * 64_000_000  # of one picture: no file of ours gives more
_FAMILY: dict[str, type[MedServeError]] = {kind.__name__: kind for kind in (Refusal, Usage, BadData, Fault)}


class Crew:
    """Up to `workers` processes, started when they are needed; safe to use from several threads.

    Args:
        workers: how many files are read at once.
        seconds: longest time for one file.
        walls: "bubblewrap" or "limits"; None: bubblewrap where it works.

    Raises: Usage "bubblewrap-missing": it was asked for and does not work here.
    """

    def __init__(
        self,
        workers: int = 0,
        *,
        seconds: float = FILE_S,
        memory_bytes: int = MEMORY_BYTES,
        walls: str | None = None,
    ) -> None:
        self.seconds, self._memory = seconds, memory_bytes
        self.walls = walls or ("bubblewrap" if bubblewrap_works() else "limits")
        if walls == "bubblewrap" and not bubblewrap_works():
            raise Usage("bubblewrap-missing", "bubblewrap does not work on this machine.", hint="Install bwrap.")
        self._open = True
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers or max(2, os.cpu_count() or 1)):
            self._idle.put(None)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the idle workers; one that is reading ends with its file, and no other is started."""
        self._open = False
        for _ in range(self._idle.qsize()):
            with contextlib.suppress(queue.Empty):
                worker = self._idle.get_nowait()
                if worker is not None:
                    worker.end()
                self._idle.put(None)

    def warm(self) -> None:
        """Start one worker now, so that the first file does not wait for it."""
        with self._worker():
            pass

    def pictures(self, data: bytes, *, name: str, max_pixels: int, volume: bool) -> Iterator[Picture]:
        """As `readers.iter_pictures`, but two pictures at most: a model takes one, a second says that there are more.

        Raises: as the readers, and Refusal "decode-time", "decode-memory", "decode-crashed".
        """
        asked = Asked("pictures", len(data), self.seconds, name=name, max_pixels=max_pixels, volume=volume)
        return iter([_picture_of(told, values) for told, values in self._ask(asked, data)])

    def wave(self, data: bytes, *, name: str, media: str | None, unit: str | None) -> Wave:
        """As `read_wave`, and raises as `pictures`."""
        asked = Asked("wave", len(data), self.seconds, name=name, media=media, unit=unit)
        found = [msgspec.convert(told.said, Wave) for told, _ in self._ask(asked, data)]
        if len(found) != 1:
            raise _crashed()
        return found[0]

    def _ask(self, asked: Asked, data: bytes) -> Iterator[tuple[Told, bytearray]]:
        with self._worker() as worker:
            yield from worker.ask(asked, data)

    @contextlib.contextmanager
    def _worker(self) -> Iterator["_Worker"]:
        worker = self._idle.get()
        try:
            if not self._open:
                raise Fault("decode-closed", "The service is stopping.", hint="Try again in a moment.")
            if worker is None or not worker.alive:
                worker = None
                worker = _Worker(self.walls, self._memory)
            yield worker
        except GeneratorExit:  # the caller has seen enough of the file; the rest is still on its way
            if worker is not None:
                worker.end()
            raise
        finally:
            if worker is not None and not (worker.alive and self._open):
                worker.end()
                worker = None
            self._idle.put(worker)


class _Worker:
    """One process and its two pipes."""

    def __init__(self, walls: str, memory: int) -> None:
        scratch = SCRATCH_BYTES if walls == "bubblewrap" else 0
        command = [sys.executable, "-I", "-m", "medserve.data.sandbox._worker", str(memory), str(scratch)]
        if walls == "bubblewrap":
            command = [*_walls(), *command]
        env = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": "/"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, cwd="/",
            start_new_session=True, close_fds=True,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._late = False
        with self._within(START_S):
            if self._read(6) != b"ready\n":
                self.end()
                raise Fault(
                    "decode-start", "The process that decodes files does not start.", hint="See docs/hostile-input.md"
                )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and not self._out.closed

    def ask(self, asked: Asked, data: bytes) -> Iterator[tuple[Told, bytearray]]:
        """One file. What it tells ends with a message that is `last`; its error is raised."""
        with self._within(asked.seconds):
            try:
                send(self._in, asked, data)
            except (BrokenPipeError, OSError) as error:
                raise self._broken() from error
            while True:
                told, values = self._told()
                if told.error:
                    family = _FAMILY.get(told.error[0], Refusal)
                    raise family(told.error[1], told.error[2], hint=told.error[3])
                if told.last:
                    return
                yield told, values

    def _told(self) -> tuple[Told, bytearray]:
        size = int.from_bytes(self._read(4), "little")
        if size > MOST_TOLD + MOST_BYTES // 64:
            raise self._broken()
        try:
            told = decode_told(self._read(size))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._broken() from error
        if not 0 <= told.bytes <= MOST_BYTES:
            raise self._broken()
        return told, self._read(told.bytes)

    def _read(self, size: int) -> bytearray:
        found = read_exactly(self._out, size)
        if found is None:
            raise self._broken()
        return found

    def _broken(self) -> Refusal:
        self.end()
        late = self._late or self._process.returncode == -signal.SIGXCPU
        return _slow() if late else _crashed()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """The process is killed when the time is over; who reads from it then meets the end of the pipe."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        self._kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()


def bubblewrap_works() -> bool:
    """Whether bwrap is here and the system lets it make its namespaces."""
    if _bwrap() is None:
        return False
    try:
        tried = subprocess.run([*_walls(), sys.executable, "-I", "-c", ""], capture_output=True, timeout=START_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def _bwrap() -> str | None:
    return shutil.which("bwrap") if sys.platform == "linux" else None


def _walls() -> list[str]:
    """No network, no other process in sight, no folder but the programs', and those read-only."""
    binary = _bwrap()
    assert binary is not None
    ours = [Path(medserve.__file__).resolve().parent.parent]
    folders = [Path(p) for p in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", sys.base_prefix, sys.prefix)]
    inside = [p for p in folders if p.exists()]
    inside += [p for p in ours if not any(p.is_relative_to(q) for q in inside)]
    shown = [word for p in inside for word in ("--ro-bind", str(p), str(p))]
    return [
        binary, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *shown, "--proc", "/proc",
        "--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/",
        "--chdir", "/", "--clearenv", "--setenv", "OMP_NUM_THREADS", "1",
    ]  # fmt: skip


def _picture_of(told: Told, values: bytearray) -> Picture:
    """A worker that a file has taken over may say anything: its numbers are looked at again."""
    said: dict[str, Any] = dict(told.said or {})
    try:
        dtype, shape = np.dtype(str(said.pop("dtype"))), tuple(int(n) for n in said.pop("shape"))
        if dtype.kind not in "uif" or not 2 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError
        array = np.frombuffer(values, dtype).reshape(shape)
        return Picture(
            array,
            (float(said["shown"][0]), float(said["shown"][1])),
            said["modality"],
            said["unit"],
            None if said["spacing_mm"] is None else tuple(float(v) for v in said["spacing_mm"]),
            said["frame"],
            int(said["frames"]),
            {str(k): str(v) for k, v in said["header"].items()},
            said["patient"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _crashed() from error


def _slow() -> Refusal:
    return Refusal(
        "decode-time", "The file takes too long to decode.", hint="Export it again, or send it uncompressed."
    )


def _crashed() -> Refusal:
    return Refusal(
        "decode-crashed",
        "The file broke the process that decoded it.",
        hint="Export it again, or send it uncompressed.",
    )
