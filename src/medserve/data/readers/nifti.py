"""NIfTI volumes (.nii, .nii.gz): axial slices, or one volume, turned to a fixed orientation.

Voxels come as (D, H, W) with D from inferior to superior, H from anterior to posterior and W from the patient's right
to left, as an axial DICOM slice lies. Scale slope and intercept of the header are applied. The size in the header is
checked first, and a .gz is inflated no further than that size. Source: NIfTI-1 and NIfTI-2, through nibabel.
"""

import logging
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medserve.data.readers.arrays import check_finite, size_of, stretch
from medserve.data.readers.formats import READERS, Limits
from medserve.errors import Refusal
from medserve.types import Array, Picture

_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348


@READERS.register("application/x-nifti")
def read_nifti(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    """Pictures of a NIfTI file: its slices in order, through all time points; with `volume`, the volume."""
    import nibabel

    _quiet_log()
    zipped = data[:2] == b"\x1f\x8b"
    head = zlib.decompressobj(31).decompress(data, _HEADER_BYTES) if zipped else data[:_HEADER_BYTES]
    if len(head) < 348:
        raise _truncated()
    two = head[4:8] == b"n+2\0"
    if not two and head[344:348] != b"n+1\0":
        raise Refusal("nifti-pair", "The NIfTI header stands apart from its image.", hint="Save it as one .nii file.")
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    header = kind.header_class(head[:540] if two else head[:348])
    shape = tuple(int(n) for n in header.get_data_shape())
    if not len(shape) >= 2 or any(n < 1 for n in shape) or any(n != 1 for n in shape[4:]):
        raise Refusal("image-shape", f"The NIfTI file has axes {shape}; 2 to 4 axes were expected.")
    voxels = int(np.prod(shape, dtype=object))
    limits.check(voxels)
    bytes_expected = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
    if zipped:
        data = zlib.decompressobj(31).decompress(data, bytes_expected)
    if len(data) < bytes_expected:
        raise _truncated()
    image = kind.from_bytes(data)
    values = _upright(_scaled(image), image.affine)
    check_finite(values)
    yield from _pictures(values, image, volume)


def _truncated() -> Refusal:
    return Refusal("file-truncated", "The NIfTI file ends before its voxels do.", hint="Copy or export it again.")


def _quiet_log() -> None:
    """Nibabel writes its doubts about a header to stderr; what matters becomes a Refusal."""
    from nibabel.imageglobals import logger

    if logger.propagate:
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False


def _scaled(image: Any) -> Array:
    proxy = image.dataobj
    values = np.asarray(proxy.get_unscaled())
    if values.dtype.kind not in "uif":
        raise Refusal("image-type", "Voxels must be real numbers; colour and complex NIfTI are not read.")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    slope, inter = float(proxy.slope), float(proxy.inter)
    if (slope, inter) == (1.0, 0.0):
        return values
    return (values * slope + inter).astype(np.float32)


def _upright(values: Array, affine: Array) -> Array:
    """(x, y[, z[, t]]) as stored -> (T, D, H, W)."""
    import nibabel

    while values.ndim < 4:
        values = values[..., None]
    values = values.reshape(values.shape[:4])
    here = nibabel.io_orientation(affine)
    if not np.isnan(here).any():
        lps = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
        values = nibabel.apply_orientation(values, nibabel.orientations.ornt_transform(here, lps))
    return np.ascontiguousarray(values.transpose(3, 2, 1, 0))


def _pictures(values: Array, image: Any, volume: bool) -> Iterator[Picture]:
    import nibabel

    times, depth = values.shape[:2]
    shown = (0.0, 255.0) if values.dtype == np.uint8 else _shown(values, image.header)
    header = {"format": "NIfTI", "size": size_of(values[0]), "window": "file" if values.dtype != np.uint8 else "none"}
    x, y, z = (float(v) for v in nibabel.affines.voxel_sizes(image.affine))
    if volume:
        if times > 1:
            raise Refusal("volume-4d", f"The NIfTI file holds {times} volumes; one was expected.")
        header["layout"] = "volume"
        yield Picture(values[0], shown, spacing_mm=(z, y, x), header=header)
        return
    frames = times * depth
    for index in range(frames):
        time, level = divmod(index, depth)
        yield Picture(
            values[time, level],
            shown,
            spacing_mm=(y, x),
            frame=index if frames > 1 else None,
            frames=frames,
            header=header,
        )


def _shown(values: Array, header: Any) -> tuple[float, float]:
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return (low, high) if np.isfinite([low, high]).all() and low < high else stretch(values)
