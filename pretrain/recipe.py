"""All settings of a pretraining; :mod:`pretrain.presets` has their values."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.options import Architecture, Precision
from common.views import Share, Views

MethodName = Literal["mocov2", "simclr", "byol", "rotation"]
PresetName = Literal["cxr", "paper", "upstream"]

REFERENCE_BATCH = 256
"""Learning rates are given for this batch and scaled linearly (Goyal et al. 2017, section 2.1)."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MoCoSettings(_Settings):
    """MoCo-v2 (Chen et al. 2020): a queue of keys and a slow key encoder."""

    name: Literal["mocov2"] = "mocov2"
    queue: int = Field(65_536, ge=1, description="keys kept as negatives, over all GPUs")
    ema: Share = Field(0.999, description="momentum of the key encoder")
    temperature: float = Field(0.2, gt=0)
    dim: int = Field(128, ge=1, description="width of an embedding")
    key_group: int = Field(32, ge=2, description="keys per normalised group, at most half")

    def key_groups(self, part: int) -> int:
        """Return the number of groups, at least 2, for the keys of ``part`` images.

        Raises:
            ValueError: The keys cannot be split into equal groups.
        """
        wanted = max(2, part // self.key_group)
        groups = [n for n in range(2, wanted + 1) if part % n == 0 and part // n > 1]
        if not groups:
            raise ValueError(
                f"{part} images cannot be cut into groups for the keys' BatchNorm; change "
                "--batch-size"
            )
        return groups[-1]


class SimCLRSettings(_Settings):
    """SimCLR (Chen et al. 2020): the other images of the batch are the negatives."""

    name: Literal["simclr"] = "simclr"
    temperature: float = Field(0.1, gt=0)
    dim: int = Field(128, ge=1, description="width of an embedding")


class BYOLSettings(_Settings):
    """BYOL (Grill et al. 2020): predicts a slow target network, without negatives."""

    name: Literal["byol"] = "byol"
    ema: Share = Field(0.99, description="momentum of the target at the start; ends at 1")
    hidden: int = Field(4096, ge=1, description="hidden width of projector and predictor")
    dim: int = Field(256, ge=1, description="width of a projection")


class RotationSettings(_Settings):
    """Rotation (Gidaris et al. 2018): classifies 0, 90, 180 and 270 degrees."""

    name: Literal["rotation"] = "rotation"


MethodSettings = MoCoSettings | SimCLRSettings | BYOLSettings | RotationSettings


class OptimizerSettings(_Settings):
    """The optimiser and its learning rate: linear warm-up, then a cosine to 0."""

    name: Literal["sgd", "lars"] = "sgd"
    lr: float = Field(0.05, gt=0, description=f"at batch {REFERENCE_BATCH}, scaled with the batch")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    decay_all: bool = Field(True, description="apply weight decay to BatchNorm and biases too")
    warm_up: float = Field(0.0, ge=0, lt=1, description="share of all steps")


class Recipe(_Settings):
    """All settings that decide the result of a pretraining, except the images."""

    preset: PresetName
    method: MethodSettings = Field(discriminator="name")
    views: tuple[Views, ...] = Field(description="one for each view of an image")
    optimizer: OptimizerSettings
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(
        256, ge=2, description="images per step over all GPUs; for rotation: rotated copies"
    )
    accumulate: int = Field(1, ge=1, description="parts of a batch, computed one after the other")
    image_size: int = Field(224, ge=32, description="pixels along each side of a view")
    architecture: Architecture = "densenet121"
    init: str = Field("random", description="random, imagenet or a checkpoint")
    precision: Precision = "fp32"
    seed: int = Field(0, ge=0)

    @property
    def copies(self) -> int:
        """Network inputs per view: 4 for rotation, else 1."""
        return 4 if self.method.name == "rotation" else 1

    @property
    def images_per_step(self) -> int:
        """Images per step, over all GPUs, before rotation."""
        return self.batch_size // self.copies

    @property
    def lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.optimizer.lr * self.batch_size / REFERENCE_BATCH

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        self.part(1)
        if isinstance(self.method, MoCoSettings) and self.method.queue % self.batch_size:
            raise ValueError(
                f"the queue of {self.method.queue} keys is not a multiple of the batch of "
                f"{self.batch_size}; change --queue or --batch-size"
            )
        return self

    def part(self, processes: int) -> int:
        """Return the number of images that one process computes at a time.

        Raises:
            ValueError: The batch cannot be split equally between processes and parts.
        """
        cuts = processes * self.accumulate * self.copies
        # At least two images: BatchNorm cannot normalise a single one.
        if self.batch_size % cuts or self.batch_size < 2 * cuts:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be cut into {cuts} ({processes} processes x "
                f"{self.accumulate} parts x {self.copies} rotations) with 2 or more images each; "
                "change --batch-size"
            )
        part = self.batch_size // cuts
        if isinstance(self.method, MoCoSettings):
            self.method.key_groups(part)
        return part
