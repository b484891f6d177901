"""``flower-audit``: checks that nothing was changed in an audit log."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.audit import chain
from common.cli import Settings, parse, run_command
from common.errors import BadInput

HELP = """usage: flower-audit verify FILE... [--head HASH]

Checks the hash chain of audit logs, a server's RUN/audit.jsonl or a client's.

flower-audit verify --help shows its options."""


class VerifySettings(Settings):
    """Check that no line of an audit log was altered, removed or put in."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_AUDIT_", cli_prog_name="flower-audit verify"
    )

    files: CliPositionalArg[list[Path]] = Field(min_length=1, description="audit logs")
    head: str | None = Field(
        None, description="hash that one line must have; shows whether the end was cut off"
    )


def _verify(arguments: Sequence[str]) -> None:
    settings = parse(VerifySettings, arguments)
    found = settings.head is None
    for file in settings.files:
        number, last = 0, "no line"
        try:
            for number, last in chain(file):  # noqa: B007 - the last ones are told
                found = found or last == settings.head
        except OSError as error:
            raise BadInput(f"{file}: {error.strerror}") from None
        print(f"{file}: {number} lines, unbroken, the last one's hash {last}")
    if not found:
        raise BadInput(
            f"no line has the hash {settings.head}; the end was cut off, or it is another log"
        )


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    if arguments[0] != "verify":
        raise BadInput(f"{arguments[0]!r} is not a command; there is verify (see --help)")
    _verify(arguments[1:])


def main() -> None:
    """Run ``flower-audit`` and exit with its code."""
    sys.exit(run_command("flower-audit", _dispatch))
