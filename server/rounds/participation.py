"""Options of who is in a round and when it ends, and what they fit with; needs no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.options import Training
from server.strategies.settings import NEEDS, StrategySettings

Sampling = Literal["uniform", "size"]
"""How a cohort is drawn; see :mod:`server.rounds.cohort`."""


class Participation(BaseModel):
    """Who is in a round; ``flower-server`` and ``config.json`` have these fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    fraction: float = Field(
        1.0, gt=0, le=1, description="share of the connected hospitals that a round asks"
    )
    sample: Sampling = Field(
        "uniform",
        description="of --fraction: who is asked; uniform: all as often, size: large hospitals "
        "more often",
    )
    rounds_end: int = Field(
        0,
        ge=0,
        description="end a round after so many valid replies; those that come later count in a "
        "later round, and less; 0: wait for all",
    )


def check_participation(
    chosen: Participation,
    settings: StrategySettings,
    training: Training,
    min_clients: int,
    needed: int,
) -> None:
    """Check that the options fit together.

    Args:
        chosen: Who is in a round.
        settings: What the server does with updates.
        training: What the hospitals do.
        min_clients: Hospitals that the run begins with.
        needed: Good replies that a round needs.

    Raises:
        ValueError: They do not; says why, and what to give.
    """
    if chosen.sample == "size":
        _check_size(chosen, settings, training)
    if chosen.rounds_end:
        _check_end(chosen, settings, training, min_clients, needed)


def _check_size(chosen: Participation, settings: StrategySettings, training: Training) -> None:
    name = settings.strategy
    if chosen.fraction == 1:
        raise ValueError("--sample size draws nobody while all are asked; give --fraction below 1")
    average = "" if settings.average == "weighted" else f" --average {settings.average}"
    what, why = f"--strategy {name}{average}", None
    if not settings.believes_claims:
        why = "all hospitals count the same in it"
    elif name in NEEDS:
        why = "its mean is uniform"
    elif ":" in name:
        why = "it may make anything of the numbers of examples"
    elif training.dp == "site":
        what, why = "--dp site", "its noise is for a mean in which all hospitals count the same"
    if why is not None:
        raise ValueError(
            f"--sample size asks large hospitals more often, which {what} does not make up for: "
            f"{why}; give --sample uniform"
        )


def _check_end(
    chosen: Participation,
    settings: StrategySettings,
    training: Training,
    min_clients: int,
    needed: int,
) -> None:
    end = chosen.rounds_end
    if settings.strategy in NEEDS:
        raise ValueError(
            f"--rounds-end counts replies to earlier models for less, and what hospitals correct "
            f"under --strategy {settings.strategy} belongs to one model; leave --rounds-end out"
        )
    if training.keeps_state:
        encoded = training.wire != "fp32"
        why = f"--wire {training.wire}" if encoded else f"--shared {training.shared}"
        raise ValueError(
            f"--rounds-end lets a reply count in a later round, and what a hospital keeps of its "
            f"own under {why} belongs to the round in which it trained; leave --rounds-end out"
        )
    if chosen.fraction < 1:
        raise ValueError(
            "--rounds-end leaves hospitals busy that a later round cannot draw, and --fraction "
            "draws from all that are there; give one of the two"
        )
    if end > min_clients:
        raise ValueError(
            f"--rounds-end {end} is more than --min-clients {min_clients}: a round would wait for "
            "hospitals that need not be there; give at most that, or a higher --min-clients"
        )
    if end < needed:
        raise ValueError(
            f"--rounds-end {end} is below the quorum of {needed} valid replies: no round would "
            "count; give at least that, or a lower --quorum"
        )
