"""``flower-data``: makes shards and looks at them."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from common.cli import Command, choose_command, run_command

COMMANDS = {
    "synthetic": "write synthetic hospitals of procedural chest phantoms",
    "chestxray14": "turn ChestX-ray14 images into hospitals and a test shard",
    "chexpert": "turn CheXpert into a shard for pretraining, without labels",
    "site": "turn a hospital's own DICOM, PNG or JPEG files into its shard",
    "check": "look for what would spoil a run, in a shard or between several",
    "show": "print the counts of shards, draw their shares and a contact sheet",
}
"""What each command does; the module of the same name has a function ``command``."""


def _run(name: str, arguments: Sequence[str]) -> None:
    importlib.import_module(f"common.data.{name}").command(arguments)


def _choose(arguments: Sequence[str]) -> None:
    commands = {name: Command(text, partial(_run, name)) for name, text in COMMANDS.items()}
    choose_command("flower-data", "Makes shards and looks at them.", commands, arguments)


def main() -> None:
    """Run ``flower-data`` and exit with its code."""
    sys.exit(run_command("flower-data", _choose))
