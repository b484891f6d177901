"""From stored pixels to grey levels, as a radiologist's screen shows them.

The steps follow the standard's grayscale pipeline, PS3.3 C.7.6.16.2 and PS3.4 N.2: modality LUT
or rescale, then VOI LUT or window, then photometric interpretation. Without a VOI, the range of
BitsStored becomes 0...255. pydicom decompresses pixels with GDCM and OpenJPEG; the steps are taken
here, once for each value that a pixel can have.

- Only the lowest BitsStored bits are a pixel, PS3.5 8.1.1; others may hold an overlay.
- A missing slope, or one of 0, is 1; a missing intercept is 0.
- The first window with a valid width is used: at least 1, or above 0 for LINEAR_EXACT and SIGMOID,
  PS3.3 C.11.2.1.2 and C.11.2.1.3. A film without one is shown in its whole range.
"""

import math
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

from common.shard import Bytes
from radiographs.read.decode import check_something_left
from radiographs.read.decoder_warnings import warnings_refused
from radiographs.read.jpeg import check_jpeg
from radiographs.read.lut import read_lut
from radiographs.read.unreadable import Unreadable
from radiographs.read.words import quoted, text

Values = npt.NDArray[np.float64]

MOST_BITS = 16

LOSSY_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
"""Transfer syntaxes of JPEG with DCT."""

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class Window(NamedTuple):
    """A window, PS3.3 C.11.2.1.2: its function, one of FUNCTIONS, its centre and its width."""

    function: str
    center: float
    width: float


def shown_pixels(data: Dataset) -> Bytes:
    """Return the pixels of a film as a screen shows them: uint8, height x width; black is 0.

    Raises:
        Unreadable: The pixels are not one grey picture, are damaged, or are all shown alike
            although they differ; or the header says what cannot be followed.
    """
    _check_lossy_jpeg(data)
    with warnings_refused():
        stored = data.pixel_array
    if stored.ndim != 2 or stored.dtype.kind not in "iu":
        raise Unreadable("not one grey picture")
    bits = int(data.BitsStored)
    if not 1 <= bits <= MOST_BITS:
        raise Unreadable(f"{bits} bits stored, not 1 to {MOST_BITS}")
    patterns = stored.astype(np.uint16) & np.uint16((1 << bits) - 1)
    shown: Bytes = _shades(data, bits)[patterns]
    check_something_left(patterns, shown)
    return shown


def _check_lossy_jpeg(data: Dataset) -> None:
    """Refuse a damaged JPEG before GDCM sees it, whose decoder may end the process over it.

    Raises:
        Unreadable: It is damaged.
    """
    if data.file_meta.TransferSyntaxUID not in LOSSY_JPEG:
        return
    try:
        for frame in generate_frames(data.PixelData, number_of_frames=1):
            check_jpeg(frame)
    except Unreadable:
        raise Unreadable("the compressed pixels are damaged or cut short") from None


def cause_of_dullness(header: Dataset) -> str:
    """Return why a film is likely shown in few grey levels; no value but the bits is quoted."""
    followed = ["table (modality LUT)"] if header.get("ModalityLUTSequence") else []
    if header.get("VOILUTSequence"):
        followed.append("table (VOI LUT)")
    elif window_of(header):
        followed.append("window")
    if followed:
        return f"the {' or the '.join(followed)} in the header does not fit the pixels"
    return f"no window in the header, and the pixels use few of the {header.BitsStored} bits stored"


def window_of(data: Dataset) -> Window | None:
    """Return the header's first window of a valid width, or None.

    Raises:
        Unreadable: VOILUTFunction is none of FUNCTIONS.
    """
    function = text(data, "VOILUTFunction") or FUNCTIONS[0]
    pairs = zip_longest(_numbers(data, "WindowCenter"), _numbers(data, "WindowWidth"))
    for center, width in pairs:
        if center is None or width is None or not math.isfinite(center + width):
            continue
        if width >= 1 or (width > 0 and function != "LINEAR"):
            if function not in FUNCTIONS:
                raise Unreadable(f"window function {quoted(function, data)}")
            return Window(function, center, width)
    return None


def windowed(values: Values, window: Window) -> Values:
    """Return values in a window as 0.0 to 255.0, PS3.3 C.11.2.1.2.1 and C.11.2.1.3."""
    function, center, width = window
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return np.asarray(255 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values <= center, 0.0, 255.0)
    return np.clip(((values - center) / width + 0.5) * 255, 0, 255)


def _shades(data: Dataset, bits: int) -> Bytes:
    """Return the grey level of each pattern of stored bits: uint8, 2 ** bits."""
    patterns = np.arange(1 << bits)
    signed = bool(data.PixelRepresentation)
    stored = patterns - ((patterns >> (bits - 1)) << bits) if signed else patterns
    values, low, high = _modality(data, stored.astype(np.float64))
    if data.get("VOILUTSequence"):
        lut = read_lut(
            data.VOILUTSequence[0], low=low, high=high, little_endian=_little_endian(data)
        )
        grey = lut.look_up(values) * (255 / lut.white)
    elif window := window_of(data):
        grey = windowed(values, window)
    else:
        grey = (values - low) * (255 / (high - low))
    shades: Bytes = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    if text(data, "PhotometricInterpretation") == "MONOCHROME1":
        shades = 255 - shades
    shades[_padding(data, stored, signed)] = 0
    return shades


def _modality(data: Dataset, stored: Values) -> tuple[Values, float, float]:
    """Return the result of the modality LUT or rescale, with its least and largest value."""
    if data.get("ModalityLUTSequence"):
        lut = read_lut(
            data.ModalityLUTSequence[0],
            low=stored.min(),
            high=stored.max(),
            little_endian=_little_endian(data),
        )
        return lut.look_up(stored), 0, lut.white
    slope = _first(data, "RescaleSlope") or 1
    values = stored * slope + _first(data, "RescaleIntercept")
    low, high = float(values.min()), float(values.max())
    if not 0 < high - low < math.inf:
        raise Unreadable("a rescale slope or intercept that leaves no range")
    return values, low, high


def _padding(data: Dataset, stored: npt.NDArray[np.int64], signed: bool) -> npt.NDArray[np.bool_]:
    """Return which values are padding around the exposed field, PS3.3 C.7.5.1.1.2."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = data.get("PixelPaddingRangeLimit")
    # Files may have signed values as unsigned ones of 16 bits, and the reverse.
    ends = [int(end) % (1 << 16) for end in (first, first if last is None else last)]
    low, high = sorted(end - (1 << 16) if signed and end >> 15 else end for end in ends)
    return (stored >= low) & (stored <= high)


def _first(data: Dataset, name: str) -> float:
    """Return the first value of an element, 0 if it is missing or no number."""
    values = _numbers(data, name)
    return values[0] if values and math.isfinite(values[0]) else 0.0


def _numbers(data: Dataset, name: str) -> list[float]:
    """Return the values of an element, empty if missing; a missing one among several is nan."""
    value = data.get(name)
    values = value if isinstance(value, MultiValue) else [] if value in (None, "") else [value]
    return [math.nan if number in (None, "") else float(number) for number in values]


def _little_endian(data: Dataset) -> bool:
    return data.original_encoding[1] is not False
