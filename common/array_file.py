"""The file of a shard's images: ``.npy``, uint8, with disk space allocated at once.

Format: numpy's NEP 1, version 1.0.
"""

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.errors import BadInput


def reserve(path: Path, shape: tuple[int, int, int]) -> None:
    """Create an array of zeros, uint8, and allocate its disk space now.

    A full disk would otherwise kill the process when it writes to the memory map.

    Raises:
        BadInput: There is not enough disk space.
    """
    needed = math.prod(shape)
    with path.open("wb") as file:
        write_header(file, shape)
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), file.tell(), needed)
        except OSError as error:
            raise BadInput(
                f"{path.parent}: {needed} bytes are needed here: {error.strerror}"
            ) from None


def write_header(file: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Write the header of a ``.npy`` file of uint8; the pixels follow it."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
