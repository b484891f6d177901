"""How fast an update moves, so that hospitals of any size can be compared.

An update grows with the steps that a hospital takes: the largest of ten hospitals takes a hundred
times as many as the smallest, and its update is honestly longer. Its pace is not.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from common.options import Training
from common.state import STATISTICS, State, is_float
from server.run.records import Pace

STATISTICS_MOMENTUM = 0.1
"""Share of a batch in BatchNorm's running statistics, torch's default."""

WARNING = 10.0
"""Times the usual pace from which a warning is written, if no limit is set."""

FEWEST = 3
"""Of two updates none can be called the outlier."""


@np.errstate(over="ignore")
def squared_change(before: State, after: State) -> dict[str, float]:
    """Return the squared Euclidean norm of the change of each floating tensor of ``after``.

    Infinite if it is too large for a float32.
    """
    scratch = np.empty(max((array.size for array in after.values()), default=0), np.float32)
    squared = {}
    for name, array in after.items():
        if is_float(array):
            change = scratch[: array.size].reshape(array.shape)
            np.subtract(array, before[name], out=change)
            squared[name] = float(np.vdot(change, change))
    return squared


def norm_of(squared: Mapping[str, float]) -> float:
    """Return the norm of a whole update; see :func:`squared_change`."""
    return math.sqrt(sum(squared.values()))


def pace_of(squared: Mapping[str, float], training: Training, examples: int) -> Pace:
    """Return how fast an update moves.

    Args:
        squared: Its change; see :func:`squared_change`.
        training: How it was trained.
        examples: Images that it was trained on.
    """
    steps = training.steps(examples)
    parameters = {n: value for n, value in squared.items() if not n.endswith(STATISTICS)}
    running = {n: value for n, value in squared.items() if n.endswith(STATISTICS)}
    moved = 1 - (1 - STATISTICS_MOMENTUM) ** steps
    return Pace(
        parameters=norm_of(parameters) / training.effective_steps(steps),
        statistics=norm_of(running) / moved,
    )


def at_rate(pace: Pace, trained: float, rate: float) -> Pace:
    """Return the pace that an update would have had at another learning rate.

    At a rate that has fallen a hospital would otherwise be compared with what is usual at a higher
    one.

    Args:
        pace: Of the update.
        trained: The learning rate that it was trained with.
        rate: The other one.
    """
    return pace.model_copy(update={"parameters": pace.parameters * (rate / trained)})


def unusual(
    paces: Mapping[str, Pace], history: Mapping[str, Sequence[Pace]], limit: float
) -> dict[str, str]:
    """Return the updates that are far faster than others and than their hospital's own, and why.

    Args:
        paces: Of a round's updates, by the hospital's name.
        history: Of each hospital's updates that counted in earlier rounds.
        limit: How many times the median of the round, and of its own history, is too fast.
    """
    if len(paces) < FEWEST:
        return {}
    found = {}
    for measure in Pace.model_fields:
        middle = statistics.median(getattr(pace, measure) for pace in paces.values())
        for name, pace in paces.items():
            before = [getattr(earlier, measure) for earlier in history.get(name, ())]
            usual = max(middle, statistics.median(before) if before else 0.0)
            value = getattr(pace, measure)
            if usual and value > limit * usual:
                found[name] = (
                    f"its update moved the {measure} {value:.3g} a step, more than {limit:g} "
                    f"times the usual {usual:.3g}"
                )
    return found
