"""``flower-report``: one HTML page on a run or several, for people who were not there.

It needs nothing from elsewhere: styles and drawings are in the page.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput
from common.runtime.cli import Settings, parse, run_command
from common.runtime.files import write_whole


class ReportSettings(Settings):
    """Write a page on a run, or on several side by side: how good the model is, who took part."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_REPORT_", cli_prog_name="flower-report")

    runs: CliPositionalArg[list[Path]] = Field(
        min_length=1, description="the runs' folders; differences are to the first one"
    )
    out: Path = Field(description="HTML file; one that is there is replaced")
    figures: Path | None = Field(
        None, description="folder for every figure as PNG and PDF, and its numbers as CSV"
    )


def write_report(runs: Sequence[Path], out: Path, figures: Path | None = None) -> None:
    """Write the page, and the figures if a folder is given.

    Raises:
        BadInput: There is no such run, it has no round or is damaged, or a file cannot be written.
    """
    from server.report.page import chapters_of, files_in, page_of, read_runs

    chapters = chapters_of(read_runs(runs))
    _write(out, page_of(chapters).encode(), "--out another file")
    if figures is None:
        return
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{figures}: {error.strerror}; give --figures another folder") from None
    for name, content in files_in(chapters):
        _write(figures / name, content, "--figures another folder")


def _write(path: Path, content: bytes, instead: str) -> None:
    try:
        write_whole(path, partial(_put, content))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give {instead}") from None


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _report(arguments: Sequence[str]) -> None:
    settings = parse(ReportSettings, arguments)
    write_report(settings.runs, settings.out, settings.figures)
    print(settings.out)


def main() -> None:
    """Run ``flower-report`` and exit with its code."""
    sys.exit(run_command("flower-report", _report))
