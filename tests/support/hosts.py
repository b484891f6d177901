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

from tests.support.bad_line import BadLine, open_tap

PREFIX = "fedcxr-"


def run(*arguments: str) -> None:
    """Run a command."""
    subprocess.run(arguments, check=True, capture_output=True)


def ip(*arguments: str) -> None:
    """Run ``ip``."""
    run("ip", *arguments)


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
        line: What :meth:`spoil` has put in place of its line.
    """

    def __init__(self, name: str, number: int, switch: str) -> None:
        self.address = f"10.213.0.{number + 1}"
        self.enter = ENTER.format(name=name)
        self._switch = switch
        self._port = f"p{number}"
        self._name = name
        self.line: BadLine | None = None
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        link = ["link", "add", "eth0", "netns", name, "type", "veth", "peer", self._port]
        ip("-n", switch, *link)
        self._connect()

    def _connect(self) -> None:
        ip("-n", self._switch, "link", "set", self._port, "master", "switch", "up")
        ip("-n", self._name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self._name, "link", "set", "eth0", "up")

    def know(self, hosts: Path) -> None:
        """Let processes that start there have another ``/etc/hosts``."""
        self.enter += KNOW.format(hosts=str(hosts))

    def cut(self) -> None:
        """Cut the line; neither end is told."""
        ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Mend the line."""
        ip("-n", self._switch, "link", "set", self._port, "master", "switch")

    def spoil(self, delay: float, loss: float, rate: float | None = None) -> None:
        """Put a worse line in place of this one.

        Args:
            delay: Seconds, there and back together.
            loss: Share of the packets that are lost.
            rate: Mbit/s in each direction; a second's worth waits for its turn, and what comes
                beyond that is lost, too. None: any.
        """
        ip("-n", self._name, "link", "delete", "eth0")
        near = self._tap("a", self._name, "eth0", rate)
        far = self._tap("b", self._switch, self._port, rate)
        self._connect()
        self.line = BadLine(near, far, delay, loss)

    def _tap(self, end: str, namespace: str, name: str, rate: float | None) -> int:
        """Return the file of a new network device in a namespace, that sends at this rate."""
        device = self._name.removeprefix(PREFIX) + end
        file = open_tap(device, in_bulk=rate is not None)
        ip("link", "set", device, "netns", namespace, "name", name)
        if rate is not None:
            burst = max(5_000, round(rate * 1250))  # of 10 ms
            limit = ["tbf", "rate", f"{rate}mbit", "burst", f"{burst}", "latency", "1s"]
            run("tc", "-n", namespace, "qdisc", "add", "dev", name, "root", *limit)
        return file

    def close(self) -> None:
        """End a worse line, which is a thread of this process."""
        if self.line is not None:
            self.line.end()


class Hosts:
    """A context manager with some hosts; leaving the block removes them.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        mark = secrets.token_hex(3)
        self._switch = f"{PREFIX}{mark}-switch"
        self._hosts: list[Host] = []
        self._names = [f"{PREFIX}{mark}-{number}" for number in range(count)]

    def __enter__(self) -> Sequence[Host]:
        try:
            ip("netns", "add", self._switch)
            ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            ip("-n", self._switch, "link", "set", "switch", "up")
            for number, name in enumerate(self._names):
                self._hosts.append(Host(name, number, self._switch))
            return self._hosts
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
        for host in self._hosts:
            host.close()
        for name in [*self._names, self._switch]:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _why_not() -> str:
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        with Hosts(1):
            return ""
    except subprocess.CalledProcessError:
        return "no network namespaces can be made here"


_REASON = _why_not()
needs_hosts = pytest.mark.skipif(bool(_REASON), reason=_REASON)
needs_tap = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun here")
