"""Opens a DICOM file: its header is examined, its picture read.

No message can name a patient: messages quote only header codes, which the standard restricts to
16 capitals.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pydicom
from PIL import Image
from pydicom.dataset import Dataset

from common.shard import Bytes
from radiographs.read.chest import Views, check_kind, check_view, quoted, text, view_of
from radiographs.read.decode import Unreadable, resized
from radiographs.read.shown import cause_of_dullness, shown_pixels

MOST_PIXELS = 100_000_000
"""Most pixels of a film: 43 x 43 cm at 50 micrometres are 74 million."""


def is_dicom(file: BinaryIO) -> bool:
    """Return whether a file has the DICOM prefix, PS3.10 7.1: 128 bytes, then ``DICM``.

    The file must be at its beginning, and is there again afterwards.

    Raises:
        OSError: The file cannot be read.
    """
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def examine_dicom(file: BinaryIO, views: Views) -> str:
    """Check a file's header: is it a usable chest film? The pixels are not read.

    A missing body part or view is accepted.

    Returns:
        PatientID from the header, empty if missing.

    Raises:
        Unreadable: The file is damaged, or not a usable chest film.
    """
    with _errors_as_unreadable():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        check_kind(header)
        _check_pixels(header)
        check_view(view_of(header), views)
        return str(header.get("PatientID") or "").strip()


def read_dicom(file: BinaryIO, size: int) -> Bytes:
    """Return the picture in a DICOM file as 8-bit grey; black is 0.

    A picture that is not square is stretched.

    Args:
        file: A file that :func:`examine_dicom` accepted, at its beginning.
        size: S, pixels along each side of the result.

    Returns:
        uint8, S x S.

    Raises:
        Unreadable: There are no pixels, or they cannot be decoded.
    """
    with _errors_as_unreadable():
        return resized(Image.fromarray(shown_pixels(pydicom.dcmread(file))), size)


def why_dull_dicom(file: BinaryIO) -> str:
    """Return the likely cause if a DICOM file is shown in few grey levels.

    Raises:
        Unreadable: The header cannot be read.
    """
    with _errors_as_unreadable():
        return cause_of_dullness(pydicom.dcmread(file, stop_before_pixels=True))


@contextmanager
def _errors_as_unreadable() -> Iterator[None]:
    """Turn pydicom's errors and warnings into Unreadable without their text.

    The texts quote values of the header, which may name a patient.
    """
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise Unreadable(f"cannot be read as DICOM ({type(error).__name__})") from None
    finally:
        logger.disabled = before


def _check_pixels(header: Dataset) -> None:
    photometric = text(header, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(f"photometric interpretation {quoted(photometric)}, not grey")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise Unreadable("several frames")
    if int(header.get("Rows") or 0) * int(header.get("Columns") or 0) > MOST_PIXELS:
        raise Unreadable("too large for a radiograph")
    high, bits = header.get("HighBit"), header.get("BitsStored")
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise Unreadable(f"{int(bits)} bits end at bit {int(high)}, not at {int(bits) - 1}")
