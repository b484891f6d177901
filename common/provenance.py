"""Where a checkpoint's weights came from; imports no torch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from common.accounting import Privacy
from common.options import LocalName, Part


class Provenance(BaseModel):
    """The origin of a checkpoint's weights; fields that do not apply are null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(
        description="random, imagenet, the federated strategy or the pretraining method"
    )
    preset: str | None = None
    data: str | None = Field(None, description="SHA-256 of the data's manifest")
    source: str | None = Field(None, description="origin of the data, from its manifest")
    images: int | None = Field(None, description="number of images for pretraining")
    epochs: int | None = None
    settings: dict[str, Any] | None = Field(None, description="of the pretraining, or of the run")
    local: LocalName | None = Field(None, description="how hospitals trained in a federated run")
    shared: Part | None = Field(
        None, description="the part that hospitals shared; the rest is as it was sent out at first"
    )
    run: str | None = Field(None, description="the federated run")
    round: int | None = Field(None, description="the round of that run")
    init: str | None = Field(None, description="initial weights")
    start: "Provenance | None" = Field(None, description="provenance of the initial checkpoint")
    seed: int | None = None
    ema: float | None = Field(
        None, description="decay, if the weights are the moving average of a run's models"
    )
    privacy: Privacy | None = Field(None, description="of the run's training so far")
    taken: str | None = Field(None, description="what was taken of a file of another tool")
    versions: dict[str, str] = Field(default_factory=dict, description="of fedcxr, torch, ...")

    def describe(self) -> str:
        """Return method, preset, epochs, data and initial weights in one line, for a log."""
        text = self.method
        if self.local not in (None, "sgd", self.method):
            text += f" with {self.local}"
        if self.preset is not None:
            text += f" (preset {self.preset})"
        if self.epochs is not None:
            text += f", {self.epochs} epochs"
        if self.images is not None:
            text += f" on {self.images:,} images of {self.source}"
        if self.data is not None:
            text += f" (manifest {self.data[:12]})"
        if self.round is not None:
            text += f", round {self.round}"
        if self.ema is not None:
            text += f", moving average with decay {self.ema:g}"
        if self.privacy is not None:
            text += f", {self.privacy.describe()}"
        if self.taken is not None:
            text += f" ({self.taken})"
        if self.start is not None:
            text += f", from {self.start.describe()}"
        elif self.init not in (None, self.method):
            text += f", from {self.init}"
        return text
