"""``flower-data``: makes shards and looks at them."""

import sys
from collections.abc import Callable, Sequence

from common.cli import run_command
from common.errors import BadInput


def _synthetic(arguments: Sequence[str]) -> None:
    from common.data import synthetic

    synthetic.command(arguments)


def _chestxray14(arguments: Sequence[str]) -> None:
    from common.data import chestxray14

    chestxray14.command(arguments)


def _show(arguments: Sequence[str]) -> None:
    from common.data import show

    show.command(arguments)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "synthetic": (_synthetic, "write synthetic hospitals of procedural chest phantoms"),
    "chestxray14": (_chestxray14, "turn ChestX-ray14 images into hospitals and a test shard"),
    "show": (_show, "print the counts of shards and draw a contact sheet"),
}

HELP = "\n".join(
    [
        "usage: flower-data COMMAND [options]",
        "",
        "Makes shards and looks at them.",
        "",
        *(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items()),
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
    COMMANDS[name][0](arguments[1:])


def main() -> None:
    """Run ``flower-data`` and exit with its code."""
    sys.exit(run_command("flower-data", _dispatch))
