"""What a model takes and returns, for programs that use its weights without this project."""

from pydantic import BaseModel, ConfigDict, Field

from common.findings import FINDINGS
from common.images import CROP
from common.model import CHANNELS, GREY_MEAN, GREY_STD


class ModelInput(BaseModel):
    """The entry ``input`` of a checkpoint; the defaults are what every model here is trained on.

    A film is a square of 8-bit grey values x, stretched and not padded. The model takes
    (x / 255 - mean) / std, the same in all channels, and returns a logit for each finding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float = GREY_MEAN
    std: float = GREY_STD
    channels: int = CHANNELS
    crop: float = Field(CROP, description="side of the central crop, as a share of the film's")
    findings: list[str] = Field(list(FINDINGS), description="of the outputs, in their order")
