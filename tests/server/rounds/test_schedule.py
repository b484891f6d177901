import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.rounds.schedule import ScheduleName, ScheduleSettings, rate_of
from tests.support.hospitals import plan_of

RUNS = st.tuples(st.integers(2, 60), st.integers(0, 59)).filter(lambda run: run[1] < run[0])


def rates(settings: ScheduleSettings, rounds: int, lr: float = 0.1) -> list[float]:
    return [rate_of(settings, lr, number, rounds) for number in range(1, rounds + 1)]


@given(st.integers(1, 60), st.floats(1e-6, 10))
def test_by_default_every_round_has_the_rate_itself(rounds: int, lr: float) -> None:
    assert rates(ScheduleSettings(), rounds, lr) == [lr] * rounds
    plan = plan_of(rounds=rounds, lr=lr)
    assert all(plan.training_in(number) == plan.training for number in range(rounds + 1))


@given(RUNS, st.sampled_from(["constant", "cosine"]))
def test_the_rate_grows_evenly_and_then_falls(run: tuple[int, int], name: ScheduleName) -> None:
    rounds, warmup = run
    found = rates(ScheduleSettings(schedule=name, warmup=warmup), rounds)
    grown = [0.0, *found[: warmup + 1]]
    steps = [after - before for before, after in pairwise(grown)]
    assert steps == pytest.approx([0.1 / (warmup + 1)] * (warmup + 1))
    assert found[warmup] == pytest.approx(0.1)
    rest = found[warmup:]
    assert sorted(rest, reverse=True) == rest
    assert min(found) > 0
    assert max(found) <= 0.1
    if name == "cosine":  # symmetrical about one half of the rate
        assert [0.1 - rate for rate in rest[:0:-1]] == pytest.approx(rest[1:])
        assert rest[-1] == pytest.approx(0.05 * (1 - math.cos(math.pi / len(rest))))


@given(st.sets(st.integers(1, 50), min_size=1), st.floats(0.1, 0.9))
def test_each_step_multiplies_the_rates_after_it(steps: set[int], factor: float) -> None:
    settings = ScheduleSettings(schedule="steps", lr_steps=sorted(steps), lr_factor=factor)
    rate, expected = 0.1, []
    for number in range(1, 51):
        expected.append(rate)
        if number in steps:
            rate *= factor
    assert rates(settings, 50) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"lr_steps": [3]}, "--lr-steps is of --schedule steps"),
        ({"schedule": "cosine", "lr_factor": 0.5}, "--lr-factor is of --schedule steps"),
        ({"schedule": "steps"}, "Give --lr-steps"),
        ({"schedule": "steps", "lr_steps": "20,10"}, "--lr-steps 20,10: give each round once"),
        ({"schedule": "steps", "lr_steps": "10,10"}, "give each round once"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        ScheduleSettings.model_validate(values)


def test_a_warm_up_ends_before_the_run() -> None:
    ScheduleSettings(warmup=2).check_rounds(3)
    with pytest.raises(ValueError, match=r"--warmup 3: the run has 3 rounds.*less than 3"):
        ScheduleSettings(warmup=3).check_rounds(3)


def test_a_schedule_is_told_in_words() -> None:
    steps = ScheduleSettings.model_validate({"schedule": "steps", "lr_steps": "20, 40"})
    told = [ScheduleSettings(), ScheduleSettings(schedule="cosine", warmup=5), steps]
    assert [each.schedule_in_words for each in told] == [
        "",
        "after 5 rounds of warm-up, falling as a cosine",
        "times 0.1 after round 20, 40",
    ]
