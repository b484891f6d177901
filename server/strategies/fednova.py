"""FedNova: updates as long as if all hospitals had taken the same number of steps.

A hospital with more films takes more steps, so that FedAvg's mean pulls towards its optimum by more
than its share of the films. With a_i, how far hospital i's steps go along a unit gradient, p_i, its
share of the films, and a = sum of p_i a_i::

    x' = x + a * sum of p_i (y_i - x) / a_i

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020, equations 6 and 12; section 4.1 has the a_i of momentum and of a proximal term. What
hospitals returned of BatchNorm's statistics and counters is averaged as in FedAvg.
"""

from common.options import Training
from common.state import State, parameters_of
from server.strategies.base import (
    RoundInfo,
    Strategy,
    UpdateInfo,
    Updates,
    part_of_the_way,
    weighted_mean,
)


class FedNova(Strategy):
    """The mean of updates that are normalised by their hospitals' steps."""

    def combine(self, before: State, updates: Updates, about: RoundInfo) -> State:
        """Return the normalised mean."""
        infos = updates.infos
        steps = {name: _steps(info, about.training) for name, info in infos.items()}
        total = sum(info.weight for info in infos.values())

        def factor(name: str) -> float:
            """Return a / a_i, exactly 1 if all hospitals took the same steps."""
            own = steps[name]
            return sum(info.weight * (steps[n] / own) for n, info in infos.items()) / total

        terms = (
            (_normalised(before, update.weights, factor(update.name)), update.info.weight)
            for update in updates
        )
        return weighted_mean(before, terms)


def _steps(info: UpdateInfo, training: Training) -> float:
    """Return a hospital's a_i, which under a proximal term depends on the learning rate."""
    if info.lr is not None:
        training = training.model_copy(update={"lr": info.lr})
    return training.effective_steps(training.steps(info.examples))


def _normalised(before: State, after: State, factor: float) -> State:
    return after | part_of_the_way(before, parameters_of(after), factor)
