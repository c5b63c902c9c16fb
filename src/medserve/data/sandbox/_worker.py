"""The worker: `python -m medserve.data.sandbox._worker MEMORY_BYTES SCRATCH_BYTES`; files in, what they hold out."""

import contextlib
import ctypes
import gc
import itertools
import math
import resource
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from medserve.data import readers
from medserve.data.readers import waves
from medserve.data.sandbox._wire import Asked, Told, decode_asked, read_exactly, send
from medserve.errors import MedServeError
from medserve.types import Picture

MOST_PICTURES = 2  # see `Crew.pictures`
_NO_NEW_PRIVILEGES = 38  # prctl(2)


def main() -> None:
    with contextlib.suppress(ImportError):  # the codecs' own files are ours; they are read before the walls close
        import imagecodecs  # noqa: F401
        import pydicom.pixels  # noqa: F401
    _limit(int(sys.argv[1]), int(sys.argv[2]))
    pipe, answer = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may speak there
    gc.collect()
    gc.freeze()  # its programs; what a file leaves behind is then found at once
    gc.collect()
    answer.write(b"ready\n")
    answer.flush()
    while (size := read_exactly(pipe, 4)) is not None:
        head = read_exactly(pipe, int.from_bytes(size, "little"))
        asked = decode_asked(head or b"")
        data = read_exactly(pipe, asked.bytes)
        if data is None:
            return
        _spend(asked.seconds)
        try:
            for told, values in _found(asked, bytes(data)):
                send(answer, told, values)
            send(answer, Told(last=True))
        except (MedServeError, MemoryError) as error:
            send(answer, Told(error=_told(error)))
        del data


def _found(asked: Asked, data: bytes) -> Iterator[tuple[Told, Any]]:
    if asked.what == "wave":
        yield Told(said=waves.read_wave(data, name=asked.name, media=asked.media, unit=asked.unit)), b""
        return
    found = readers.iter_pictures(data, name=asked.name, max_pixels=asked.max_pixels, volume=asked.volume)
    for picture in itertools.islice(found, MOST_PICTURES):
        values = np.ascontiguousarray(picture.values)
        yield Told(said=_said(picture, values), bytes=values.nbytes), values.reshape(-1).view(np.uint8).data


def _told(error: MedServeError | MemoryError) -> tuple[str, str, str, str]:
    if isinstance(error, MedServeError) and not isinstance(error.__cause__, MemoryError):
        return type(error).__name__, error.code, error.message, error.hint
    return "Refusal", "decode-memory", "Decoding the file takes more memory than is allowed.", "Send a smaller one."


def _said(picture: Picture, values: Any) -> dict[str, Any]:
    return {
        "dtype": values.dtype.str, "shape": values.shape, "shown": [float(v) for v in picture.shown],
        "modality": picture.modality, "unit": picture.unit, "spacing_mm": picture.spacing_mm, "frame": picture.frame,
        "frames": picture.frames, "header": dict(picture.header), "patient": picture.patient,
    }  # fmt: skip


def _limit(memory: int, scratch: int) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: scratch, resource.RLIMIT_AS: memory,
              resource.RLIMIT_NOFILE: 64, resource.RLIMIT_NPROC: 0}  # fmt: skip
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _spend(seconds: float) -> None:
    """Processor time from now on; the system ends the process beyond it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
