"""``flower-audit``: checks that audit logs were not changed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.audit import verify
from common.runtime.cli import Command, Settings, choose_command, parse, run_command


class VerifySettings(Settings):
    """Check that no line of a log was changed, moved, inserted or removed."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_AUDIT_", cli_prog_name="flower-audit verify"
    )

    logs: CliPositionalArg[list[Path]] = Field(min_length=1, description="audit logs")
    head: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="hash of a line that the log must have; detects an end that was cut off",
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


COMMANDS = {"verify": Command("check that no line of a log was changed, moved or removed", _verify)}


def _choose(arguments: Sequence[str]) -> None:
    choose_command("flower-audit", "Checks that audit logs were not changed.", COMMANDS, arguments)


def main() -> None:
    """Run ``flower-audit`` and exit with its code."""
    sys.exit(run_command("flower-audit", _choose))
