"""Decodes a PNG or JPEG file to a square of 8-bit grey pixels.

- Colour becomes grey by ITU-R 601 luma. An alpha channel is dropped: the few hundred RGBA files
  of ChestX-ray14 are grey and opaque.
- 16-bit grey is divided by 257, which maps the full range of the PNG standard to 0...255. A file
  that uses only part of its range stays dark.
- The orientation in the EXIF data is applied.
- A picture that is not square is stretched, as the NIH stretched its films to 1024 x 1024.
  Nothing is cut off, and no padding distinguishes one hospital from another.
- Pictures are resampled with Pillow's antialiased bilinear filter, like
  ``torchvision.transforms.Resize``. A picture of the right size keeps its pixels.
"""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from common.shard import Bytes

FORMATS = ("PNG", "JPEG")

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
"""File name suffixes, in lower case."""

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_SIXTEEN_BIT = ("I;16", "I")

_PNG_END = b"IEND\xaeB`\x82"
"""The last chunk of a PNG file. Pillow does not report that it is missing."""

_FIRST_BYTES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class Unreadable(Exception):  # noqa: N818 - named for what it is
    """A file cannot be used. The message has neither the file's name nor any of its content."""


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
            if image.format == "PNG" and _PNG_END not in data:
                raise Unreadable("cut short")
            image.load()
            grey = _grey(_upright(image))
    except Image.DecompressionBombError:
        raise Unreadable("too large for a radiograph") from None
    except UnidentifiedImageError:
        raise Unreadable("neither PNG nor JPEG") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreadable(f"cannot be decoded: {reason}") from None
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise Unreadable(f"cannot be decoded ({type(error).__name__})") from None
    return resized(grey, size)


def resized(grey: Image.Image, size: int) -> Bytes:
    """Return a picture in mode L as uint8, S x S."""
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation in the EXIF data."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _grey(image: Image.Image) -> Image.Image:
    """Return a loaded picture in mode L."""
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in _EIGHT_BIT:
        return image.convert("L")
    raise Unreadable(f"pixels of kind {image.mode}; 8-bit or 16-bit grey or RGB is needed")
