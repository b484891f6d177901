"""Chances and cohorts, against enumeration: every order and every start of the sampling."""

import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.rounds.cohort import chances_by_size, cohort_size, draw, systematic
from server.strategies.base import UpdateInfo

SIZES = st.lists(st.integers(1, 10**6), min_size=2, max_size=12)


def hospitals(sizes: list[int]) -> dict[str, int]:
    return {f"h{i}": size for i, size in enumerate(sizes)}


def slow_chances(sizes: dict[str, int], count: int) -> dict[str, Fraction]:
    """Return the chances: one certain hospital after another, the largest first."""
    chances: dict[str, Fraction] = {}
    left = Fraction(count)
    names = sorted(sizes, key=lambda name: -sizes[name])
    for i, name in enumerate(names):
        share = left * sizes[name] / sum(sizes[other] for other in names[i:])
        if share < 1:
            total = sum(sizes[other] for other in names[i:])
            return chances | {other: left * sizes[other] / total for other in names[i:]}
        chances[name], left = Fraction(1), left - 1
    return chances


@given(sizes=SIZES, data=st.data())
def test_chances_are_those_of_the_slow_reference_and_add_up(
    sizes: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(sizes) - 1))
    chances = chances_by_size(hospitals(sizes), count)
    assert chances == slow_chances(hospitals(sizes), count)
    assert sum(chances.values()) == count
    assert max(chances.values()) <= 1


def starts(chances: list[Fraction]) -> list[tuple[Fraction, Fraction]]:
    """Return starts between which the same are drawn, each with how likely it is."""
    ends = [sum(chances[: i + 1], Fraction(0)) for i in range(len(chances))]
    edges = sorted({Fraction(0), Fraction(1), *(end - math.floor(end) for end in ends)})
    return [((a + b) / 2, b - a) for a, b in pairwise(edges)]


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [5, 3, 1, 1], [100, 3, 2, 1], [9, 8, 1, 1, 1]])
def test_by_size_each_is_drawn_as_often_as_its_chance_and_the_sum_is_unbiased(
    sizes: list[int],
) -> None:
    named, count = hospitals(sizes), 2
    chances, orders = chances_by_size(named, count), list(permutations(named))
    values = {name: Fraction(7 * i - 3) for i, name in enumerate(named)}
    drawn: defaultdict[str, Fraction] = defaultdict(Fraction)
    together: set[tuple[str, ...]] = set()
    expected = Fraction(0)
    for order in orders:
        lengths = [chances[name] for name in order]
        for start, likely in starts(lengths):
            found = sorted(order[i] for i in systematic(lengths, start))
            assert len(found) == count
            likely /= len(orders)
            for name in found:
                drawn[name] += likely
            together.add(tuple(found))
            expected += likely * sum(named[name] * values[name] / chances[name] for name in found)
    assert drawn == chances
    assert expected == sum(named[name] * values[name] for name in named)
    certain = {name for name in named if chances[name] == 1}
    pairs = [pair for pair in combinations(named, 2) if certain <= set(pair)]
    assert sorted(together) == sorted(pairs), "every pair that may be is drawn at times"


@pytest.mark.parametrize("how", ["uniform", "size"])
def test_over_many_rounds_frequencies_and_the_weighted_sum_are_right(how: str) -> None:
    named = hospitals([400, 300, 200, 60, 30, 10])
    rounds, frequencies, sums = 4000, Counter[str](), []
    for number in range(rounds):
        chances = draw(named, 0.5, how, 1, 7, number, 1)  # type: ignore[arg-type]
        frequencies.update(chances.keys())
        infos = {name: UpdateInfo(named[name], 0.0, chance) for name, chance in chances.items()}
        sums.append(sum(info.weight for info in infos.values()))
    true = chances_by_size(named, 3) if how == "size" else dict.fromkeys(named, Fraction(1, 2))
    for name, chance in true.items():
        spread = math.sqrt(float(chance * (1 - chance)) / rounds)
        assert frequencies[name] / rounds == pytest.approx(float(chance), abs=4 * spread + 1e-9)
    # By size the chances are in the weights; uniform ones are left out, for they cancel.
    scale = 1.0 if how == "size" else 2.0
    assert scale * np.mean(sums) == pytest.approx(1000, rel=0.02)


@settings(max_examples=50)
@given(
    sizes=SIZES,
    fraction=st.floats(0.01, 1),
    least=st.integers(1, 15),
    how=st.sampled_from(["uniform", "size"]),
)
def test_a_cohort_is_as_large_as_asked_and_a_function_of_seed_round_and_attempt(
    sizes: list[int], fraction: float, least: int, how: str
) -> None:
    named = hospitals(sizes)

    def cohort(number: int, attempt: int) -> dict[str, float]:
        shuffled = dict(sorted(named.items(), key=lambda item: item[1]))
        return draw(shuffled, fraction, how, least, 3, number, attempt)  # type: ignore[arg-type]

    found = cohort(1, 1)
    assert list(found) == sorted(found)
    assert len(found) == min(len(named), max(least, math.ceil(round(fraction * len(named), 9))))
    assert all(0 < chance <= 1 for chance in found.values())
    assert found == cohort(1, 1) == draw(named, fraction, how, least, 3, 1, 1)  # type: ignore[arg-type]
    if 1 < len(found) < len(named) and how == "uniform":
        others = {tuple(cohort(n, a)) for n in range(1, 30) for a in (1, 2)}
        assert len(others) > 1


def test_a_repeated_attempt_draws_anew() -> None:
    named = hospitals([10] * 8)
    first, second = (
        {tuple(draw(named, 0.5, "uniform", 1, 5, number, attempt)) for number in range(1, 6)}
        for attempt in (1, 2)
    )
    assert not first & second


@pytest.mark.parametrize(
    ("fraction", "there", "size"), [(0.07, 100, 7), (0.1, 30, 3), (0.5, 5, 3), (0.01, 3, 1)]
)
def test_a_share_is_rounded_up_and_not_by_what_floats_leave(
    fraction: float, there: int, size: int
) -> None:
    assert cohort_size(fraction, there) == size
