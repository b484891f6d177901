"""A film's file at a hospital, judged by its first bytes: DICOM, PNG or JPEG."""

from pathlib import Path
from typing import NamedTuple

from common.shard import Bytes
from radiographs.read.chest import Header, Wanted
from radiographs.read.decode import Unreadable, decode, is_picture
from radiographs.read.dicom import examine_dicom, is_dicom, read_dicom, why_dull_dicom
from radiographs.read.png import is_sixteen_bit


class Examined(NamedTuple):
    """What a file's header tells, and the reason to refuse the file, or None."""

    header: Header
    problem: str | None


SILENT = Header(patient="", body_part=False, view=False)
"""A file without a header."""


def examine(file: Path, wanted: Wanted) -> Examined:
    """Check a file's first bytes and its header; runs in a worker process."""
    try:
        with file.open("rb") as opened:
            if is_dicom(opened):
                return Examined(examine_dicom(opened, wanted), None)
        return Examined(SILENT, None if is_picture(file) else "neither DICOM, PNG nor JPEG")
    except Unreadable as error:
        return Examined(SILENT, str(error))
    except OSError as error:
        return Examined(SILENT, str(error.strerror))


def read_film(file: Path, size: int) -> Bytes:
    """Return the picture in a DICOM, PNG or JPEG file, uint8, S x S; runs in a worker process.

    Raises:
        Unreadable: The file has no usable picture.
    """
    with file.open("rb") as opened:
        if is_dicom(opened):
            return read_dicom(opened, size)
    return decode(file, size)


def why_dull(file: Path) -> str:
    """Return the likely cause if a file's film uses few of the grey levels."""
    try:
        with file.open("rb") as opened:
            if is_dicom(opened):
                return why_dull_dicom(opened)
            if is_sixteen_bit(opened.read(32)):
                return (
                    "16-bit values that have fewer bits: scale them to 16 bits, or declare them "
                    "in a chunk sBIT"
                )
    except (OSError, Unreadable):
        return "unknown, the file can no longer be read"
    return "the file itself is dark, flat or in few grey levels"
