"""Who pulls away: the direction of each hospital's update against that of the round."""

import math

import numpy as np

from common.state import State, is_float, parameters_of
from server.run.spool import SpooledUpdates


@np.errstate(over="ignore", invalid="ignore")
def cosines(before: State, after: State, updates: SpooledUpdates) -> dict[str, float | None]:
    """Return the cosine of each update to the change that the round made, by the hospital's name.

    Under ``fedavg`` that change is the mean update. Parameters alone count, not BatchNorm's
    statistics. None where nothing moved. Reads the updates once, a tensor at a time; products are
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
    along, squared = dict.fromkeys(updates.infos, 0.0), dict.fromkeys(updates.infos, 0.0)
    for hospital, name, weights in updates.tensors(steps):
        change = (weights - before[name]).ravel()
        along[hospital] += float(change @ steps[name])
        squared[hospital] += float(change @ change)
    found: dict[str, float | None] = {}
    for hospital in updates.infos:
        whole = math.sqrt(squared[hospital]) * length
        cosine = along[hospital] / whole if whole else math.nan
        found[hospital] = max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None
    return found
