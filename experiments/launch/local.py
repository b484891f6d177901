"""A federation on this machine: a server and clients as separate processes."""

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Self

from experiments.launch.processes import Process

SERVER = "from server.cli import main; main()"
EVALUATE = "from server.evaluate.cli import main; main()"
CLIENT = "from client.cli import main; main()"

_drawn = count()


def free_port() -> int:
    """Return a free port of the loopback interface.

    Each process draws from a hundred that its number tells, below those that the kernel gives out:
    whoever else draws a port takes another one before this one is used.
    """
    first = 10_000 + os.getpid() % 200 * 100
    while True:
        port = first + next(_drawn) % 100
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class LocalFederation:
    """Starts a server and clients on loopback.

    Leaving the block as a context manager ends all processes.

    Args:
        logs: Folder for the processes' logs, created if it does not exist.
        slots: Number of clients that may compute at once, each on one thread.
        tls: Folder of ``flower-provision`` for loopback; None for neither encryption nor keys.
    """

    def __init__(self, logs: Path, slots: int = 2, tls: Path | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.server: Process | None = None
        self.clients: dict[str, Process] = {}
        self.logs = logs
        self._slots = slots
        self._tls = tls
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_server(
        self, options: Sequence[str], *, to_terminal: bool = False, code: str = SERVER
    ) -> None:
        """Start ``flower-server``, or what else ``code`` is, with the address and these options."""
        arguments = ["--listen", self.address, *self._encryption("server"), *options]
        log = None if to_terminal else self.logs / "server.log"
        self.server = self._start("server", code, arguments, log)

    def start_client(self, shard: Path, options: Sequence[str] = ()) -> None:
        """Start ``flower-client`` on a shard; its name is that of the shard's folder."""
        encryption = self._encryption(f"sites/{shard.name}")
        arguments = ["--server", self.address, *encryption, "--data", str(shard)]
        arguments += ["--threads", "1", "--slots", str(self._slots)]
        arguments += ["--slots-dir", str(self.logs / "slots"), *options]
        log = self.logs / f"{shard.name}.log"
        self.clients[shard.name] = self._start(shard.name, CLIENT, arguments, log)

    def wait(self, timeout: float | None = None) -> dict[str, int]:
        """Wait until every process has ended; return their exit codes by name.

        Raises:
            subprocess.TimeoutExpired: One still runs after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        codes = {}
        for name, process in self._processes().items():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            codes[name] = process.wait(left)
        return codes

    def stop(self) -> None:
        """End all processes: SIGTERM, and SIGKILL after ten seconds."""
        running = [p for p in self._processes().values() if p.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _encryption(self, side: str) -> list[str]:
        return ["--insecure"] if self._tls is None else ["--tls", str(self._tls / side)]

    def _processes(self) -> dict[str, Process]:
        server = {"server": self.server} if self.server else {}
        return {**server, **self.clients}

    def _start(self, name: str, code: str, arguments: list[str], log: Path | None) -> Process:
        del name
        return Process(code, arguments, {"OMP_NUM_THREADS": "1"}, (log, log) if log else None)
