"""``flower-audit``: checks that audit logs were not changed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.audit import verify
from common.cli import Settings, parse, run_command
from common.errors import BadInput


class VerifySettings(Settings):
    """Check that no line of a log was changed, moved, put in or taken out."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_AUDIT_", cli_prog_name="flower-audit verify"
    )

    logs: CliPositionalArg[list[Path]] = Field(min_length=1, description="audit logs")
    head: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="hash of a line that must be in the log; finds an end that was cut off",
    )

    @model_validator(mode="after")
    def _one_log_with_head(self) -> "VerifySettings":
        if self.head is not None and len(self.logs) > 1:
            raise ValueError("--head goes with one log")
        return self


def _verify(arguments: Sequence[str]) -> None:
    settings = parse(VerifySettings, arguments)
    for path in settings.logs:
        number, sha256 = verify(path, settings.head)
        print(f"{path}: {number} lines, unbroken, last {sha256}")


COMMANDS = {"verify": ("check that no line of a log was changed, moved or taken out", _verify)}
"""What each command does, and its function."""

HELP = "\n".join(
    [
        "usage: flower-audit COMMAND [options]",
        "",
        "Checks that audit logs were not changed.",
        "",
        *(f"  {name:<12} {text}" for name, (text, _) in COMMANDS.items()),
        "",
        "flower-audit COMMAND --help shows a command's options.",
    ]
)


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    name = arguments[0]
    if name not in COMMANDS:
        raise BadInput(f"{name!r} is not a command; one of {', '.join(COMMANDS)} (see --help)")
    _, command = COMMANDS[name]
    command(arguments[1:])


def main() -> None:
    """Run ``flower-audit`` and exit with its code."""
    sys.exit(run_command("flower-audit", _dispatch))
