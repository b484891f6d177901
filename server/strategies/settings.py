"""Options of what the server does with updates, and what can be combined; needs no torch."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from common.options import CLASS_PATTERN, LocalName, StrategyChoice, StrategyName, Training

Average = Literal["weighted", "clipped", "trimmed-mean", "median"]
"""How updates are averaged before the server takes a step along the mean."""

STEPS: dict[StrategyName, dict[str, float]] = {
    "fedavgm": {"server_lr": 1.0, "server_momentum": 0.9},
    "fedadagrad": {"server_lr": 0.01, "server_momentum": 0.0, "tau": 1e-3},
    "fedadam": {"server_lr": 0.01, "server_momentum": 0.9, "beta2": 0.99, "tau": 1e-3},
    "fedyogi": {"server_lr": 0.01, "server_momentum": 0.9, "beta2": 0.99, "tau": 1e-3},
}
"""Strategies that take a step of the server's own, with their settings' defaults: Hsu et al. 2019
for FedAvgM, Reddi et al. 2021, section 5, for the others."""

ROBUST = ("clipped", "trimmed-mean", "median")
"""Averages and strategies that withstand a few hospitals that lie."""

NEEDS: dict[StrategyName, LocalName] = {"scaffold": "scaffold", "feddyn": "feddyn"}
"""What hospitals must do under a strategy; others leave it to them."""

TOO_LATE: dict[str, str] = {
    **dict.fromkeys(
        NEEDS,
        "its corrections are of what travels, and what travels rounds late is corrected many times "
        "over",
    ),
    **dict.fromkeys(
        ("median", "trimmed-mean"),
        "each hospital sends other weights, and what only a few of them send is left out",
    ),
    "fedavgm": "its momentum goes on adding up changes that come rounds late, and leaps too far",
}
"""Strategies and averages that learn nothing, or diverge, where changes travel rounds late."""


class Step(NamedTuple):
    """Settings of the server's own step; those that a strategy does not have are 0."""

    lr: float
    momentum: float
    beta2: float
    tau: float


class StrategySettings(BaseModel):
    """What the server does with updates; ``flower-server`` and ``config.json`` have these fields.

    Raises:
        ValueError: A setting is given that the strategy does not have.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    strategy: StrategyChoice = Field(
        "fedavg",
        description="how replies are combined; clipped, trimmed-mean and median withstand a few "
        "that are poisoned; package.module:Class is a strategy of Flower's interface",
    )
    strategy_args: dict[str, JsonValue] = Field(
        {}, description="of a strategy package.module:Class: NAME=VALUE for its constructor"
    )
    average: Average = Field(
        "weighted",
        description="of fedavgm, fedadagrad, fedadam and fedyogi: what the server's step goes "
        "along; of package.module:Class: how BatchNorm's statistics are averaged",
    )
    dp_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of --dp site: let --dp-clip follow this quantile of the updates' norms; "
        "default: it stays",
    )
    server_lr: float | None = Field(
        None, gt=0, description="the server's step; default: 1 of fedavgm, 0.01 of the others"
    )
    server_momentum: float | None = Field(
        None, ge=0, lt=1, description="of the server's step; default: 0.9, 0 of fedadagrad"
    )
    beta2: float | None = Field(
        None, ge=0, lt=1, description="of fedadam and fedyogi: decay of squares; default: 0.99"
    )
    tau: float | None = Field(
        None,
        gt=0,
        description="of fedadagrad, fedadam and fedyogi: the smaller, the more each weight has a "
        "rate of its own; default: 0.001",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Write down the settings that the strategy has by default, and refuse those of others."""
        if not isinstance(values, Mapping):
            return values
        name = cast(StrategyName, values.get("strategy", "fedavg"))
        known = STEPS.get(name, {})
        names = {setting for settings in STEPS.values() for setting in settings}
        for setting in sorted(names - known.keys()):
            if values.get(setting) is not None:
                has = ", ".join(each for each, settings in STEPS.items() if setting in settings)
                raise ValueError(
                    f"--{setting.replace('_', '-')} is a setting of {has}, and --strategy is "
                    f"{name}; leave it out"
                )
        given = {key: value for key, value in values.items() if value is not None}
        local = {"local": NEEDS[name]} if name in NEEDS and "local" in cls.model_fields else {}
        return {**known, **local, **given}

    @field_validator("strategy", mode="before")
    @classmethod
    def _is_known(cls, value: object) -> object:
        names = get_args(StrategyName)
        if value not in names and not re.match(CLASS_PATTERN, str(value)):
            raise ValueError(f"must be {', '.join(names)}, or package.module:Class")
        return value

    @property
    def believes_claims(self) -> bool:
        """Whether a hospital counts by the examples and the validation images that it claims."""
        return self.strategy not in ROBUST and self.average not in ROBUST

    @property
    def step(self) -> Step:
        """The server's own step, filled in for all strategies that take one."""
        return Step(
            self.server_lr or 0.0, self.server_momentum or 0.0, self.beta2 or 0.0, self.tau or 0.0
        )


