"""Small DICOM files made by hand for tests; the bytes are written by pydicom, the values are known."""

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

LITTLE = ExplicitVRLittleEndian


def dicom(pixels: np.ndarray, *, syntax: str = LITTLE, drop: tuple[str, ...] = (), **tags: Any) -> bytes:
    """A DICOM file of `pixels` (H, W), (F, H, W) or (H, W, 3); `tags` add or replace, `drop` leaves out."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid(entropy_srcs=["test"])
    dataset.Modality, dataset.PatientID, dataset.PatientName = "OT", "case-17", "Doe^Jane"
    colour = pixels.shape[-1] == 3 and pixels.ndim == 3
    frames = len(pixels) if pixels.ndim == 3 and not colour else None
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    if frames:
        dataset.NumberOfFrames = frames
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.dtype.kind == "f":
        dataset.FloatPixelData = pixels.tobytes()
    else:
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    for name in drop:
        delattr(dataset, name)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ramp(high: int = 4095, shape: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Values from 0 to `high`, both present."""
    return np.linspace(0, high, shape[0] * shape[1]).round().astype("<u2").reshape(shape)
