"""One stack in namespaces of its own; started by ``python -m benchmarks.peers``.

It has a network of its own with nothing but the loopback interface, whose counter is of this stack
alone and through which nothing can call out, and process ids of its own: all of them are this
stack's, and end with it.
"""

import fcntl
import importlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from pydantic import BaseModel

from benchmarks.peers.task import folder, settings

NAMESPACES = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
INTERFACE_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1
"""SIOCGIFFLAGS, SIOCSIFFLAGS and IFF_UP; see netdevice(7)."""

SAMPLE_SECONDS = 1.0
PEAK = "peak.json"


class Peak(BaseModel):
    """The most memory of a stack, in bytes.

    Attributes:
        server: Resident, of the server's processes.
        everything: Proportional set size, of all processes: shared pages count once.
    """

    server: int = 0
    everything: int = 0


def loopback_up() -> None:
    """Switch on the loopback interface of this network."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, INTERFACE_FLAGS, request))
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", flags | UP))


def sample(servers: list[str]) -> Peak:
    """Return the memory of all processes here but this one.

    Args:
        servers: Parts of the command lines of processes that belong to the server.
    """
    now = Peak()
    for process in _processes():
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            now.everything += _kilobytes(process / "smaps_rollup", "Pss:")
            if any(part in command for part in servers):
                now.server += _kilobytes(process / "status", "VmRSS:")
    return now


def _processes() -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) not in (1, os.getpid()):
            yield process


def _kilobytes(file: Path, field: str) -> int:
    lines = file.read_text(encoding="ascii").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def watch(servers: list[str], done: Event) -> None:
    """Keep the peaks in a file until all is done."""
    peak = Peak()
    while not done.wait(SAMPLE_SECONDS):
        now = sample(servers)
        peak = Peak(
            server=max(peak.server, now.server), everything=max(peak.everything, now.everything)
        )
        (folder() / PEAK).write_text(peak.model_dump_json())


def main(module: str, function: str, *servers: str) -> None:
    """Run one stack and watch it.

    Args:
        module: Of ``benchmarks.peers``.
        function: Of the module; is given the settings and returns an exit code.
        *servers: See :func:`sample`.
    """
    loopback_up()
    done = Event()
    Thread(target=watch, args=(list(servers), done)).start()
    try:
        code = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)(settings())
    finally:
        done.set()
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
