"""What a process of another user sees."""

import os
from collections.abc import Callable

import pytest

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_nobody(check: Callable[[], None]) -> str:
    """Return what a process of another user says of a check."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setuid(NOBODY)
            check()
            os.write(write, b"fine")
        except BaseException as error:  # noqa: BLE001 - the parent judges it
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said:
        return said.read()
