"""How a run is to go."""

import math
from dataclasses import dataclass, field

from common.options import Architecture, Training
from common.scores import MOST_IMAGES
from server.rounds.cohort import cohort_size
from server.rounds.participation import Participation
from server.rounds.schedule import ScheduleSettings, rate_of
from server.secure.options import SecureOptions
from server.strategies.settings import StrategySettings

USUAL_QUORUM = 0.8
"""Share of the hospitals that a round needs, if no quorum is given; from three hospitals on one may
be lost in any case."""


@dataclass(frozen=True)
class Plan:
    """How a run is to go; see the options of ``flower-server``."""

    run: str
    architecture: Architecture
    training: Training
    rounds: int
    min_clients: int
    quorum: float | None
    attempts: int
    strategy: StrategySettings
    norm_limit: float
    round_timeout: float
    seed: int
    share_model: bool = False
    early_stop: int = 0
    min_gain: float = 0.001
    canary: bool = False
    participation: Participation = field(default_factory=Participation)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    ema: float = 0
    secure: SecureOptions = field(default_factory=SecureOptions)
    most_films: int = MOST_IMAGES

    @property
    def one_model(self) -> bool:
        """Whether all hospitals have the same model; if not, none of the server's is whole."""
        return self.training.one_model

    def training_in(self, number: int) -> Training:
        """Return what hospitals train in a round, at its learning rate; 0: the canary."""
        rate = rate_of(self.schedule, self.training.lr, max(1, number), self.rounds)
        return self.training.model_copy(update={"lr": rate})

    @property
    def needed(self) -> int:
        """How many hospitals must be averaged for a round to count."""
        return quorum_of(self.quorum, self.min_clients, self.participation.fraction)


def quorum_of(quorum: float | None, min_clients: int, fraction: float = 1.0) -> int:
    """Return how many good replies a round needs to count.

    Args:
        quorum: A share of those that are asked of ``min_clients`` hospitals, or a number above 1;
            None: the usual one.
        min_clients: Hospitals that the run begins with.
        fraction: Of them that are asked.
    """
    asked = cohort_size(fraction, min_clients)
    if quorum is None:
        usual = math.ceil(USUAL_QUORUM * asked)
        return min(usual, asked - 1) if asked >= 3 else usual
    if quorum > 1:
        return int(quorum)
    return max(1, math.ceil(quorum * asked))
