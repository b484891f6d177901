"""``flower-data``: makes shards and looks at them."""

import importlib
import sys
from collections.abc import Sequence

from common.cli import run_command
from common.errors import BadInput

COMMANDS = {
    "synthetic": "write synthetic hospitals of procedural chest phantoms",
    "chestxray14": "turn ChestX-ray14 images into hospitals and a test shard",
    "chexpert": "turn CheXpert into a shard for pretraining, without labels",
    "site": "turn a hospital's own DICOM, PNG or JPEG files into its shard, without names",
    "check": "look for what would spoil a run, in a shard or between several",
    "show": "print the counts of shards, draw their shares and a contact sheet",
}
"""What each command does; the module of the same name has a function ``command``."""

HELP = "\n".join(
    [
        "usage: flower-data COMMAND [options]",
        "",
        "Makes shards and looks at them.",
        "",
        *(f"  {name:<12} {text}" for name, text in COMMANDS.items()),
        "",
        "flower-data COMMAND --help shows a command's options.",
    ]
)


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    name = arguments[0]
    if name not in COMMANDS:
        raise BadInput(f"{name!r} is not a command; one of {', '.join(COMMANDS)} (see --help)")
    importlib.import_module(f"common.data.{name}").command(arguments[1:])


def main() -> None:
    """Run ``flower-data`` and exit with its code."""
    sys.exit(run_command("flower-data", _dispatch))
