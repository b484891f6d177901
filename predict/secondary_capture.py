"""A heat map as DICOM: a Secondary Capture Image, PS3.3 A.8.1.

So that an archive can file it beside its film, it has the film's study and the patient's number,
and refers to the film. It has neither name, birth date, sex, physician nor date of the patient's
study: what the standard demands of these is empty. It is patient data all the same.
"""

import re
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from predict.overlay import WARNING
from radiographs.read.dicom import is_dicom, read_header

DEMANDED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),  # PS3.3 C.7.1.1
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),  # C.7.2.1
    *("SeriesNumber", "PatientOrientation"),  # C.7.3.1, C.7.6.1
)
"""Elements of type 2: they must be there and may be empty."""

TAKEN = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
"""What is taken of the film's header, if it is there."""


def secondary_capture(picture: Image.Image, source: Path, finding: str, now: datetime) -> Dataset:
    """Return a picture as a DICOM data set with a number of its own.

    Args:
        picture: RGB.
        source: The film.
        finding: Whose heat map it is.
        now: The time for the content.

    Raises:
        Unreadable: The film's header can no longer be read.
        OSError: Nor can the film.
    """
    instance = uid.generate_uid(prefix=None)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SpecificCharacterSet = "ISO_IR 192"
    for name in DEMANDED:
        setattr(data, name, None)
    data.SOPClassUID, data.SOPInstanceUID = uid.SecondaryCaptureImageStorage, instance
    data.StudyInstanceUID = uid.generate_uid(prefix=None)
    data.SeriesInstanceUID = uid.generate_uid(prefix=None)
    data.InstanceNumber = "1"
    data.Modality, data.ConversionType = "OT", "WSD"
    data.BodyPartExamined = "CHEST"  # no paired structure, so that no laterality is demanded
    data.Manufacturer, data.ManufacturerModelName = "FedCXR", "flower-predict"
    data.SoftwareVersions = version("fedcxr")
    data.SeriesDescription = f"Grad-CAM {finding}"
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.DerivationDescription = f"Grad-CAM of {finding} over the film. {WARNING}"
    data.ContentDate, data.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    _refer(data, source)
    data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"
    data.PlanarConfiguration = data.PixelRepresentation = 0
    data.Rows, data.Columns = picture.height, picture.width
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = picture.tobytes()
    return data


def _refer(data: Dataset, source: Path) -> None:
    """Put the picture beside its film, and note what was lost in the film's pixels already."""
    with source.open("rb") as file:
        if not is_dicom(file):
            file.seek(0)
            if file.read(2) == b"\xff\xd8":  # JPEG
                data.LossyImageCompression = "01"
            return
        header = read_header(file)
    for name in TAKEN:
        if header.get(name):
            setattr(data, name, header.get(name))
    # Type 3, and left out if the film's does not tell: NO says that nothing names the patient.
    for name, known in (("BurnedInAnnotation", "NO"), ("LossyImageCompression", "01")):
        if header.get(name) == known:
            setattr(data, name, known)
    if _is_uid(header.get("SOPClassUID")) and _is_uid(header.get("SOPInstanceUID")):
        film = Dataset()
        film.ReferencedSOPClassUID = header.SOPClassUID
        film.ReferencedSOPInstanceUID = header.SOPInstanceUID
        data.SourceImageSequence = [film]


def _is_uid(value: object) -> bool:
    return re.fullmatch(r"[0-9.]{1,64}", str(value)) is not None
