"""Ports that a server without root's rights may not use; the remedy is followed."""

from pathlib import Path

import pytest

from common.errors import BadInput
from experiments.launch.local import free_port
from server.transport.port import check_free
from tests.support.users import as_nobody, needs_root

FIRST_FREE = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@needs_root
@pytest.mark.skipif(int(FIRST_FREE.read_text()) < 1024, reason="any user may use low ports here")
def test_the_remedy_for_a_low_port_helps() -> None:
    assert as_nobody(lambda: check_free("127.0.0.1:81")) == (
        f"{BadInput.__name__}: --listen 127.0.0.1:81: Permission denied; choose a port from 1024 on"
    )
    assert as_nobody(lambda: check_free(f"127.0.0.1:{free_port()}")) == "fine"
