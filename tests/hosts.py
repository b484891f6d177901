"""Several hosts on this machine: network namespaces on a switch of their own.

The switch is a bridge in one more namespace, so that the machine's own network is untouched.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def tc(*arguments: str) -> bool:
    """Run ``tc``; return whether it did what was asked."""
    return subprocess.run(["tc", *arguments], check=False, capture_output=True).returncode == 0


ENTER = """
import ctypes, os, subprocess
libc = ctypes.CDLL(None)
assert libc.setns(os.open("/run/netns/{name}", os.O_RDONLY), 0x40000000) == 0  # CLONE_NEWNET
"""
KNOW = """
assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", {hosts!r}, "/etc/hosts"], check=True)
"""


class Host:
    """A network namespace with one address.

    Attributes:
        address: IPv4.
        enter: A prelude: the process runs there.
    """

    def __init__(self, name: str, number: int, switch: str) -> None:
        self.address = f"10.213.0.{number + 1}"
        self.enter = ENTER.format(name=name)
        self._switch = switch
        self._port = f"p{number}"
        self._name = name
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        link = ["link", "add", "eth0", "netns", name, "type", "veth", "peer", self._port]
        ip("-n", switch, *link)
        ip("-n", switch, "link", "set", self._port, "master", "switch", "up")
        ip("-n", name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")

    def know(self, hosts: Path) -> None:
        """Let processes that start there have another ``/etc/hosts``."""
        self.enter += KNOW.format(hosts=str(hosts))

    def cut(self) -> None:
        """Cut the line; neither end is told."""
        ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Mend the line."""
        ip("-n", self._switch, "link", "set", self._port, "master", "switch")

    def spoil(self, delay_ms: int, loss_percent: float) -> bool:
        """Delay and lose packets; return whether the kernel can."""
        netem = ["netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        return tc("-n", self._name, "qdisc", "replace", "dev", "eth0", "root", *netem)


class Hosts:
    """A context manager with some hosts; leaving the block removes them.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        mark = secrets.token_hex(3)
        self._switch = f"fedcxr-{mark}-switch"
        self._names = [f"fedcxr-{mark}-{number}" for number in range(count)]

    def __enter__(self) -> Sequence[Host]:
        try:
            ip("netns", "add", self._switch)
            ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            ip("-n", self._switch, "link", "set", "switch", "up")
            return [Host(name, i, self._switch) for i, name in enumerate(self._names)]
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in [*self._names, self._switch]:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _why_not() -> str:
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 is not installed"
    try:
        with Hosts(1):
            return ""
    except subprocess.CalledProcessError:
        return "no network namespaces can be made here"


_REASON = _why_not()
needs_hosts = pytest.mark.skipif(bool(_REASON), reason=_REASON)
