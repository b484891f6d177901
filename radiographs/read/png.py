"""Reads the chunks of a PNG file: is it whole, and how many bits are significant?

Source: the PNG specification, W3C, 5.3 (chunks and their CRC) and 11.3.2.7 (sBIT). Pillow neither
reports a missing end nor compares the checksums of the pixels.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from radiographs.read.unreadable import Unreadable

_SIGNATURE = 8
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


class _Chunk(NamedTuple):
    name: bytes
    body: memoryview


def check_png(data: bytes) -> int | None:
    """Refuse a PNG file that is not whole.

    Args:
        data: The file's content.

    Returns:
        The significant bits of the first channel, from the chunk sBIT; None without it.

    Raises:
        Unreadable: The end is missing, or a chunk's checksum is wrong.
    """
    significant = None
    for chunk in _chunks(data):
        if chunk.name == b"sBIT" and chunk.body:
            significant = chunk.body[0]
        if chunk.name == b"IEND":
            return significant
    raise Unreadable("cut short")


def is_sixteen_bit(start: bytes) -> bool:
    """Return whether a file begins as a PNG file of 16 bits: at least 25 bytes are needed."""
    return start[:_SIGNATURE] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10"


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks that are whole."""
    view = memoryview(data)
    at = _SIGNATURE
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        if name in _CRITICAL and zlib.crc32(view[at + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            raise Unreadable("damaged: a checksum is wrong")
        yield _Chunk(name, view[at + 8 : end])
        at = end + 4
