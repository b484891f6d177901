"""Look-up tables in a DICOM header: the modality LUT and the VOI LUT.

Source: PS3.3 C.11.1.1.1 and C.11.2.1.1. What the descriptor declares is compared with the data:

- Bits: the output range is that of the bits which the largest entry needs. Some devices declare
  16 bits for entries of 10 or 12.
- Entries of 8 bits: packed two in a word, the first in the low byte, or one in each word; the
  length tells which.
- First mapped value: read as signed or as unsigned, whichever lets the table meet its input.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from radiographs.read.unreadable import Unreadable

WORD = 1 << 16


class Lut(NamedTuple):
    """A look-up table.

    Attributes:
        first: The input value of the first entry.
        entries: uint16, at least one.
    """

    first: int
    entries: npt.NDArray[np.uint16]

    @property
    def white(self) -> int:
        """The largest value of the bits that the entries need, at least 1."""
        return (1 << max(int(self.entries.max()).bit_length(), 1)) - 1

    def look_up(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the entries of values; those outside the table get its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        found: npt.NDArray[np.float64] = self.entries[index.astype(np.int64)].astype(np.float64)
        return found


def read_lut(item: Dataset, *, low: float, high: float, little_endian: bool) -> Lut:
    """Read an item of ModalityLUTSequence or VOILUTSequence.

    Args:
        item: The item, with LUTDescriptor and LUTData (US, SS or OW).
        low: Least possible input value.
        high: Largest possible input value.
        little_endian: Byte order of the file.

    Raises:
        Unreadable: The table has no descriptor, or fewer entries than the descriptor declares.
    """
    descriptor = item.get("LUTDescriptor")
    if descriptor is None or len(descriptor) != 3:
        raise Unreadable("a look-up table without a descriptor")
    declared, first, bits = (int(number) % WORD for number in descriptor)
    count = declared or WORD
    words = _words(item, little_endian)
    if len(words) < count and bits <= 8:
        words = np.column_stack([words & 0xFF, words >> 8]).ravel()
    if len(words) < count:
        raise Unreadable("a look-up table with fewer entries than it declares")
    return Lut(_signed(int(descriptor[1]), first, count, low, high), words[:count])


def _words(item: Dataset, little_endian: bool) -> npt.NDArray[np.uint16]:
    """Return LUTData as 16-bit words."""
    data = item.get("LUTData")
    if isinstance(data, bytes):
        padded = data + bytes(len(data) % 2)
        return np.frombuffer(padded, "<u2" if little_endian else ">u2").astype(np.uint16)
    numbers = np.atleast_1d(np.asarray([] if data is None else data, np.int64))
    return (numbers % WORD).astype(np.uint16)


def _signed(written: int, unsigned: int, count: int, low: float, high: float) -> int:
    """Return the first mapped value: as written, unless only its other reading meets the input."""

    def meets(first: int) -> bool:
        return first <= high and first + count > low

    other = unsigned if written < 0 else unsigned - WORD
    return other if meets(other) and not meets(written) else written
