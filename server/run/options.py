"""All options of a run that hospitals or models depend on, each declared by its own part."""

from common.options import Training
from server.rounds.average import AverageSettings
from server.rounds.participation import Participation
from server.rounds.schedule import ScheduleSettings
from server.secure.options import SecureOptions
from server.strategies.settings import StrategySettings


class RunOptions(
    Training,
    StrategySettings,
    Participation,
    ScheduleSettings,
    AverageSettings,
    SecureOptions,
):
    """What ``flower-server`` and ``config.json`` have in common."""
