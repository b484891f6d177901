"""``flower-data``: makes shards and looks at them."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from common.runtime.cli import Command, choose_command, run_command

COMMANDS = {
    "sources.synthetic": "write synthetic hospitals of procedural chest phantoms",
    "sources.chestxray14": "turn ChestX-ray14 images into hospitals and a test shard",
    "sources.chexpert": "turn CheXpert into a shard for pretraining, without labels",
    "sources.site": "turn a hospital's own DICOM, PNG or JPEG files into its shard",
    "inspect.check": "look for what would spoil a run, in a shard or between several",
    "inspect.show": "print the counts of shards, draw their shares and a contact sheet",
}
"""What each command does, by the module that holds its function ``command``."""


def _run(module: str, arguments: Sequence[str]) -> None:
    importlib.import_module(f"radiographs.{module}").command(arguments)


def _choose(arguments: Sequence[str]) -> None:
    commands = {
        module.rpartition(".")[2]: Command(text, partial(_run, module))
        for module, text in COMMANDS.items()
    }
    choose_command("flower-data", "Makes shards and looks at them.", commands, arguments)


def main() -> None:
    """Run ``flower-data`` and exit with its code."""
    sys.exit(run_command("flower-data", _choose))
