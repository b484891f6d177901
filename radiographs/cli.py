"""``flower-data``: makes and inspects shards."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from common.runtime.cli import Command, choose_command, run_command

COMMANDS = {
    "sources.synthetic": "write synthetic hospitals of procedural chest phantoms",
    "sources.chestxray14": "turn ChestX-ray14 images into hospitals and a test shard",
    "sources.chexpert": "turn CheXpert into a shard for pretraining, or into hospitals",
    "sources.mimic": "turn MIMIC-CXR-JPG into a shard for pretraining, or into hospitals",
    "sources.site": "turn a hospital's own DICOM, PNG or JPEG files into its shard",
    "write.join": "make one shard of several, such as a hospital's earlier and later films",
    "inspect.check": "find problems that would spoil a run, within a shard and between shards",
    "inspect.show": "print the count of each finding; draw the shares and a contact sheet",
}
"""Help text by module; each module has a function ``command``."""


def _run(module: str, arguments: Sequence[str]) -> None:
    importlib.import_module(f"radiographs.{module}").command(arguments)


def _choose(arguments: Sequence[str]) -> None:
    commands = {
        module.rpartition(".")[2]: Command(text, partial(_run, module))
        for module, text in COMMANDS.items()
    }
    choose_command("flower-data", "Makes and inspects shards.", commands, arguments)


def main() -> None:
    """Run ``flower-data`` and exit with its code."""
    sys.exit(run_command("flower-data", _choose))
