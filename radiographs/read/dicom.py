"""Decodes a DICOM file to 8-bit grey, as a radiologist's screen shows it.

The steps follow the standard's grayscale pipeline, PS3.3 C.7.6.16.2 and PS3.4 N.2: modality LUT
or rescale, then VOI LUT or window, then photometric interpretation. Without a VOI, the range of
BitsStored becomes 0...255. pydicom decompresses pixels with GDCM and OpenJPEG.

No message can name a patient: messages quote only header codes, which the standard restricts to
16 capitals.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from common.shard import Bytes
from radiographs.read.decode import Unreadable, resized

Views = Literal["frontal", "lateral", "both"]

MODALITIES = ("CR", "DX")
CHEST = re.compile("CHEST|THORAX|LUNG")
FRONTAL = ("AP", "PA", "FRONTAL")
LATERAL = ("LL", "RL", "L", "LAT", "LATERAL")

MOST_PIXELS = 100_000_000
"""Most pixels of a film: 43 x 43 cm at 50 micrometres are 74 million."""

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
"""A Code String, PS3.5 6.2."""


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
        _check_kind(header)
        _check_pixels(header)
        check_view(_view(header), views)
        return str(header.get("PatientID") or "").strip()


def check_view(view: str, views: Views) -> None:
    """Refuse a film with an unwanted projection.

    Args:
        view: The film's ViewPosition; empty if unknown.
        views: The wanted projections.

    Raises:
        Unreadable: The projection is unwanted.
    """
    if not view:
        return
    kind = "frontal" if view in FRONTAL else "lateral" if view in LATERAL else "other"
    if kind != views and not (views == "both" and kind != "other"):
        raise Unreadable(f"view {_quoted(view)}, {views} is wanted")


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
        return resized(Image.fromarray(_shown(pydicom.dcmread(file))), size)


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


def _check_kind(header: Dataset) -> None:
    modality = _text(header, "Modality")
    if modality not in MODALITIES:
        raise Unreadable(f"modality {_quoted(modality)}, not {' or '.join(MODALITIES)}")
    body_part = _text(header, "BodyPartExamined")
    if body_part and not CHEST.search(body_part):
        raise Unreadable(f"body part {_quoted(body_part)}, not the chest")
    if _text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise Unreadable("raw pixels, for processing and not for presentation")
    if _text(header, "BurnedInAnnotation") == "YES":
        raise Unreadable("burned-in annotation, which may name the patient")


def _check_pixels(header: Dataset) -> None:
    photometric = _text(header, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(f"photometric interpretation {_quoted(photometric)}, not grey")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise Unreadable("several frames")
    if int(header.get("Rows") or 0) * int(header.get("Columns") or 0) > MOST_PIXELS:
        raise Unreadable("too large for a radiograph")
    high, bits = header.get("HighBit"), header.get("BitsStored")
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise Unreadable(f"{int(bits)} bits end at bit {int(high)}, not at {int(bits) - 1}")


def _view(header: Dataset) -> str:
    """Return ViewPosition, or the view from ViewCodeSequence, or an empty string."""
    view = _text(header, "ViewPosition")
    if view:
        return view
    meaning = " ".join(
        str(item.get("CodeMeaning") or "").lower() for item in header.get("ViewCodeSequence") or []
    )
    if "lateral" in meaning or "oblique" in meaning:
        return "LATERAL" if "lateral" in meaning else "OBLIQUE"
    return ""


def _shown(data: Dataset) -> Bytes:
    """Return the pixels as a screen shows them: uint8, height x width."""
    stored: npt.NDArray[Any] = data.pixel_array
    if stored.ndim != 2:
        raise Unreadable("not one grey picture")
    grey: npt.NDArray[Any]
    values = apply_modality_lut(stored, data)
    if data.get("VOILUTSequence"):
        shades = apply_voi(values.astype(np.int32), data)
        grey = shades.astype(np.float32) * (255 / (2 ** _lut_bits(data) - 1))
    elif data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        grey = apply_windowing(values, _window(data))
    else:
        low, high = _value_range(data)
        grey = (values.astype(np.float32) - low) * (255 / (high - low))
    shown: Bytes = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    if data.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    shown[_padding(stored, data)] = 0
    return shown


def _lut_bits(data: Dataset) -> int:
    return int(data.VOILUTSequence[0].LUTDescriptor[2])


def _window(data: Dataset) -> Dataset:
    """Return only the window's tags, so that the output range is always 0...255."""
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.PixelRepresentation, window.BitsStored = 0, 8
    window.WindowCenter, window.WindowWidth = data.WindowCenter, data.WindowWidth
    if data.get("VOILUTFunction"):
        window.VOILUTFunction = data.VOILUTFunction
    return window


def _value_range(data: Dataset) -> tuple[float, float]:
    """Return the lowest and highest possible result of the modality LUT or rescale."""
    if data.get("ModalityLUTSequence"):
        return 0, 2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(data.BitsStored)
    least = -(2 ** (bits - 1)) if data.PixelRepresentation else 0
    slope = float(data.get("RescaleSlope") or 1)
    intercept = float(data.get("RescaleIntercept") or 0)
    ends = sorted(value * slope + intercept for value in (least, least + 2**bits - 1))
    return ends[0], ends[1]


def _padding(stored: npt.NDArray[Any], data: Dataset) -> npt.NDArray[np.bool_]:
    """Return the mask of padding around the exposed field, PS3.3 C.7.5.1.1.2."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = data.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    return (stored >= low) & (stored <= high)


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip().upper()


def _quoted(code: str) -> str:
    return repr(code) if _CODE.fullmatch(code) else "unknown" if code else "not given"
