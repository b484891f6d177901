"""The options of ``flower-predict``; imports no torch."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.net import Address, split_address
from common.runtime.cli import Settings
from common.shard import SMALLEST
from predict.tables import TableFormat
from radiographs.read.chest import Wanted
from radiographs.read.site_labels import finding_named
from radiographs.read.view import Views
from radiographs.sources.word_options import ViewWords, Words, chest_words, view_words

HeatmapFormat = Literal["png", "dicom"]

Finding = Annotated[str, AfterValidator(finding_named)]


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class PredictSettings(Settings):
    """Give each of the 14 findings a probability on chest films. Not a medical device."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_PREDICT_",
        cli_prog_name="flower-predict",
    )

    model: CliPositionalArg[Path] = Field(
        description="a checkpoint, such as final.pt of a run, or a run's folder"
    )
    images: CliPositionalArg[list[Path]] = Field(
        [], description="DICOM, PNG or JPEG files, or folders of them"
    )
    out: Path | None = Field(None, description="file for the probabilities; default: stdout")
    format: TableFormat = Field("csv", description="of the probabilities")
    heatmap: Path | None = Field(None, description="folder for a Grad-CAM heat map of each film")
    heatmap_format: HeatmapFormat = Field(
        "png", description="PNG, or DICOM Secondary Capture for DICOM and other films"
    )
    finding: Finding | None = Field(
        None, description="whose heat map; default: the most probable of each film"
    )
    serve: Address | None = Field(
        None, description="HOST:PORT of a page in the browser to try the model"
    )
    serve_anyone: bool = Field(
        False, description="let other machines use the page: it has neither password nor encryption"
    )
    views: Views = Field("frontal", description="projections to take")
    body_part: Words = Field(
        [], description="more words or codes for the chest, separated by commas"
    )
    view_of: ViewWords = Field(
        [],
        description="what words or codes for views mean, separated by commas: WORD=frontal, "
        "WORD=lateral or WORD=other",
    )
    size: int | None = Field(
        None,
        ge=SMALLEST,
        description="pixels along each side of the films that the model was trained on; default: "
        "what the run tells, else 256",
    )
    head: Literal["keep"] | None = Field(
        None,
        description="keep: the 14 outputs of another tool's model are ChestX-ray14's findings",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    workers: int = Field(1, ge=0, description="decoding processes; 0: one for each core")
    force: bool = Field(False, description="replace files that are there already")

    @property
    def wanted(self) -> Wanted:
        """Which films are taken."""
        return Wanted(self.views, chest_words(self.body_part), view_words(self.view_of))

    @model_validator(mode="after")
    def _films_or_page(self) -> "PredictSettings":
        if self.serve is None and not self.images:
            raise ValueError("IMAGES is required: name films or a folder, or give --serve")
        if self.serve is not None and self.images:
            raise ValueError("--serve takes no IMAGES: films are given in the browser")
        if self.serve is not None and not self.serve_anyone and not _is_loopback(self.serve):
            raise ValueError(
                f"--serve {self.serve}: other machines could use the page, which has neither "
                "password nor encryption; give 127.0.0.1:PORT, or --serve-anyone"
            )
        if self.serve is not None and (self.out or self.heatmap):
            raise ValueError("--serve writes no files: leave out --out and --heatmap")
        if self.heatmap is None and self.serve is None and self.finding is not None:
            raise ValueError("--finding is for --heatmap")
        return self
