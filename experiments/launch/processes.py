"""Commands as processes of their own that start in a moment.

They are forked from a process that has torch and scikit-learn imported, which takes each of them
several seconds of a core otherwise.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["client.hospital", "common.runtime.cli", "common.certificates", "server.rounds.loop"]
)


class Process:
    """A running command, with what :class:`subprocess.Popen` has for it.

    Args:
        code: Python, such as ``from client.cli import main; main()``.
        arguments: Of the command.
        environment: Variables besides those of this process.
        outputs: Files to which stdout and stderr are appended; None: those of this process.

    Attributes:
        pid: Its id.
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
        assert self._process.pid is not None  # noqa: S101 - it was started
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None: it still runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``timeout`` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


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
    exec(code, {"__name__": "__main__"})  # noqa: S102 - what python -c does
