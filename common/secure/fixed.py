"""Updates as words of 32 bits that can be summed modulo 2^32, and their sum as a mean.

With e a hospital's films, c an entry of its change, R the range of such entries and B the ``total``
that the server has announced, a word is::

    round(e / B  c  2^30 / R)

and with T the films of all hospitals together, n of them, the mean change is::

    sum of the words  R / 2^30  B / T        off by at most  n / 2  R / 2^30  B / T

R is ``clip`` for parameters, whose change is no longer than that, and :data:`STATISTICS_RANGE` for
BatchNorm's statistics. The sum is below 2^31 as long as T < 2 B, which the server sees: the films
are the first word, so that an overflow is known for certain. The second word is e / B times the
training loss, up to :data:`LOSS_RANGE`. Then come the statistics, and the parameters, these in half
a word each if the settings have a ``rotation``: see :mod:`common.secure.halves`. BatchNorm's
counters do not travel: they stay as they were.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.secure.halves import Entries, Words, from_halves, rounding, to_halves, words_for
from common.secure.settings import SecureSettings
from common.state import State, is_float, is_parameter

UNIT = 2.0**30
"""Of a word: the range of what it stands for."""

STATISTICS_RANGE = 1024.0
"""Largest change of BatchNorm's running means and variances in a round."""

LOSS_RANGE = 100.0
"""A larger training loss counts as this."""

BESIDE = 2
"""Words ahead of the tensors': films, and loss."""

FULL = 31 / 16
"""Most of T / B: below 2, by more than rounding can add."""


class OutOfRange(ValueError):  # noqa: N818 - a verdict, not a fault
    """An update has no place in a sum, or a sum is none of such updates; says why."""


class Mean(NamedTuple):
    """What a sum stands for.

    Attributes:
        state: The mean weights.
        films: Of all hospitals in the sum.
        loss: Mean training loss over these.
        norm: Of the mean change of the parameters.
    """

    state: State
    films: int
    loss: float
    norm: float


def length(before: State, settings: SecureSettings) -> int:
    """Return how many words an update of such a state has."""
    parameters, statistics = _sizes(before)
    whole = settings.rotation is None
    return BESIDE + statistics + (parameters if whole else words_for(parameters))


def clipping(before: State, after: State, clip: float) -> tuple[float, float]:
    """Return the norm of the parameters' change, and the factor that makes it ``clip`` at most.

    Raises:
        OutOfRange: The change is not finite.
    """
    squares = 0.0
    for name, array in _floats(before):
        if is_parameter(name):
            change = _change(array, after[name])
            squares += float(change @ change)
    norm = math.sqrt(squares)
    if not math.isfinite(norm):
        raise OutOfRange("the change of its parameters is not finite")
    return norm, min(1.0, clip / norm) if norm else 1.0


def to_words(
    before: State,
    after: State,
    films: int,
    loss: float,
    settings: SecureSettings,
    rng: np.random.Generator,
) -> Words:
    """Return an update as words, with the change of its parameters clipped.

    Args:
        before: What was trained.
        after: What came of it.
        films: That it was trained on; more than the settings allow count as so many.
        loss: Mean training loss.
        settings: Of the attempt.
        rng: Rounds halves of words at random.

    Raises:
        OutOfRange: It has a number that is not finite or beyond its range.
    """
    films = min(films, settings.films)  # a refusal would tell how many there are
    _, factor = clipping(before, after, settings.clip)
    share, clip, rotation = films / settings.total, settings.clip, settings.rotation
    parts = [
        np.array([films], np.uint32),
        _word(np.array([share * min(loss, LOSS_RANGE) / LOSS_RANGE])),
    ]
    for name, array in _floats(before):
        if not is_parameter(name):
            change = _change(array, after[name])
            if not (np.abs(change) <= STATISTICS_RANGE).all():
                raise OutOfRange(
                    f"tensor {name} has changed by more than {STATISTICS_RANGE:g}, or is not finite"
                )
            parts.append(_word(change * (share / STATISTICS_RANGE)))
    changes = [_change(array, after[name]) for name, array in _floats(before) if is_parameter(name)]
    change = np.concatenate([np.empty(0), *changes])
    change *= factor
    if rotation is None:
        parts.append(_word(change * (share / clip)))
    else:
        parts.append(to_halves(change, share, clip, rotation, rng))
    return np.concatenate(parts)


