"""Types of values that options, messages and files share; imports no torch."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Architecture = Literal["densenet121", "densenet-tiny"]
"""``densenet-tiny`` is for tests of everything except learning."""

Mode = Literal["finetune", "linear"]
"""``finetune`` trains all weights, ``linear`` only the head on a frozen backbone."""

Task = Literal["train", "evaluate"]
"""What a server may ask a hospital for; ``evaluate``: to score a model, no more."""

Precision = Literal["fp32", "bf16"]
"""``bf16`` computes networks under autocast; weights and losses stay in fp32."""

Part = Literal["all", "head", "backbone", "no-batchnorm"]
"""A part of the model; see :data:`common.state.SELECTORS`."""

HeadChoice = Literal["keep", "replace"]
"""What to do with the head of a checkpoint: keep it, or replace it by a random one."""

StrategyName = Literal[
    "fedavg",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "fednova",
    "scaffold",
    "feddyn",
    "clipped",
    "trimmed-mean",
    "median",
]
"""What the server does with what hospitals return; see :mod:`server.strategies`."""

CLASS_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"

FlowerClass = Annotated[str, StringConstraints(pattern=CLASS_PATTERN, max_length=200)]
"""``package.module:Class``, a strategy of Flower's interface."""

StrategyChoice = StrategyName | FlowerClass

Augment = Literal["none", "light", "unflipped"]
"""``unflipped`` is ``light`` without the flip: a chest in the mirror is another anatomy."""

LocalName = Literal["sgd", "fedprox", "scaffold", "feddyn"]
"""How hospitals train; see :mod:`client.local`."""


Wire = Literal["fp32", "bf16", "int8", "topk"]
"""How changes of the model travel; see :mod:`common.codec`."""

Dp = Literal["none", "sample", "site"]
"""Whose part in the model differential privacy bounds: nobody's, each film's, each hospital's."""

LEAST_NOISE = 0.3
"""Less noise, as a share of the clipping bound, has an epsilon that promises nothing."""

LEAST_CLIP, MOST_CLIP = 1e-3, 1e6
"""Between these the noise, a multiple of it, is a number in float32 beside what it hides."""


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
    local: LocalName = Field(
        "sgd", description="how hospitals train; scaffold and feddyn follow from --strategy"
    )
    mu: float = Field(0.01, ge=0, description="of --local fedprox: weight of the proximal term")
    alpha: float = Field(0.01, gt=0, description="of --local feddyn: weight of its regulariser")
    shared: Part = Field(
        "all",
        description="the part of the model that hospitals share; each keeps the rest for itself in "
        "its --state: no-batchnorm is FedBN, backbone leaves each its own head",
    )
    weight_decay: float = Field(0, ge=0, description="of the hospitals' SGD")
    clip_norm: float = Field(
        0, ge=0, description="longest gradient of a step, before --local corrects it; 0: any"
    )
    positive_weights: bool = Field(
        False,
        description="weigh each finding's positive films by the hospital's negatives for each",
    )
    augment: Augment = Field(
        "none",
        description="light: flip, rotate and jitter the films that hospitals train on; unflipped: "
        "the same without the flip",
    )
    mixup: float = Field(
        0,
        ge=0,
        description="alpha of mixup, which trains on mixed pairs of films with the mixture of "
        "their losses; 0: none",
    )
    wire: Wire = Field(
        "fp32",
        description="how the model travels: exactly, its changes rounded to bf16 or int8, or the "
        "largest 2 % of them alone",
    )
    dp: Dp = Field(
        "none",
        description="differential privacy: sample, of each film, by noise at the hospitals; site, "
        "of each hospital, by noise at the server; BatchNorm's statistics stay those of the first "
        "model",
    )
    dp_clip: float = Field(
        1.0,
        ge=LEAST_CLIP,
        le=MOST_CLIP,
        description="of --dp: longest gradient of a film, or longest update of a hospital; what is "
        "longer is shortened",
    )
    dp_noise: float = Field(
        1.0,
        ge=LEAST_NOISE,
        le=1e6,
        description="of --dp: standard deviation of the noise, as a multiple of --dp-clip",
    )

    @model_validator(mode="after")
    def _fits_dp(self) -> "Training":
        """Refuse what would let a film count beyond its own clipped gradient."""
        if self.dp != "sample":
            return self
        reasons = {
            "clip_norm": "each film's gradient is shortened already (--dp-clip)",
            "positive_weights": "the weights would tell how many films are positive",
            "mixup": "a film would be in the gradients of others",
        }
        for name, why in reasons.items():
            if getattr(self, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} does not fit --dp sample: {why}; leave it out"
                )
        if self.local in ("scaffold", "feddyn"):
            raise ValueError(
                f"--local {self.local} does not fit --dp sample: what it remembers of the films "
                "is not covered by the noise; give --local sgd or fedprox, and a --strategy such "
                "as fedavg"
            )
        if self.shared != "all":
            raise ValueError(
                f"--shared {self.shared} does not fit --dp sample: the noise is meant for a model "
                "that all share; give --shared all"
            )
        return self

    @model_validator(mode="after")
    def _stays_near(self) -> "Training":
        if self.local == "fedprox" and self.lr * self.mu >= 1:
            raise ValueError(
                f"--lr {self.lr:g} times --mu {self.mu:g} is not below 1: each step of --local "
                "fedprox would leap beyond the received model; give less of one"
            )
        return self

    @model_validator(mode="after")
    def _something_is_shared(self) -> "Training":
        if self.mode == "linear" and self.shared == "backbone":
            raise ValueError(
                "--mode linear trains the head alone and --shared backbone keeps it: nothing would "
                "be shared; give --mode finetune or another --shared"
            )
        return self

    @property
    def keeps_state(self) -> bool:
        """Whether a hospital keeps something of its own from round to round."""
        own_part = self.shared != "all" and self.mode == "finetune"
        return own_part or self.local in ("scaffold", "feddyn") or self.wire != "fp32"

    @property
    def one_model(self) -> bool:
        """Whether all hospitals have the same model; if not, none of the server's is whole."""
        return self.shared == "all" or self.mode == "linear"

    def effective_steps(self, steps: int) -> float:
        """Return how far so many steps go along one unit gradient, at learning rate 1.

        The sum of how often each step's gradient is in the change of the weights: Wang et al.,
        "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
        NeurIPS 2020, the norm of a_i in section 4.1, for momentum and a proximal term. Torch's
        momentum buffer begins with the first gradient.
        """
        pull = self.lr * self.mu if self.local == "fedprox" else 0.0
        moved = speed = 0.0
        for _ in range(steps):
            speed = self.momentum * speed + 1 - pull * moved
            moved += speed
        return moved

    def steps(self, images: int) -> int:
        """Return the optimiser's steps that a hospital takes in a round on so many images."""
        return self.local_epochs * math.ceil(images / self.batch_size)
