"""Commands as processes that start quickly.

They are forked from a process that has imported what the commands import, torch and scikit-learn
above all, which otherwise takes each process several seconds.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "sklearn.metrics",
        "client.hospital",
        "client.private.account",
        "client.report",
        "client.secure.signer",
        "client.transport.connection",
        "client.transport.messages",
        "common.certificates",
        "common.runtime.cli",
        "predict.job",
        "radiographs.sources.site",
        "server.metrics.families",
        "server.report.page",
        "server.rounds.loop",
        "server.run.start",
        "server.run.tracking",
        "server.transport.service",
    ]
)


class Process:
    """A running command, with an interface like :class:`subprocess.Popen`.

    Args:
        code: Python code, such as ``from client.cli import main; main()``.
        arguments: Arguments of the command.
        environment: Variables in addition to those of this process.
        outputs: Files to append stdout and stderr to; None for those of this process.

    Attributes:
        pid: Process id.
    """

    def __init__(
        self,
        code: str,
        arguments: Sequence[str],
        environment: dict[str, str],
        outputs: tuple[Path, Path] | None = None,
    ) -> None:
        environment = {**os.environ, **environment}
        for path in outputs or ():
            path.touch()
        self._process = FORKS.Process(
            target=_execute, args=(code, list(arguments), environment, outputs)
        )
        self._process.start()
        assert self._process.pid is not None  # noqa: S101 - the process was started
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: The process still runs after ``timeout`` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def _end_with_parent() -> None:
    """Send this process SIGTERM once the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - multiprocessing has started this process
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _execute(
    code: str,
    arguments: list[str],
    environment: dict[str, str],
    outputs: tuple[Path, Path] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    for descriptor, path in enumerate(outputs or (), start=1):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    Thread(target=_end_with_parent, daemon=True).start()
    exec(code, {"__name__": "__main__"})  # noqa: S102 - what python -c does