def from_words(words: Words, before: State, hospitals: int, settings: SecureSettings) -> Mean:
    """Return what a sum of updates stands for; counters are those of ``before``.

    Args:
        words: The sum, modulo 2^32.
        before: What was trained.
        hospitals: In the sum.
        settings: Of the attempt.

    Raises:
        OutOfRange: It cannot be the sum of so many updates that are clipped and in range, or it has
            more films than ``total`` allows for.
    """
    films = int(words[0])
    if films < hospitals:
        raise OutOfRange(f"the sum is of {films} films at {hospitals} hospitals")
    if films > FULL * settings.total:
        raise OutOfRange(f"the sum is of {films} films, too many for {settings.total} in all")
    share = films / settings.total
    slack = hospitals / 2 / UNIT / share
    loss = LOSS_RANGE * float(_number(words[1:2])[0]) / share
    if not -slack <= loss / LOSS_RANGE <= 1 + slack:
        raise OutOfRange("the mean loss is larger than any hospital's can be")
    entries, statistics = _sizes(before)
    beside = _number(words[BESIDE : BESIDE + statistics]) * (STATISTICS_RANGE / share)
    if not (np.abs(beside) <= STATISTICS_RANGE * (1 + slack)).all():
        raise OutOfRange("statistics have changed by more than any hospital's can")
    change = _parameters(words[BESIDE + statistics :], entries, settings) / share
    norm = math.sqrt(float(change @ change))
    error = settings.clip * slack * math.sqrt(entries)
    if settings.rotation is not None:
        error = hospitals * rounding(settings.clip) / share
    if norm > settings.clip * (1 + 1e-9) + error:
        raise OutOfRange("the mean change is longer than any hospital's can be")
    return Mean(_moved(before, change, beside), films, max(0.0, loss), norm)


def precision(name: str, hospitals: int, films: int, settings: SecureSettings) -> float:
    """Return by how much an entry of the mean may be off that travelled in a word.

    Args:
        name: The tensor's.
        hospitals: In the sum.
        films: Theirs together.
        settings: Of the attempt.
    """
    reach = settings.clip if is_parameter(name) else STATISTICS_RANGE
    return hospitals / 2 * reach / UNIT * settings.total / films


def _parameters(words: Words, entries: int, settings: SecureSettings) -> Entries:
    """Return the sum of the hospitals' changes of parameters, times their shares."""
    if settings.rotation is None:
        return _number(words) * settings.clip
    return from_halves(words, entries, settings.clip, settings.rotation)


def _moved(before: State, change: Entries, beside: Entries) -> State:
    """Return a state whose parameters and statistics have changed."""
    state, left = dict(before), {True: change, False: beside}
    for name, array in _floats(before):
        own, left[is_parameter(name)] = np.split(left[is_parameter(name)], [array.size])
        mean = array + own.reshape(array.shape)
        if name.endswith("running_var"):
            mean = np.maximum(mean, 0)  # rounding may have gone below
        state[name] = np.asarray(mean, array.dtype)
    return state


def _floats(state: State) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    return ((name, array) for name, array in state.items() if is_float(array))


def _sizes(state: State) -> tuple[int, int]:
    """Return how many parameters a state has, and how many statistics."""
    sizes = {True: 0, False: 0}
    for name, array in _floats(state):
        sizes[is_parameter(name)] += array.size
    return sizes[True], sizes[False]


def _change(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Entries:
    change: Entries = after.astype(np.float64) - before
    return change.ravel()


def _word(shares: npt.NDArray[np.float64]) -> Words:
    """Return words for shares of the range, negative ones as their complement."""
    return np.rint(shares * UNIT).astype(np.int64).astype(np.uint32)


def _number(words: Words) -> npt.NDArray[np.float64]:
    """Undo :func:`_word` for a sum."""
    return words.astype(np.int32).astype(np.float64) / UNIT
