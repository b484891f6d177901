"""Tells whether a JPEG file is whole.

Pillow hides libjpeg's warnings: half a file with an end marker becomes a picture that is half
grey. simplejpeg decodes with libjpeg-turbo and raises at the first warning. libjpeg itself does not
warn if the last scans of a progressive picture are missing, so these are counted here (ITU-T T.81,
G.1.1.1 and B.2.3).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import simplejpeg

from radiographs.read.unreadable import Unreadable

_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
"""A marker that ends a scan: neither a stuffed byte nor a restart."""

_DCT_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_SCAN, _END = 0xDA, 0xD9


class _Segment(NamedTuple):
    """A marker and what follows its length."""

    marker: int
    body: bytes


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG file that is not whole.

    Args:
        data: A file of which Pillow made a picture.

    Raises:
        Unreadable: The decoder warns, or scans are missing.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError as error:
        raise Unreadable(f"damaged or cut short: {error}") from None
    if _coefficients_missing(data):
        raise Unreadable("cut short: scans are missing")


def _coefficients_missing(data: bytes) -> bool:
    """Return whether any coefficient of any component lacks a bit."""
    missing: dict[int, list[int]] = {}
    for marker, body in _segments(data):
        if marker in _DCT_FRAMES:
            missing = {body[6 + 3 * i]: [1] * 64 for i in range(body[5])}
        elif marker == _SCAN and missing:
            names = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[1 + 2 * body[0] :]
            for name in names:
                missing[name][first : last + 1] = [bits & 15] * (last + 1 - first)
    return any(any(bits) for bits in missing.values())


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments of the file's first picture up to its end marker."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            return
        length = int.from_bytes(data[at : at + 2], "big")
        yield _Segment(marker, data[at + 2 : at + length])
        at += length
