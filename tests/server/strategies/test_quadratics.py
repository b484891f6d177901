"""What hospitals and the server do together, on losses whose joint optimum is known.

Hospital i has the loss 1/2 h_i (w - b_i)^2: its gradient steps pull towards b_i. With several
steps a round, FedAvg ends beside the optimum of the sum; corrected methods end on it.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from client.local import LOCAL
from common.options import StrategyName, Training
from common.state import State
from server.strategies import make_strategy
from server.strategies.base import RoundInfo
from server.strategies.settings import StrategySettings
from tests.support.updates import HeldUpdates

CPU = torch.device("cpu")
CURVATURES = (0.5, 2.0, 1.0)
OPTIMA = (-1.0, 3.0, 6.0)


class Run(NamedTuple):
    """Where all ends, and what each hospital is left with."""

    weight: float
    own: list[State]


def federate(
    strategy: StrategyName,
    rounds: int,
    films: tuple[int, ...],
    joins: tuple[int, ...] = (1, 1),
    **changes: object,
) -> Run:
    """Run rounds of hospitals by the product's own classes.

    Args:
        strategy: The server's.
        rounds: How many.
        films: Of each hospital.
        joins: First round of each hospital.
        changes: To the training.
    """
    combining = StrategySettings.model_validate({"strategy": strategy})
    local = {"scaffold": "scaffold", "feddyn": "feddyn"}.get(strategy, "sgd")
    training = Training.model_validate({"lr": 0.1, "batch_size": 1, "local": local, **changes})
    server = make_strategy(combining)
    state: State = {"w.weight": np.zeros(1, np.float32)}
    own: list[State] = [{} for _ in films]
    for number in range(1, rounds + 1):
        replies = {}
        for i, (h, b, n) in enumerate(zip(CURVATURES, OPTIMA, films, strict=False)):
            if number < joins[i]:
                continue
            method = LOCAL[training.local](training, state, server.sends(state), own[i], CPU)
            weight = torch.nn.Parameter(torch.from_numpy(state["w.weight"].copy()))
            optimizer = torch.optim.SGD([weight], lr=training.lr, momentum=training.momentum)
            steps = training.steps(n)
            for _ in range(steps):
                weight.grad = h * (weight.detach() - b)
                method.correct({"w.weight": weight})
                optimizer.step()
            after = {"w.weight": weight.detach().numpy()}
            own[i] = method.learned(after, steps)
            replies[f"hospital-{i}"] = (after, n)
        about = RoundInfo(number, training, len(replies))
        state = server.combine(state, HeldUpdates(replies), about)
    return Run(float(state["w.weight"][0]), own)


def joint(weights: tuple[float, ...]) -> float:
    """Return the optimum of the sum of the losses, each with its weight."""
    pulls = [p * h for p, h in zip(weights, CURVATURES, strict=False)]
    return float(np.average(OPTIMA[: len(weights)], weights=pulls))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_scaffold_reaches_the_joint_optimum_where_fedavg_does_not(momentum: float) -> None:
    alike = {"films": (8, 8), "momentum": momentum}
    scaffold = federate("scaffold", 200, **alike)  # type: ignore[arg-type]
    fedavg = federate("fedavg", 200, **alike)  # type: ignore[arg-type]
    assert scaffold.weight == pytest.approx(joint((1, 1)), abs=1e-4)
    assert abs(fedavg.weight - joint((1, 1))) > 0.1
    for own, h, b in zip(scaffold.own, CURVATURES, OPTIMA, strict=False):
        gradient = h * (scaffold.weight - b)
        assert own["w.weight"][0] == pytest.approx(gradient, abs=1e-3)


def test_scaffold_counts_all_hospitals_the_same() -> None:
    run = federate("scaffold", 300, films=(2, 12), momentum=0)
    assert run.weight == pytest.approx(joint((1, 1)), abs=1e-4)


def test_feddyn_reaches_the_joint_optimum() -> None:
    run = federate("feddyn", 300, films=(20, 20), momentum=0, alpha=1)
    assert run.weight == pytest.approx(joint((1, 1)), abs=1e-3)


@pytest.mark.parametrize("strategy", ["scaffold", "feddyn"])
def test_a_hospital_that_joins_late_counts_like_the_others(strategy: StrategyName) -> None:
    run = federate(strategy, 400, (20, 20, 20), (1, 1, 4), momentum=0, alpha=1)
    assert run.weight == pytest.approx(joint((1, 1, 1)), abs=1e-3)


def test_fednova_weighs_by_films_alone_where_fedavg_weighs_by_steps_too() -> None:
    # So small a rate that a round is its steps along the gradient at its start.
    settings = {"films": (4, 16), "lr": 1e-3, "momentum": 0.9}
    fednova = federate("fednova", 2000, **settings)  # type: ignore[arg-type]
    fedavg = federate("fedavg", 2000, **settings)  # type: ignore[arg-type]
    right = joint((4, 16))
    assert fednova.weight == pytest.approx(right, abs=0.02)
    assert abs(fedavg.weight - right) > 5 * abs(fednova.weight - right)


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_fedprox_holds_back_by_the_square_of_the_distance(mu: float) -> None:
    run = federate("fedavg", 1, films=(3, 3), momentum=0.5, local="fedprox", mu=mu)
    ends = []
    for h, b in zip(CURVATURES[:2], OPTIMA[:2], strict=True):
        w = speed = 0.0
        for _ in range(3):
            # The derivative of 1/2 h (w - b)^2 + mu / 2 (w - 0)^2.
            speed = 0.5 * speed + h * (w - b) + mu * w
            w -= 0.1 * speed
        ends.append(w)
    assert run.weight == pytest.approx(np.mean(ends), abs=1e-6)
    plain = federate("fedavg", 1, films=(3, 3), momentum=0.5)
    assert (run.weight == plain.weight) == (mu == 0)
