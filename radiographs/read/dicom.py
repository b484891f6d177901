"""Opens a DICOM file: its header is examined, its picture read.

Files without the preamble of PS3.10 7.1, or without a transfer syntax, are read if the encoding
can be seen from their first element. No message can name a patient: messages quote only header
codes, which the standard restricts to 16 capitals, and transfer syntaxes.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from common.errors import FedCXRError
from common.shard import Bytes
from radiographs.read.chest import Header, Wanted, check_header
from radiographs.read.decode import Unreadable, resized
from radiographs.read.shown import cause_of_dullness, shown_pixels
from radiographs.read.unreadable import TOO_LITTLE_MEMORY
from radiographs.read.words import quoted, text

MOST_PIXELS = 100_000_000
"""Most pixels of a film: 43 x 43 cm at 50 micrometres are 74 million."""

LONGEST_FIRST = 1024
"""Bytes: longest first element of a file without a preamble, a group's length or a short text."""

_SYNTAX_OF_ENCODING = {
    (True, True): uid.ImplicitVRLittleEndian,
    (False, True): uid.ExplicitVRLittleEndian,
    (False, False): uid.ExplicitVRBigEndian,
}
"""By whether value representations are implicit, and whether bytes are little-endian."""


def is_dicom(file: BinaryIO) -> bool:
    """Return whether a file is DICOM: has the prefix of PS3.10 7.1, or begins as without one.

    The file must be at its beginning, and is there again afterwards.

    Raises:
        OSError: The file cannot be read.
    """
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:4] == b"DICM" or _begins_with_an_element(start)


def examine_dicom(file: BinaryIO, wanted: Wanted) -> Header:
    """Check a file's header: is it a usable chest film? The pixels are not read.

    A missing body part or view is accepted.

    Raises:
        Unreadable: The file is damaged, or not a usable chest film.
        OSError: The disk or the share fails.
    """
    with _errors_as_unreadable():
        header = _read(file, pixels=False)
        found = check_header(header, wanted)
        _check_pixels(header)
        return found


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
        OSError: The disk or the share fails.
        FedCXRError: A decoder cannot work on this machine.
    """
    with _errors_as_unreadable():
        data = _read(file, pixels=True)
        if "PixelData" not in data:
            raise Unreadable("no pixels")
        if data["PixelData"].is_undefined_length and not _syntax(data).is_encapsulated:
            raise Unreadable("compressed pixels, but no transfer syntax that says how")
        return resized(Image.fromarray(shown_pixels(data)), size)


def read_header(file: BinaryIO) -> Dataset:
    """Return the header of a DICOM file at its beginning: all elements before the pixels.

    Raises:
        Unreadable: The file is damaged.
        OSError: The disk or the share fails.
    """
    with _errors_as_unreadable():
        return _read(file, pixels=False)


def _begins_with_an_element(start: bytes) -> bool:
    """Return whether a file without a preamble begins as DICOM: with a low group's element."""
    explicit = re.fullmatch(rb"[A-Z]{2}", start[4:6]) is not None
    if start[:2] == b"\x02\x00" or start[:2] == b"\x00\x08":
        return explicit
    length = int.from_bytes(start[4:8], "little")
    return start[:2] == b"\x08\x00" and len(start) > 8 and (explicit or length <= LONGEST_FIRST)


def _read(file: BinaryIO, pixels: bool) -> Dataset:
    """Return the data set of a file at its beginning, with a transfer syntax."""
    start = file.read(4)
    file.seek(0)
    if start == b"DICM":
        file = io.BytesIO(bytes(128) + file.read())
    data = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        if "Modality" not in data:
            raise Unreadable("no transfer syntax, and the header cannot be read without one")
        implicit, little = data.original_encoding
        data.file_meta.TransferSyntaxUID = _SYNTAX_OF_ENCODING[bool(implicit), bool(little)]
    _check_syntax(data)
    return data


def _syntax(data: Dataset) -> uid.UID:
    syntax: uid.UID = data.file_meta.TransferSyntaxUID
    return syntax


def _check_syntax(data: Dataset) -> None:
    syntax = _syntax(data)
    try:
        supported = get_decoder(syntax).is_available
    except NotImplementedError:
        supported = False
    bits = data.get("BitsStored")
    # pydicom's decoders of this syntax read only its first process, of 8 bits.
    lossy = syntax == uid.JPEGExtended12Bit and bits != 8
    if not supported or lossy:
        number = str(syntax) if re.fullmatch(r"[0-9.]{1,64}", syntax) else "unknown"
        name = f" ({syntax.name})" if syntax.name != syntax else ""
        depth = f" with {int(bits or 0)} bits" if lossy else ""
        raise Unreadable(
            f"transfer syntax {number}{name}{depth} is not supported; export it uncompressed"
        )


def why_dull_dicom(file: BinaryIO) -> str:
    """Return the likely cause if a DICOM file is shown in few grey levels.

    Raises:
        Unreadable: The header cannot be read.
        OSError: The disk or the share fails.
    """
    with _errors_as_unreadable():
        return cause_of_dullness(_read(file, pixels=False))


@contextmanager
def _errors_as_unreadable() -> Iterator[None]:
    """Turn pydicom's errors and warnings into Unreadable without their text.

    The texts quote values of the header, which may name a patient. What is no fault of the file
    stays as it is: errors of the system, and of this project.
    """
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unreadable, FedCXRError):
        raise
    except MemoryError:
        raise Unreadable(TOO_LITTLE_MEMORY) from None
    except Exception as error:
        # A damaged file can raise anything. An OSError that pydicom itself raises has no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable("cannot be read as DICOM: damaged, or cut short") from None
    finally:
        logger.disabled = before


def _check_pixels(header: Dataset) -> None:
    photometric = text(header, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(f"photometric interpretation {quoted(photometric, header)}, not grey")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise Unreadable("several frames")
    if int(header.get("Rows") or 0) * int(header.get("Columns") or 0) > MOST_PIXELS:
        raise Unreadable("too large for a radiograph")
    high, bits = header.get("HighBit"), header.get("BitsStored")
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise Unreadable(f"{int(bits)} bits end at bit {int(high)}, not at {int(bits) - 1}")
