"""``flower-export``: a model as a file for other programs, with metadata and a model card."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.runtime.cli import Settings, parse, run_command
from common.runtime.logs import log_to_stderr
from common.shard import SMALLEST


class ExportSettings(Settings):
    """Write a model for other programs, beside it its metadata and a model card."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_EXPORT_", cli_prog_name="flower-export")

    model: CliPositionalArg[Path] = Field(
        description="a run's folder, or a checkpoint such as its best.pt"
    )
    out: Path = Field(
        description="FILE.pt or FILE.safetensors: torchvision's weights; FILE.onnx: films in, "
        "probabilities out. FILE.json and FILE.md are written beside it"
    )
    size: int | None = Field(
        None,
        ge=SMALLEST,
        description="pixels along each side of the films that the model was trained on; default: "
        "what the run tells",
    )
    head: Literal["keep"] | None = Field(
        None,
        description="keep: the 14 outputs of another tool's model are ChestX-ray14's findings",
    )
    force: bool = Field(False, description="replace files that are there already")


def _export(arguments: Sequence[str]) -> None:
    settings = parse(ExportSettings, arguments)
    # Importing torch takes seconds; --help and errors in arguments come first.
    from predict.export import export

    log_to_stderr(settings.debug)
    for path in export(
        settings.model, settings.out, settings.size, settings.head, force=settings.force
    ):
        print(path)


def main() -> None:
    """Run ``flower-export`` and exit with its code."""
    sys.exit(run_command("flower-export", _export))
