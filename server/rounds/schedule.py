"""The hospitals' learning rate from round to round; needs no torch.

The rate of a round follows from the options, the round and the number of rounds alone. It goes out
with the instruction, so that hospitals know nothing of schedules.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

from common.runtime.cli import split_commas

ScheduleName = Literal["constant", "cosine", "steps"]

FACTOR = 0.1

Numbers = Annotated[
    list[Annotated[int, Field(ge=1)]],
    NoDecode,
    BeforeValidator(split_commas),
]
"""Whole numbers, separated by commas."""


class ScheduleSettings(BaseModel):
    """How the learning rate goes; ``flower-server`` and ``config.json`` have these fields.

    Raises:
        ValueError: The settings do not fit together.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    schedule: ScheduleName = Field(
        "constant", description="of the learning rate over the rounds, from --lr on"
    )
    warmup: int = Field(0, ge=0, description="rounds in which the learning rate grows to --lr")
    lr_steps: Numbers = Field(
        [], description="of --schedule steps: rounds after which the rate falls, such as 20,40"
    )
    lr_factor: float = Field(
        FACTOR, gt=0, lt=1, description="of --schedule steps: what each step multiplies the rate by"
    )

    @model_validator(mode="after")
    def _steps_fit(self) -> "ScheduleSettings":
        if self.schedule == "steps":
            if not self.lr_steps:
                raise ValueError("--schedule steps: at which rounds? Give --lr-steps 20,40")
            if self.lr_steps != sorted(set(self.lr_steps)):
                given = ",".join(map(str, self.lr_steps))
                raise ValueError(f"--lr-steps {given}: give each round once, in rising order")
            return self
        if self.lr_steps or self.lr_factor != FACTOR:
            option = "--lr-steps" if self.lr_steps else "--lr-factor"
            raise ValueError(
                f"{option} is of --schedule steps, and --schedule is {self.schedule}; leave it "
                "out, or give --schedule steps"
            )
        return self

    def check_rounds(self, rounds: int) -> None:
        """Check that the warm-up ends within a run.

        Raises:
            ValueError: It does not.
        """
        if self.warmup >= rounds:
            raise ValueError(
                f"--warmup {self.warmup}: the run has {rounds} rounds, and --lr would never be "
                f"reached; give less than {rounds}, or more --rounds"
            )

    @property
    def schedule_in_words(self) -> str:
        """What the learning rate does; empty if it stays as it is."""
        text = {
            "constant": "",
            "cosine": "falling as a cosine",
            "steps": f"times {self.lr_factor:g} after round "
            f"{', '.join(str(step) for step in self.lr_steps)}",
        }[self.schedule]
        warm = f"after {self.warmup} rounds of warm-up" if self.warmup else ""
        return ", ".join(filter(None, (warm, text)))


def rate_of(settings: ScheduleSettings, lr: float, number: int, rounds: int) -> float:
    """Return the learning rate of a round, above 0.

    ::

        warm-up of W rounds    lr number / (W + 1)
        cosine                 lr (1 + cos(pi (number - W - 1) / (rounds - W))) / 2
        steps                  lr factor^(steps that lie before the round)

    The warm-up is that of Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2; the
    cosine that of Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Args:
        settings: Of the run.
        lr: The highest rate.
        number: Of the round, from 1.
        rounds: Of the run.
    """
    if number <= settings.warmup:
        return lr * number / (settings.warmup + 1)
    if settings.schedule == "cosine":
        done = (number - settings.warmup - 1) / (rounds - settings.warmup)
        return lr * (1 + math.cos(math.pi * done)) / 2
    if settings.schedule == "steps":
        return lr * settings.lr_factor ** sum(number > step for step in settings.lr_steps)
    return lr
