"""Makes a refusal of what a C decoder only warns of.

GDCM's JPEG decoder (baseline and lossless) fills what is missing with grey or with noise. It then
returns the picture as if it were whole, and writes a warning to file descriptor 2. JPEG-LS,
JPEG 2000 and RLE raise an error of their own.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

from common.errors import BadInput
from radiographs.read.unreadable import Unreadable

DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Inconsistent progression")
"""Beginnings of libjpeg's warnings of damaged data, from its jerror.h."""


@contextmanager
def warnings_refused() -> Iterator[None]:
    """Collect what is written to file descriptor 2 meanwhile; the rest of it is written afterwards.

    Raises:
        Unreadable: A decoder warned of damage.
        BadInput: There is no place for a temporary file.
    """
    with _temporary() as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines = file.readlines()
            damaged = [line for line in lines if line.startswith(DAMAGE)]
            os.write(2, b"".join(line for line in lines if line not in damaged))
    if damaged:
        raise Unreadable("the compressed pixels are damaged or cut short")


def _temporary() -> IO[bytes]:
    try:
        return TemporaryFile()
    except OSError as error:
        # Not the film's fault: all compressed films would be refused.
        raise BadInput(
            f"no temporary file can be made: {error.strerror}; free a place for it, or name "
            "another folder in TMPDIR"
        ) from None
