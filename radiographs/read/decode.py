"""Decodes a PNG or JPEG file to a square of 8-bit grey pixels.

- Colour becomes grey by ITU-R 601 luma. An alpha channel is dropped: the few hundred RGBA files
  of ChestX-ray14 are grey and opaque.
- 16-bit grey is divided by 257, which maps the full range of the PNG standard to 0...255. If the
  chunk sBIT declares fewer bits and no value needs more, the range is that of these bits. A dark
  film is never stretched by its own maximum: it stays dark, and is reported.
- A file that its decoder only warns of is refused: it would be grey where data are missing.
- The orientation in the EXIF data is applied. EXIF data that cannot be read are ignored.
- A picture that is not square is stretched, as the NIH stretched its films to 1024 x 1024.
  Nothing is cut off, and no padding distinguishes one hospital from another.
- Pictures are resampled with Pillow's antialiased bilinear filter, like
  ``torchvision.transforms.Resize``. A picture of the right size keeps its pixels. A picture in few
  grey levels has a fault, which new levels between them would hide: it keeps its levels.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from common.shard import Bytes
from radiographs.read.extent import FEWEST, extent_of
from radiographs.read.jpeg import check_jpeg
from radiographs.read.png import check_png
from radiographs.read.unreadable import TOO_LITTLE_MEMORY
from radiographs.read.unreadable import Unreadable as Unreadable

FORMATS = ("PNG", "JPEG")

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
"""File name suffixes, in lower case."""

NEARLY_ALL = 0.98
"""Share of the pixels in one grey level that leaves nothing to see."""

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_SIXTEEN_BIT = ("I;16", "I")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation but 1, upright: Exif 2.3, tag 274.

Pillow's own function also writes the EXIF data anew, which fails where they are damaged.
"""

_FIRST_BYTES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def is_picture(path: Path) -> bool:
    """Return whether a file begins as PNG or JPEG, whatever its name.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(8).startswith(_FIRST_BYTES)


def decode(path: Path, size: int) -> Bytes:
    """Return the picture in a PNG or JPEG file as 8-bit grey.

    Args:
        path: The file.
        size: S, pixels along each side of the result.

    Returns:
        uint8, S x S, 0 to 255.

    Raises:
        Unreadable: The file does not exist, is neither PNG nor JPEG, is truncated or damaged, or
            has an unsupported pixel format.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            bits = check_png(data) if image.format == "PNG" else None
            image.load()
            grey = _grey(_upright(image), bits)
            if image.format != "PNG":
                check_jpeg(data)
    except Image.DecompressionBombError:
        raise Unreadable("too large for a radiograph") from None
    except UnidentifiedImageError:
        raise Unreadable("neither PNG nor JPEG") from None
    except Unreadable:
        raise
    except MemoryError:
        raise Unreadable(TOO_LITTLE_MEMORY) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        # Other texts of the library may quote the file.
        reason = isinstance(error, OSError) and error.strerror
        raise Unreadable(f"cannot be decoded: {reason or 'damaged or cut short'}") from None
    return resized(grey, size)


def check_something_left(stored: npt.NDArray[np.uint16], grey: Bytes) -> None:
    """Refuse a picture that had something to see and is practically one grey level now.

    Args:
        stored: The values before, of any shape.
        grey: The grey levels that they became, of the same shape.

    Raises:
        Unreadable: One grey level holds NEARLY_ALL pixels, and no stored value does.
    """
    if _largest_share(grey) >= NEARLY_ALL > _largest_share(stored):
        raise Unreadable(
            "the pixels differ but come out as one grey level: more bits are declared than used, "
            "or the window does not fit"
        )


def _largest_share(values: npt.NDArray[np.uint16] | Bytes) -> float:
    """Return the share of the pixels that have the most frequent value."""
    return float(np.bincount(values.ravel()).max() / values.size)


def resized(grey: Image.Image, size: int) -> Bytes:
    """Return a picture in mode L as uint8, S x S."""
    few = extent_of(grey).levels < FEWEST
    how = Image.Resampling.NEAREST if few else Image.Resampling.BILINEAR
    return np.asarray(grey.resize((size, size), how))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation in the EXIF data, if they can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged data can raise anything
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _grey(image: Image.Image, bits: int | None) -> Image.Image:
    """Return a loaded picture in mode L.

    Args:
        image: The picture.
        bits: Significant bits of a 16-bit picture, if declared.
    """
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image).astype(np.uint32)
        white = 65535
        if bits and wide.max() < 1 << bits:
            white = (1 << bits) - 1
        grey = ((wide * 255 + white // 2) // white).astype(np.uint8)
        check_something_left(wide.astype(np.uint16), grey)
        return Image.fromarray(grey)
    if image.mode in _EIGHT_BIT:
        return image.convert("L")
    raise Unreadable(f"pixels of kind {image.mode}; 8-bit or 16-bit grey or RGB is needed")
