"""Federations whose processes end, or misbehave, at a chosen instant."""

from collections.abc import Sequence
from pathlib import Path

from experiments.launch.local import LocalFederation
from experiments.launch.processes import Process
from tests.support.hosts import Host

DIE = "import os, signal\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"


IMPATIENT = """
import common.net
sooner = {
    "grpc.keepalive_time_ms": 1000,
    "grpc.keepalive_timeout_ms": 1000,
    "grpc.http2.ping_timeout_ms": 1000,
    "grpc.http2.min_ping_interval_without_data_ms": 500,
}
common.net.GRPC_OPTIONS = tuple({**dict(common.net.GRPC_OPTIONS), **sooner}.items())
import server.members.roster
server.members.roster.HALF_OPEN_SECONDS = 4.0
"""
"""A prelude: a dead connection is found within 2 s, not 50 s."""


STUCK = "in a call that never returns"
"""What a process says before :func:`hangs` has its way."""


class FaultyFederation(LocalFederation):
    """A federation on this machine, whose processes may have faults and hosts of their own.

    Args:
        logs: Folder for the processes' logs.
        tls: Folder of ``flower-provision``; None: neither encryption nor keys.
        hosts: The server's, and one for each client in the order in which they start.

    Attributes:
        preludes: Python to run in a process first, by the process's name.
    """

    def __init__(self, logs: Path, tls: Path | None = None, hosts: Sequence[Host] = ()) -> None:
        super().__init__(logs, tls=tls)
        self.preludes: dict[str, str] = {}
        self.hosts: dict[str, Host] = {}
        self._free = list(hosts)
        if hosts:
            self.hosts["server"] = self._free.pop(0)
            self.address = f"{self.hosts['server'].address}:8080"

    def _start(self, name: str, code: str, arguments: list[str], log: Path | None) -> Process:
        if self._free and name not in self.hosts:
            self.hosts[name] = self._free.pop(0)
        enter = self.hosts[name].enter if self.hosts else ""
        return super()._start(name, enter + self.preludes.get(name, "") + code, arguments, log)


def trains_slowly(seconds: float, rounds: str = "True") -> str:
    """Return a prelude: local training takes longer, and nothing of the process stands still.

    Args:
        seconds: How much longer.
        rounds: In terms of ``number``, the round.
    """
    return _wrapped(
        "client.computing:train",
        f"    number = args[3].identity.round\n"
        f"    import time\n"
        f"    if {rounds}: time.sleep({seconds})\n"
        f"    return was(*args, **kwargs)\n",
    )


def trains_after(condition: str, rounds: str = "True") -> str:
    """Return a prelude: local training begins once a condition holds.

    Args:
        condition: In Python, with ``os``.
        rounds: In which that is, in terms of ``number``, the round.
    """
    return _wrapped(
        "client.computing:train",
        f"    number = args[3].identity.round\n"
        f"    import time\n"
        f"    while ({rounds}) and not ({condition}): time.sleep(0.05)\n"
        f"    return was(*args, **kwargs)\n",
    )


def hangs(place: str) -> str:
    """Return a prelude: a function calls C that never returns, not for a signal either.

    Args:
        place: ``module:function`` or ``module:Class.method``.
    """
    return _wrapped(
        place,
        # It says so within the call: a signal that comes later finds Python there.
        f"    import ctypes\n"
        f"    ctypes.CDLL(None).system(b'echo {STUCK} >&2; "
        "exec tail --pid=$PPID -f /dev/null >/dev/null 2>&1')\n",
    )


def fails_to_train() -> str:
    """Return a prelude: local training raises."""
    return _wrapped("client.computing:train", "    raise RuntimeError('film 17 is empty')\n")


def dies_before(place: str, condition: str = "True") -> str:
    """Return a prelude: the process is killed when a method is called.

    Args:
        place: ``module:Class.method``.
        condition: In terms of ``args``, which begin with ``self``.
    """
    return _wrapped(place, f"    if {condition}: die()\n    return was(*args, **kwargs)\n")


def stops_before(place: str) -> str:
    """Return a prelude: the process gets SIGTERM when a method is called."""
    return _wrapped(
        place,
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    import time; time.sleep(60)\n"
        "    return was(*args, **kwargs)\n",
    )


def freezes_before(place: str, condition: str) -> str:
    """Return a prelude: the process gets SIGSTOP when a method is called.

    Args:
        place: ``module:Class.method``.
        condition: In terms of ``args``, which begin with ``self``.
    """
    body = f"    if {condition}: os.kill(os.getpid(), signal.SIGSTOP)\n"
    return _wrapped(place, f"{body}    return was(*args, **kwargs)\n")


def dies_within_line(round_number: int) -> str:
    """Return a prelude: the process is killed when half of a round's line is written."""
    return _wrapped(
        "server.run.folder:RunFolder.write_round",
        f"    if args[1].round == {round_number}:\n"
        "        with (args[0].path / 'rounds.jsonl').open('a') as file:\n"
        "            file.write('{\"round\": 1')\n"
        "        die()\n"
        "    return was(*args, **kwargs)\n",
    )


def _wrapped(place: str, body: str) -> str:
    module, _, name = place.partition(":")
    owner, _, method = name.rpartition(".")
    target = f"module.{owner}" if owner else "module"
    return (
        f"{DIE}import importlib\nmodule = importlib.import_module({module!r})\n"
        f"was = {target}.{method}\n"
        f"def wrapped(*args, **kwargs):\n{body}"
        f"{target}.{method} = wrapped\n"
    )
