"""FedAvg: the mean of the hospitals' states, weighted by their examples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, algorithm 1. Floats are summed in float64 and cast back; integer buffers, BatchNorm's
``num_batches_tracked``, are the maximum.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.wire import State

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

GRIDS = (0, -42, -84)
"""Powers of two: each level of :class:`ExactSum` holds multiples of its grid.

A float64 holds a multiple of g exactly up to 2^53 g. What level 1 leaves over is at most half of
level 0's grid, 2^-1, so that 2^12 of them stay below 2^53 2^-42; likewise level 2. What is smaller
than level 2's grid is rounded off term by term, 2^-85 at the most, far below a float32's
precision.
"""

LARGEST_TERM = 2.0**41
"""Examples times a weight must stay below this, so that 2^12 of them stay below 2^53."""

MOST_TERMS = 2**12


BLOCK = 2**15
"""Elements that are worked on at once: their pieces stay in a core's cache."""


class ExactSum:
    """A weighted sum of vectors that does not depend on the order of its terms, bit for bit.

    Each term is cut into pieces on fixed grids, and the pieces of a grid add up without rounding
    (Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", ARITH 2013, with the grids
    known beforehand).
    """

    def __init__(self, size: int) -> None:
        self._levels: list[Float64] = [np.zeros(size) for _ in GRIDS]

    def add(self, vector: Floats, weight: int) -> None:
        """Add ``weight`` times a vector; each element of the product is below LARGEST_TERM.

        The same with ``-weight`` takes it back exactly: rounding to even is symmetric.
        """
        for start in range(0, len(vector), BLOCK):
            block = slice(start, start + BLOCK)
            rest = vector[block].astype(np.float64)
            rest *= weight
            for level, grid in zip(self._levels, GRIDS, strict=True):
                # Adding 1.5 * 2^(52+grid) pushes all below the grid out of the 53 bits.
                shift = 1.5 * 2.0 ** (52 + grid)
                piece = rest + shift
                piece -= shift
                level[block] += piece
                rest -= piece

    def value(self) -> Float64:
        """Return the sum, rounded to float64."""
        high, middle, low = self._levels
        return high + (middle + low)


class FedAvg:
    """A running mean of states: each is added and can be dropped at once.

    Args:
        like: A state with the names, dtypes and shapes of those that will be added.
    """

    def __init__(self, like: State) -> None:
        self._like = like
        self._examples = 0
        self._terms = 0
        self._floats = [name for name, array in like.items() if is_float(array)]
        self._sum = ExactSum(sum(like[name].size for name in self._floats))
        self._integers: dict[str, State] = {}

    def add(self, name: str, state: State, examples: int) -> None:
        """Add a hospital's state with its weight.

        Args:
            name: The hospital's.
            state: Finite values, as many and as large as :data:`LARGEST_TERM` and
                :data:`MOST_TERMS` allow; integers as they are.
            examples: Images that it was trained on, at least 1.

        Raises:
            ValueError: A value is too large or not finite, or there are too many states. Nothing
                has been added then.
        """
        check_terms(state, examples)
        self._add(state, examples)
        self._integers[name] = {t: state[t] for t in state.keys() - set(self._floats)}

    def remove(self, name: str, state: State, examples: int) -> None:
        """Take back what was added: not a bit of it remains."""
        self._add(state, -examples)
        del self._integers[name]

    def _add(self, state: State, examples: int) -> None:
        if self._terms == MOST_TERMS:
            raise ValueError(f"more than {MOST_TERMS} states")
        if self._floats:
            vector = np.concatenate([state[tensor].ravel() for tensor in self._floats])
            self._sum.add(vector, examples)
        self._examples += examples
        self._terms += 1

    def mean(self) -> State:
        """Return the weighted mean, in the order and dtypes of ``like``.

        Raises:
            ValueError: Nothing has been added.
        """
        if not self._examples:
            raise ValueError("no state to average")
        values = self._sum.value()
        values /= self._examples
        ends = np.cumsum([self._like[name].size for name in self._floats])
        mean: State = dict(zip(self._floats, np.split(values, ends)[:-1], strict=True))
        for name in self._like.keys() - mean.keys():
            mean[name] = np.max([integers[name] for integers in self._integers.values()], axis=0)
        return {
            name: np.asarray(mean[name].reshape(array.shape), dtype=array.dtype)
            for name, array in self._like.items()
        }


def check_terms(state: State, examples: int) -> None:
    """Check that a state can be added with a weight.

    Raises:
        ValueError: A value is too large or not finite.
    """
    for tensor, array in state.items():
        bound = float(np.abs(array).max(initial=0)) if is_float(array) else 0
        if not bound * examples < LARGEST_TERM:
            raise ValueError(f"tensor {tensor} holds {bound}, too large to be averaged")


def is_float(array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds floats rather than integers."""
    return np.issubdtype(array.dtype, np.floating)
