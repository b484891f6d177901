"""Honest hospitals of any size beside poisoned ones: who is found unusual."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.options import Training
from common.state import State
from radiographs.write.partition import random_sizes
from server.rounds.pace import WARNING, pace_of, squared_change, unusual
from server.rounds.progress import Progress
from server.run.records import Pace
from tests.support.records import HOSPITAL, round_record

TRAINING = Training()
FILMS = 86_524
"""For training in ChestX-ray14's official split."""

Floats = npt.NDArray[np.float64]


@given(st.integers(1, 40), st.floats(0, 0.99), st.floats(0, 0.9))
def test_effective_steps_are_what_torchs_sgd_goes(steps: int, momentum: float, pull: float) -> None:
    weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=momentum)
    for _ in range(steps):
        weight.grad = torch.ones_like(weight) + 2 * pull * weight.detach()  # of mu / 2 |w|^2
        optimizer.step()
    training = Training(lr=0.5, momentum=momentum, local="fedprox", mu=2 * pull)
    assert training.effective_steps(steps) == pytest.approx(-weight.item() / 0.5)


def trained(rng: np.random.Generator, films: int, rounds: int) -> Iterator[tuple[State, State]]:
    """Yield what an honest hospital receives and returns, round by round.

    Its loss is quadratic around an optimum of its own. A step's gradient is that of a batch, so it
    is the noisier the fewer films there are. Batches move running statistics towards its own.
    """
    optimum, weights = rng.normal(size=200), np.zeros(200)
    mean, own_mean = np.zeros(20), rng.normal(1, 0.3, 20)
    batch = min(films, TRAINING.batch_size)
    steps = -(-films // TRAINING.batch_size)
    for _ in range(rounds):
        before = weights.copy(), mean.copy()
        speed = np.zeros(200)
        for _ in range(min(steps, 3000)):
            gradient = weights - optimum + rng.normal(size=200) * 4 / np.sqrt(batch)
            speed = TRAINING.momentum * speed + gradient
            weights = weights - TRAINING.lr * speed
            noisy = own_mean + rng.normal(size=20) / np.sqrt(batch)
            mean = 0.9 * mean + 0.1 * noisy
        yield _state(*before), _state(weights, mean)
        weights, mean = 0.9 * before[0] + 0.1 * weights, 0.5 * (before[1] + mean)  # the average


def _state(weights: Floats, mean: Floats) -> State:
    return {"w.weight": weights.astype(np.float32), "n.running_mean": mean.astype(np.float32)}


def poisoned(before: State, after: State, factor: float) -> State:
    return {n: np.asarray(before[n] - factor * (a - before[n]), a.dtype) for n, a in after.items()}


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32), st.sampled_from([30.0, 100.0]))
def test_no_honest_hospital_is_unusual_and_a_poisoned_one_is(seed: int, factor: float) -> None:
    """The sizes are those that the paper's partition draws for the real films."""
    sizes = random_sizes(FILMS, 10, seed).tolist()
    sizes[seed % 10] = 1 + seed % 70  # a tiny one is honest too
    rng = np.random.default_rng(seed)
    hospitals = [trained(rng, films, rounds=2) for films in sizes]
    history: dict[str, list[Pace]] = {}
    for _ in range(2):
        updates = {str(i): next(hospital) for i, hospital in enumerate(hospitals)}
        paces = {
            name: pace_of(squared_change(*updates[name]), TRAINING, films)
            for name, films in zip(updates, sizes, strict=True)
        }
        assert unusual(paces, history, WARNING) == {}
        bad = str(int(np.argsort(sizes)[5]))
        before, after = updates[bad]
        change = squared_change(before, poisoned(before, after, factor))
        faster = pace_of(change, TRAINING, sizes[int(bad)])
        assert unusual({**paces, bad: faster}, history, WARNING).keys() == {bad}
        for name, pace in paces.items():
            history.setdefault(name, []).append(pace)


def pace(parameters: float) -> Pace:
    return Pace(parameters=parameters, statistics=0.0)


def test_earlier_rounds_count_at_the_rate_of_this_one() -> None:
    a = HOSPITAL.model_copy(update={"pace": Pace(parameters=20.0, statistics=3.0)})
    rates = (0.1, 0.01, None)
    records = [round_record(n, lr=lr, hospitals={"a": a}) for n, lr in enumerate(rates, start=1)]
    found = Progress.of(records, []).paces_at(0.01)["a"]
    assert [each.parameters for each in found] == pytest.approx([2.0, 20.0, 20.0])
    assert [each.statistics for each in found] == [3.0] * 3
    assert found[1] == a.pace


def test_a_hospital_is_compared_with_the_round_and_with_itself() -> None:
    paces = {"a": pace(1.0), "b": pace(2.0), "c": pace(3.0), "d": pace(26.0)}
    assert list(unusual(paces, {}, 10)) == ["d"]
    assert "parameters 26 a step, more than 10 times the usual 2.5" in unusual(paces, {}, 10)["d"]
    assert unusual(paces, {"d": [pace(20.0), pace(26.0), pace(2.0)]}, 10) == {}
    assert list(unusual(paces, {"d": [pace(2.0)]}, 10)) == ["d"]
    assert unusual({"a": pace(1.0), "d": pace(100.0)}, {}, 10) == {}
    assert unusual({"a": pace(0.0), "b": pace(0.0), "d": pace(100.0)}, {}, 10) == {}
