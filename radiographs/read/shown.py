"""From stored pixels to grey levels, as a radiologist's screen shows them.

The steps follow the standard's grayscale pipeline, PS3.3 C.7.6.16.2 and PS3.4 N.2: modality LUT
or rescale, then VOI LUT or window, then photometric interpretation. Without a VOI, the range of
BitsStored becomes 0...255. pydicom decompresses pixels with GDCM and OpenJPEG.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from common.shard import Bytes
from radiographs.read.decode import Unreadable


def shown_pixels(data: Dataset) -> Bytes:
    """Return the pixels of a film as a screen shows them: uint8, height x width; black is 0.

    Raises:
        Unreadable: The pixels are not one grey picture.
    """
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
