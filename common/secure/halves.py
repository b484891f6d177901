"""Changes of parameters as words that stand for two entries each, 16 bits for one.

A vector v of norm C at most is turned by a random rotation. Its m entries are of one size then,
whatever they were before: about C / sqrt(m). One range R = 8 C / sqrt(m) is right for all of them::

    u = DCT(signs * v)      orthonormal, of length m, v ended by zeros; the signs are drawn

Each entry, times a hospital's share of the films, is rounded to a multiple of R / 2^14 at random,
so that it is right in the mean. A sum of n hospitals with shares s is off by random numbers with a
standard deviation of at most::

    sqrt(n) / 2  R / 2^14       in each entry, and no more once it is turned back

Suresh et al., "Distributed Mean Estimation with Limited Communication", ICML 2017, section 3, with
a cosine transform for that of Hadamard, since it needs no power of two.

A word is low + 2^16 high modulo 2^32, of signed numbers. The sum of words is the word of the sums
as long as these fit into 16 bits: as long as the shares add up to less than 2.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, idct, next_fast_len

from common.seeds import generator

Entries = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

UNIT = 2.0**14
"""Of half a word: the range of what it stands for."""

SPREAD = 8.0
"""R is so many times C / sqrt(m). Of vectors of norm C, less than one entry in a million is larger
and cut off (Hoeffding's inequality)."""


def words_for(entries: int) -> int:
    """Return how many words so many entries take; a few more than half, for the transform."""
    return int(next_fast_len((entries + 1) // 2, real=True)) if entries else 0


def rounding(clip: float) -> float:
    """Return how long the error is at most that one hospital's rounding makes, before the mean.

    Args:
        clip: The longest norm of a change.
    """
    return SPREAD * clip / UNIT


def to_halves(
    change: Entries, share: float, clip: float, rotation: int, rng: np.random.Generator
) -> Words:
    """Return a change of parameters, times a hospital's share of the films, as words.

    Args:
        change: Of norm ``clip`` at most.
        share: In (0, 1].
        clip: The longest norm.
        rotation: Seed of the rotation, the same for all in a sum.
        rng: Rounds at random.
    """
    if not change.size:
        return np.empty(0, np.uint32)
    turned = np.zeros(2 * words_for(change.size))
    turned[: change.size] = change
    turned *= _signs(turned.size, rotation)
    turned = dct(turned, norm="ortho", overwrite_x=True)
    turned *= share * math.sqrt(turned.size) / rounding(clip)
    np.clip(turned, -share * UNIT, share * UNIT, out=turned)
    turned += rng.random(turned.size)
    low, high = np.floor(turned, out=turned).astype(np.int64).reshape(2, -1)
    return np.asarray(low + (high << 16), np.int64).astype(np.uint32)


def from_halves(words: Words, entries: int, clip: float, rotation: int) -> Entries:
    """Return the sum of the changes times their shares of which these words are the sum.

    Args:
        words: Modulo 2^32.
        entries: Of each of the vectors.
        clip: Their longest norm.
        rotation: Seed of the rotation.
    """
    if not entries:
        return np.empty(0)
    low = words.astype(np.uint16).view(np.int16)
    high = ((words - low.astype(np.uint32)) >> 16).astype(np.uint16).view(np.int16)
    turned = np.concatenate([low, high]).astype(np.float64)
    back = idct(turned, norm="ortho", overwrite_x=True)
    back *= _signs(back.size, rotation) * (rounding(clip) / math.sqrt(back.size))
    return np.asarray(back[:entries])


def _signs(count: int, rotation: int) -> npt.NDArray[np.int8]:
    """Return numbers that are 1 or -1."""
    drawn = generator(rotation, "rotation").integers(0, 2, count, dtype=np.int8)
    return 2 * drawn - 1
