import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secure.fixed import (
    BESIDE,
    LOSS_RANGE,
    OutOfRange,
    from_words,
    length,
    precision,
    to_words,
)
from common.secure.halves import rounding
from common.secure.settings import SecureSettings
from common.state import State, is_float, is_parameter
from tests.support.states import slow_mean

SETTINGS = SecureSettings(clip=4.0, films=1000, total=3000, threshold=2 / 3)

RNG = np.random.default_rng(0)
"""Rounds nothing where parameters have a word each."""

PARAMETER, MEAN, VARIANCE, COUNTER = (
    "features.conv0.weight",
    "features.norm0.running_mean",
    "features.norm0.running_var",
    "features.norm0.num_batches_tracked",
)


def state_of(seed: int, scale: float = 1.0) -> State:
    rng = np.random.default_rng(seed)
    return {
        PARAMETER: (scale * rng.standard_normal((3, 5))).astype(np.float32),
        MEAN: (scale * rng.standard_normal(4)).astype(np.float32),
        VARIANCE: (rng.random(4) * 9).astype(np.float32),
        COUNTER: np.array(7),
    }


def changed(before: State, seed: int) -> State:
    change = state_of(seed, 0.5)
    after = {name: before[name] + change[name] for name in (PARAMETER, MEAN)}
    return {**before, **after, VARIANCE: change[VARIANCE], COUNTER: np.array(99)}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=3, max_size=20),
    st.integers(0, 1000),
    st.floats(1.0, 1000.0),
)
def test_the_mean_is_as_precise_as_is_said(films: list[int], seed: int, slack: float) -> None:
    total = math.ceil(sum(films) * slack)
    chosen = SETTINGS.model_copy(update={"total": total})
    before = state_of(seed)
    afters = [changed(before, seed + i) for i in range(len(films))]
    losses = [0.1 * i for i in range(len(films))]
    words = np.zeros(length(before, SETTINGS), np.uint32)
    for after, count, loss in zip(afters, films, losses, strict=True):
        words += to_words(before, after, count, loss, chosen, RNG)
    mean = from_words(words, before, len(films), chosen)
    expected = slow_mean(list(zip(afters, films, strict=True)))
    assert mean.films == sum(films)
    off = precision(PARAMETER, len(films), sum(films), chosen) / chosen.clip * LOSS_RANGE
    weighted = sum(c * loss for c, loss in zip(films, losses, strict=True)) / sum(films)
    assert abs(mean.loss - weighted) <= off + 1e-9
    for name in (PARAMETER, MEAN, VARIANCE):
        most = precision(name, len(films), sum(films), chosen)
        rounding = np.spacing(np.abs(expected[name])) + 1e-9
        assert (np.abs(mean.state[name] - expected[name]) <= most + rounding).all(), name
    assert mean.state[COUNTER] == 7
    assert mean.state[PARAMETER].dtype == np.float32


def test_in_half_words_the_mean_is_near_and_the_rest_exact() -> None:
    films, before = [300, 500, 200], state_of(1)
    chosen = SETTINGS.model_copy(update={"total": 1100, "rotation": 3})
    whole = chosen.model_copy(update={"rotation": None})
    means = []
    for each in (chosen, whole):
        words = np.zeros(length(before, each), np.uint32)
        for i, count in enumerate(films):
            words += to_words(before, changed(before, i), count, 0.5, each, RNG)
        means.append(from_words(words, before, 3, each))
    near, exact = means
    assert (near.films, near.loss) == (exact.films, exact.loss)
    for name in (MEAN, VARIANCE, COUNTER):
        assert (near.state[name] == exact.state[name]).all()
    off = np.abs(near.state[PARAMETER] - exact.state[PARAMETER]).max()
    assert 0 < off < 3 * rounding(chosen.clip) * 1.1


