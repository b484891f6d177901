"""``flower-watch``: shows a run as it goes, from its folder or from the server's address."""

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.live import Live

from common.net import Address
from common.runtime.cli import Settings, Stopped, parse, run_command
from server.run.snapshot import Snapshot
from server.watch.drawing import text
from server.watch.lines import changes
from server.watch.source import Source, Unreachable, folder_source, server_source
from server.watch.view import Picture

SECONDS = 1.0
"""Between two looks."""


class WatchSettings(Settings):
    """Show a run as it goes: rounds, what each hospital does, how good the models are."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_WATCH_", cli_prog_name="flower-watch")

    run: CliPositionalArg[Path | None] = Field(None, description="the run's folder")
    server: Address | None = Field(
        None, description="instead of a folder: HOST:PORT of the server's --metrics"
    )
    findings: bool = Field(False, description="also the AUC of each finding by round")
    once: bool = Field(False, description="show one picture and end")

    @model_validator(mode="after")
    def _one_source(self) -> "WatchSettings":
        if (self.run is None) == (self.server is None):
            raise ValueError("give either RUN, the run's folder, or --server HOST:PORT")
        return self

    @property
    def source(self) -> Source:
        """Where the run comes from."""
        if self.server is not None:
            return server_source(self.server)
        assert self.run is not None  # noqa: S101 - the one or the other
        return folder_source(self.run)


class Watched:
    """A run that is looked at again and again; a server that does not answer is asked again.

    Args:
        source: Of the run.

    Attributes:
        run: As it was last.
        notice: Why it is not newer; empty: it is as new as can be.

    Raises:
        BadInput: There is no such run.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.run = source()
        self.notice = ""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, so that nothing changes any more."""
        return self.run.state not in ("running", "waiting")

    def look(self) -> None:
        """Look again after a while.

        Raises:
            BadInput: The run cannot be read any more.
        """
        time.sleep(SECONDS)
        try:
            self.run, self.notice = self._source(), ""
        except Unreachable as error:
            self.notice = f"{error}; asked again every second"


def draw(watched: Watched, console: Console, findings: bool) -> None:
    """Redraw the picture until the run is over; the last one stays."""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not watched.is_over:
                live.update(Picture(watched.run, findings, watched.notice), refresh=True)
                watched.look()
    finally:
        console.print(Picture(watched.run, findings, watched.notice))


def print_lines(watched: Watched, console: Console) -> None:
    """Print a line for each change until the run is over."""
    before: Snapshot | None = None
    notice = ""
    while True:
        lines = [*changes(before, watched.run)] if before != watched.run else []
        if watched.notice != notice:
            lines.append(watched.notice or "it answers again")
        for line in lines:
            stamp = f"{watched.run.time.astimezone():%H:%M:%S}"
            console.print(text(f"{stamp} {line}"), soft_wrap=True)
        sys.stdout.flush()
        if watched.is_over:
            return
        before, notice = watched.run, watched.notice
        watched.look()


def _watch(arguments: Sequence[str]) -> None:
    settings = parse(WatchSettings, arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that have ASCII alone
    console = Console(highlight=False)
    watched = Watched(settings.source)
    try:
        if settings.once:
            console.print(Picture(watched.run, settings.findings))
        elif console.is_terminal and not console.is_dumb_terminal:
            draw(watched, console, settings.findings)
        else:
            print_lines(watched, console)
    except Stopped as stopped:  # as people end it; there is nothing to say
        sys.exit(stopped.exit_code)


def main() -> None:
    """Run ``flower-watch`` and exit with its code."""
    sys.exit(run_command("flower-watch", _watch))
