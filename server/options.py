"""Options that the commands share that hospitals connect to; imports no torch."""

from pathlib import Path

from pydantic import Field, model_validator

from common.net import LONGEST_SECONDS, Address
from common.options import Architecture
from common.runtime.cli import Settings
from common.runtime.logs import LogFormat
from common.shard import SMALLEST

PAPER_IMAGE_SIZE = 256


class ServingSettings(Settings):
    """Whom a server waits for, on which port, and what fits to it."""

    min_clients: int = Field(10, ge=1, description="hospitals to wait for before the first round")
    quorum: float | None = Field(
        None,
        gt=0,
        description="good replies that a round needs to count: up to 1 a share of --min-clients, "
        "above it a number; default: 0.8, and from three hospitals on at most all but one",
    )
    attempts: int = Field(3, ge=1, description="how often a round without a quorum is tried")
    round_timeout: float = Field(
        3600, gt=0, le=LONGEST_SECONDS, description="seconds that a round may take"
    )
    max_examples: int = Field(
        1_000_000,
        ge=1,
        le=2**24,
        description="turn away a hospital that announces more images; bounds its weight",
    )
    architecture: Architecture = Field("densenet121", description="densenet-tiny is for tests")
    image_size: int | None = Field(
        None,
        ge=SMALLEST,
        description=f"pixels of the shards' images; default: those of --test, or "
        f"{PAPER_IMAGE_SIZE}",
    )
    test: Path | None = Field(None, description="labelled shard to score every model on")
    listen: Address = Field("0.0.0.0:8080", description="HOST:PORT")
    tls: Path | None = Field(
        None,
        description="folder with ca.crt, server.crt, server.key and sites.json, made by "
        "flower-provision",
    )
    insecure: bool = Field(
        False, description="serve without encryption; any client may take part, by any name"
    )
    log_format: LogFormat = Field(
        "text", description="text, or json: an object on each line, for machines"
    )
    device: str = Field("auto", description="for --test: auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores")

    @model_validator(mode="after")
    def _one_way_to_serve(self) -> "ServingSettings":
        if (self.tls is None) != self.insecure:
            raise ValueError("give either --tls DIR or --insecure")
        if (
            self.quorum is not None
            and self.quorum > 1
            and (self.quorum % 1 or self.quorum > self.min_clients)
        ):
            raise ValueError(
                f"--quorum {self.quorum:g} is neither a share up to 1 nor a whole number up to "
                f"--min-clients {self.min_clients}"
            )
        return self
