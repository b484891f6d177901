"""Who masks with whom: all with all, or with a few drawn ones where the hospitals are many.

Up to :data:`COMPLETE` hospitals each masks with each other one, as in Bonawitz et al., "Practical
Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017. Beyond, hospitals stand in a
circle in an order drawn by (seed, round, attempt), and each masks with the k nearest ones: Bell et
al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, section 3, with
k = O(log n).
"""

import math
from collections.abc import Collection

from common.secure.settings import FEWEST
from common.seeds import generator

COMPLETE = 50
"""Most hospitals of which each masks with each."""


def degree(hospitals: int) -> int:
    """Return with how many others each hospital masks; even where it is not all of them."""
    if hospitals <= COMPLETE:
        return hospitals - 1
    return 2 * math.ceil(3 * math.log2(hospitals))


def neighbourhoods(
    names: Collection[str], seed: int, number: int, attempt: int
) -> dict[str, list[str]]:
    """Return with whom each hospital masks and shares its secrets: itself and others, sorted.

    Args:
        names: The hospitals'.
        seed: The run's.
        number: The round's.
        attempt: At the round.
    """
    known = sorted(names)
    reach = degree(len(known))
    if reach >= len(known) - 1:
        return dict.fromkeys(known, known)
    order = generator(seed, f"secure graph, attempt {attempt}", number).permutation(len(known))
    circle = [known[i] for i in order]
    half = reach // 2
    return {
        name: sorted(circle[(at + step) % len(circle)] for step in range(-half, half + 1))
        for at, name in enumerate(circle)
    }


def groups(names: Collection[str], count: int, seed: int, number: int) -> list[list[str]]:
    """Return groups of as equal size as can be, each sorted; the same in each attempt at a round.

    Args:
        names: The hospitals'; at least :data:`FEWEST` for each group.
        count: Of groups.
        seed: The run's.
        number: The round's.

    Raises:
        ValueError: There are too few hospitals.
    """
    if len(names) < FEWEST * count:
        raise ValueError(f"{len(names)} hospitals make no {count} groups of {FEWEST}")
    known = sorted(names)
    order = generator(seed, "secure groups", number).permutation(len(known))
    return [sorted(known[i] for i in order[first::count]) for first in range(count)]
