"""Who pulls away: the direction of each hospital's update against that of the round."""

import math

import numpy as np

from common.state import State, is_float, parameters_of
from server.strategies.base import Updates


@np.errstate(over="ignore", invalid="ignore")
def cosines(before: State, after: State, updates: Updates) -> dict[str, float | None]:
    """Return the cosine of each update to the change that the round made, by the hospital's name.

    Under ``fedavg`` that change is the mean update. Parameters alone count, not BatchNorm's
    statistics. None where nothing moved. Reads the updates once; products are
    summed in float32 within a tensor and in float64 over them, which costs the cosine about 1e-6.

    Source: Sattler, Müller and Samek, "Clustered Federated Learning", IEEE TNNLS 2020, section II.

    Args:
        before: What was sent.
        after: What the strategy made of the updates.
        updates: The good ones.
    """
    steps = {
        name: (after[name] - array).ravel()
        for name, array in parameters_of(before).items()
        if is_float(array)
    }
    length = math.sqrt(sum(float(step @ step) for step in steps.values()))
    scratch = np.empty(max((step.size for step in steps.values()), default=0), np.float32)

    def cosine_of(weights: State) -> float | None:
        along = squared = 0.0
        for name, step in steps.items():
            change = np.subtract(weights[name].ravel(), before[name].ravel(), scratch[: step.size])
            along += float(change @ step)
            squared += float(change @ change)
        whole = math.sqrt(squared) * length
        cosine = along / whole if whole else math.nan
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None

    return {update.name: cosine_of(update.weights) for update in updates}
