"""DICOM films made by hand."""

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int16]

RAMP = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)


def film(pixels: Pixels = RAMP, bits: int = 12, **tags: object) -> Dataset:
    """Return a chest film as a CR machine writes it."""
    data = Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3.4")
    data.SOPClassUID = uid.ComputedRadiographyImageStorage
    data.SOPInstanceUID = uid.UID("1.2.3.4")
    data.PatientName, data.PatientID = "Doe^Jane", "MRN-0815"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", "PA"
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data
