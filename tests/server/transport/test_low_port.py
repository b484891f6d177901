"""Ports that a server without root's rights may not use; the remedy is followed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import BadInput
from experiments.launch.local import free_port
from server.transport.port import check_free

NOBODY = 65534
FIRST_FREE = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(int(FIRST_FREE.read_text()) < 1024, reason="any user may use low ports here")
def test_the_remedy_for_a_low_port_helps() -> None:
    assert as_nobody(lambda: check_free("127.0.0.1:81")) == (
        f"{BadInput.__name__}: --listen 127.0.0.1:81: Permission denied; choose a port from 1024 on"
    )
    assert as_nobody(lambda: check_free(f"127.0.0.1:{free_port()}")) == "fine"