def test_fifty_hospitals_of_a_known_size_lose_less_than_float32_does() -> None:
    """What docs/secure-aggregation.md states."""
    chosen = SETTINGS.model_copy(update={"clip": 10.0, "total": 50_000})
    assert precision(PARAMETER, 10, 50_000, chosen) < 4.7e-8
    assert precision(MEAN, 10, 50_000, chosen) < 4.8e-6
    assert precision(PARAMETER, 10, 50_000, chosen.model_copy(update={"total": 10**7})) < 9.4e-6


def test_a_longer_change_is_clipped() -> None:
    before, after = state_of(1), changed(state_of(1), 2)
    after[PARAMETER] = before[PARAMETER] + np.float32(3.0)
    words = to_words(before, after, 10, 0.5, SETTINGS, RNG)
    mean = from_words(words, before, 1, SETTINGS)
    assert mean.norm == pytest.approx(SETTINGS.clip, rel=1e-6)
    change = mean.state[PARAMETER] - before[PARAMETER]
    assert np.allclose(change, SETTINGS.clip / math.sqrt(15), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (PARAMETER, np.nan, "the change of its parameters is not finite"),
        (PARAMETER, np.inf, "the change of its parameters is not finite"),
        (MEAN, np.nan, f"tensor {MEAN} has changed by more than 1024, or is not finite"),
        (VARIANCE, 2000.0, f"tensor {VARIANCE} has changed by more than 1024, or is not finite"),
    ],
)
def test_what_has_no_place_in_a_sum_is_refused_where_it_is_made(
    name: str, value: float, said: str
) -> None:
    before = state_of(1)
    after = {**before, name: before[name].copy()}
    after[name].flat[1] = value
    with pytest.raises(OutOfRange, match=said):
        to_words(before, after, 10, 0.5, SETTINGS, RNG)


def test_more_films_than_a_hospital_may_have_count_as_so_many() -> None:
    """A refusal would tell the server how many there are, by trial and error."""
    before, after = state_of(1), changed(state_of(1), 2)
    most, more = (to_words(before, after, films, 0.5, SETTINGS, RNG) for films in (1000, 1700))
    assert (most == more).all()


def test_a_sum_that_would_overflow_is_known_by_its_films() -> None:
    before = state_of(1)
    after = {**before, PARAMETER: before[PARAMETER] + np.float32(1.0)}
    chosen = SETTINGS.model_copy(update={"total": 1000})
    words = np.zeros(length(before, SETTINGS), np.uint32)
    for _ in range(2):
        words += to_words(before, after, 950, 0.5, chosen, RNG)
    assert from_words(words, before, 2, chosen).films == 1900
    words += to_words(before, after, 950, 0.5, chosen, RNG)
    with pytest.raises(OutOfRange, match="the sum is of 2850 films, too many for 1000 in all"):
        from_words(words, before, 3, chosen)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([None, 7]))
def test_a_sum_with_masks_that_are_left_is_none(seed: int, rotation: int | None) -> None:
    chosen = SETTINGS.model_copy(update={"rotation": rotation})
    before = {name: array for name, array in state_of(1).items() if is_float(array)}
    assert [is_parameter(name) for name in before] == [True, False, False]
    words = np.random.default_rng(seed).integers(0, 2**32, length(before, chosen), np.uint32)
    words[0] = 3000
    with pytest.raises(OutOfRange):
        from_words(words, before, 3, chosen)


def test_rounding_makes_no_variance_negative() -> None:
    before = state_of(1)
    before[VARIANCE][:] = 1e-7
    after = {**before, VARIANCE: np.zeros(4, np.float32)}
    words = sum(to_words(before, after, count, 0.5, SETTINGS, RNG) for count in (3, 5, 7))
    assert isinstance(words, np.ndarray)
    statistics = slice(BESIDE, BESIDE + 8)
    words[statistics] -= np.uint32(1)
    assert (from_words(words, before, 3, SETTINGS).state[VARIANCE] == 0).all()