def check_combination(settings: StrategySettings, training: Training) -> None:
    """Check that strategy, average and local training fit together.

    Raises:
        ValueError: They do not; says why, and what to give.
    """
    name, local = settings.strategy, training.local
    _check_dp(settings, training)
    _check_local(name, training)
    _check_wire(settings, training)
    if settings.strategy_args and ":" not in name:
        raise ValueError(
            f"--strategy-args are of a strategy package.module:Class, and --strategy is {name}; "
            "leave them out"
        )
    needed = NEEDS.get(cast(StrategyName, name))
    if needed is not None and local != needed:
        raise ValueError(
            f"--strategy {name} is made of what the server and the hospitals do: it needs --local "
            f"{needed}, not {local}; leave --local out"
        )
    if needed is None and local in NEEDS.values():
        raise ValueError(
            f"--local {local} needs the server's part of it, which --strategy {name} does not do; "
            f"give --strategy {local}"
        )
    if settings.average == "weighted" or name in STEPS or ":" in name:
        return
    reasons = {
        "fednova": "it divides each update by its hospital's steps and needs all of them",
        "scaffold": "its control variates cancel in the plain mean alone",
        "feddyn": "its regularisers cancel in the plain mean alone",
        "fedavg": f"a run with that average and no step of the server's is --strategy "
        f"{settings.average}",
    }
    why = reasons.get(name, "it is an average itself")
    raise ValueError(f"--average {settings.average} does not fit --strategy {name}: {why}")


def _check_wire(settings: StrategySettings, training: Training) -> None:
    """Check that the strategy can wait for what travels late.

    Raises:
        ValueError: It cannot.
    """
    name = settings.strategy
    average = settings.average if name in STEPS else name
    for option, value in (("strategy", name), ("average", average)):
        if training.wire == "topk" and value in TOO_LATE:
            raise ValueError(
                f"--wire topk does not fit --{option} {value}: {TOO_LATE[value]}; give --wire int8 "
                "or bf16"
            )


def _check_local(strategy: str, training: Training) -> None:
    """Check that no setting is given of a method that hospitals do not train by.

    Raises:
        ValueError: One is.
    """
    for setting, local, remedy in (
        ("mu", "fedprox", "--local fedprox"),
        ("alpha", "feddyn", "--strategy feddyn"),
    ):
        given = getattr(training, setting) != Training.model_fields[setting].default
        if given and training.local != local:
            give = "" if setting == "mu" and strategy in NEEDS else f"give {remedy}, or "
            raise ValueError(
                f"--{setting} is a setting of {local}, and hospitals train by {training.local}; "
                f"{give}leave --{setting} out"
            )


def _check_dp(settings: StrategySettings, training: Training) -> None:
    """Check that ``--dp`` fits what the server does.

    Raises:
        ValueError: It does not.
    """
    name = settings.strategy
    if settings.dp_quantile is not None and training.dp != "site":
        raise ValueError(
            f"--dp-quantile is a setting of --dp site, and --dp is {training.dp}; leave it out"
        )
    if training.dp != "site":
        return
    if name != "fedavg" and name not in STEPS:
        fits = ", ".join(["fedavg", *STEPS])
        raise ValueError(
            f"--strategy {name} does not fit --dp site: its noise is for the plain mean of "
            f"shortened updates; give {fits}"
        )
    if settings.average != "weighted":
        raise ValueError(
            f"--average {settings.average} does not fit --dp site, which is an average itself; "
            "leave it out"
        )
