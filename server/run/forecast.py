"""How long a run will still take, and times in words."""

import statistics
from collections.abc import Sequence

RECENT = 5
"""Rounds from which the next ones are estimated; by their median, or one slow round would tell."""


def seconds_left(seconds: Sequence[float], rounds: int) -> float | None:
    """Return how long the rounds that are left will take; None: no round is done yet.

    Args:
        seconds: That each round took that is done.
        rounds: That the run is to have.
    """
    if not seconds:
        return None
    return statistics.median(seconds[-RECENT:]) * max(0, rounds - len(seconds))


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"
