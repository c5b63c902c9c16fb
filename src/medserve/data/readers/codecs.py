"""The pixel codecs of DICOM files: which are here, and two kinds of JPEG that pydicom has no plugin for.

    register()               # once a process; called by the DICOM reader
    with quiet(): ...        # what pydicom or Pillow have to say stays inside

JPEG Lossless and 12-bit JPEG Extended are decoded by imagecodecs, joined to pydicom as a decoder plugin.
Source: DICOM PS3.5 annex A.4.1 (JPEG), pydicom's plugin interface (`pydicom.pixels.decoders`).
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
_JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"

# pydicom reads these two names of a plugin module.
DECODER_DEPENDENCIES = {uid: ("imagecodecs",) for uid in (_JPEG_LOSSLESS, _JPEG_LOSSLESS_SV1, _JPEG_EXTENDED)}

_lock = threading.RLock()
_registered = False
_readers = 0
_filters: "warnings.catch_warnings[Any] | None" = None


def is_available(uid: str) -> bool:
    """Whether the plugin can decode transfer syntax `uid` here."""
    try:
        import imagecodecs
    except ImportError:
        return False
    codec = imagecodecs.JPEG8 if uid == _JPEG_EXTENDED else imagecodecs.LJPEG
    return uid in DECODER_DEPENDENCIES and bool(codec.available)


def _decode_frame(src: bytes, runner: Any) -> bytes:
    import imagecodecs

    decode = imagecodecs.jpeg_decode if runner.transfer_syntax == _JPEG_EXTENDED else imagecodecs.ljpeg_decode
    frame = decode(src)
    runner.set_option("bits_allocated", frame.dtype.itemsize * 8)
    return bytes(frame.tobytes())


def register() -> None:
    """Join the plugin to pydicom and take pydicom off the log, whose lines may quote a header; safe to call often."""
    global _registered
    if _registered:
        return
    import pydicom.pixels.decoders as decoders

    with _lock:
        if _registered:
            return
        for decoder in (
            decoders.JPEGLosslessDecoder,
            decoders.JPEGLosslessSV1Decoder,
            decoders.JPEGExtended12BitDecoder,
        ):
            if "medserve" not in decoder.available_plugins:
                decoder.add_plugin("medserve", (__name__, "_decode_frame"))
        log = logging.getLogger("pydicom")
        log.addHandler(logging.NullHandler())
        log.propagate = False
        _registered = True


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of the libraries inside the block go nowhere: they may quote a header, and what matters is a Refusal.

    `warnings.catch_warnings` alone is not safe in threads: the first thread in saves the filters, the last restores.
    """
    global _readers, _filters
    with _lock:
        if _readers == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
