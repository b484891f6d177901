"""Who is asked in a round: a cohort of the hospitals that are there, drawn anew each time.

``uniform`` draws without replacement, so that all have the same chance, which cancels in a mean.
``size`` draws with chances in proportion to the hospitals' examples, by systematic sampling: the
chances are laid end to end on a line, and whoever a point falls on is drawn, with the points 1
apart and the first one random (Madow, "On the Theory of Systematic Sampling, II", Annals of
Mathematical Statistics 1949). The order on the line is random too, or neighbours would never be
drawn together. A hospital whose chance would be 1 or more is certain, and the others share what is
left. The mean divides by the chances (:attr:`server.strategies.base.UpdateInfo.weight`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.seeds import generator
from server.rounds.ask import Connection
from server.rounds.participation import Sampling


@dataclass(frozen=True)
class Cohort:
    """Who is there at the beginning of an attempt, and who of them is drawn.

    Attributes:
        present: Connections by the hospital's name.
        chances: Of those who are drawn, each beside the others', by name.
    """

    present: Mapping[str, Connection]
    chances: Mapping[str, float]

    @classmethod
    def all_of(cls, present: Mapping[str, Connection]) -> "Cohort":
        """Return the cohort of all that are there."""
        return cls(present, dict.fromkeys(present, 1.0))


def cohort_size(fraction: float, hospitals: int) -> int:
    """Return how many hospitals a share of them are, rounded up."""
    return math.ceil(round(fraction * hospitals, 9))  # 0.07 * 100 is 7.000000000000001


def draw(
    examples: Mapping[str, int],
    fraction: float,
    how: Sampling,
    least: int,
    seed: int,
    number: int,
    attempt: int,
) -> dict[str, float]:
    """Return who is drawn, in the order of the names, each with its chance beside the others'.

    Args:
        examples: That the hospitals have announced, at least 1 each, by name.
        fraction: Of the hospitals that are drawn, rounded up.
        how: They are drawn.
        least: Hospitals to draw in any case, if there are so many.
        seed: The run's.
        number: The round's.
        attempt: At the round; each draws anew.
    """
    names = sorted(examples)
    count = max(cohort_size(fraction, len(names)), least)
    if count >= len(names):
        return dict.fromkeys(names, 1.0)
    rng = generator(seed, f"cohort, attempt {attempt}", number)
    order = [names[i] for i in rng.permutation(len(names))]
    if how == "uniform":
        return dict.fromkeys(sorted(order[:count]), 1.0)
    chances = chances_by_size(examples, count)
    drawn = systematic([chances[name] for name in order], Fraction(rng.random()))
    return {name: float(chances[name]) for name in sorted(order[i] for i in drawn)}


def chances_by_size(sizes: Mapping[str, int], count: int) -> dict[str, Fraction]:
    """Return chances in proportion to sizes, as far as none is above 1; they add up to ``count``.

    Args:
        sizes: At least 1 each, by name.
        count: Hospitals to be drawn, fewer than there are.
    """
    certain: set[str] = set()
    while True:
        left = count - len(certain)
        total = sum(size for name, size in sizes.items() if name not in certain)
        chances = {
            name: Fraction(1) if name in certain else Fraction(left * size, total)
            for name, size in sizes.items()
        }
        more = {name for name, chance in chances.items() if chance >= 1} - certain
        if not more:
            return chances
        certain |= more


def systematic(chances: Sequence[Fraction], start: Fraction) -> list[int]:
    """Return the positions on which a point falls, the first one ``start`` from the beginning.

    Args:
        chances: Lengths along the line, at most 1 each, that add up to a whole number.
        start: From 0 to below 1.
    """
    drawn, end = [], Fraction(0)
    for i, chance in enumerate(chances):
        before, end = end, end + chance
        if math.ceil(end - start) > math.ceil(before - start):
            drawn.append(i)
    return drawn
