"""Types of values that options, messages and files share; imports no torch."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Architecture = Literal["densenet121", "densenet-tiny"]
"""``densenet-tiny`` is for tests of everything except learning."""

Mode = Literal["finetune", "linear"]
"""``finetune`` trains all weights, ``linear`` only the head on a frozen backbone."""

Task = Literal["train", "evaluate"]
"""What a server may ask a hospital for; ``evaluate``: to score a model, no more."""

Precision = Literal["fp32", "bf16"]
"""``bf16`` computes networks under autocast; weights and losses stay in fp32."""

Part = Literal["all", "head", "backbone"]
"""A part of the model; see :data:`common.state.SELECTORS`."""

HeadChoice = Literal["keep", "replace"]
"""What to do with the head of a checkpoint: keep it, or replace it by a random one."""

StrategyName = Literal["fedavg", "clipped", "trimmed-mean", "median"]


class Training(BaseModel):
    """Settings of a hospital's training in a round.

    ``flower-server``'s options and ``config.json`` have these fields at the top level; the
    instruction to the hospitals has them in one field. Defaults are the paper's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mode: Mode = Field(
        "finetune", description="train all weights, or the head on a frozen backbone"
    )
    lr: float = Field(0.001, gt=0, description="learning rate of the hospitals' SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the hospitals' SGD")
    batch_size: int = Field(64, ge=1, description="images per step")
    local_epochs: int = Field(1, ge=1, description="epochs per round over a hospital's shard")
    label_fraction: float = Field(
        1.0, gt=0, le=1, description="share of its labels that a hospital uses"
    )

    def steps(self, images: int) -> int:
        """Return the optimiser's steps that a hospital takes in a round on so many images."""
        return self.local_epochs * math.ceil(images / self.batch_size)
