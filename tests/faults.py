"""Federations whose processes end, or misbehave, at a chosen instant."""

from pathlib import Path
from subprocess import Popen

from experiments.local import LocalFederation

DIE = "import os, signal\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"


class FaultyFederation(LocalFederation):
    """A federation on this machine; ``preludes`` holds Python to run in a process first."""

    def __init__(self, logs: Path, tls: Path | None = None) -> None:
        super().__init__(logs, tls=tls)
        self.preludes: dict[str, str] = {}

    def _start(self, name: str, command: list[str], to_terminal: bool = False) -> Popen[bytes]:
        code = self.preludes.get(name, "") + command[0]
        return super()._start(name, [code, *command[1:]], to_terminal)


def dies_before(place: str, condition: str = "True") -> str:
    """Return a prelude: the process is killed when a method is called.

    Args:
        place: ``module:Class.method``.
        condition: In terms of ``args``, which begin with ``self``.
    """
    return _wrapped(place, f"    if {condition}: die()\n    return was(*args, **kwargs)\n")


def dies_within_line(round_number: int) -> str:
    """Return a prelude: the process is killed when half of a round's line is written."""
    return _wrapped(
        "server.run_folder:RunFolder.write_round",
        f"    if args[1]['round'] == {round_number}:\n"
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
