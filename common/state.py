"""A model's state as arrays, and the parts of it that are sent."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.options import Mode, Part

State = dict[str, npt.NDArray[Any]]
"""Tensor name to array, as in torchvision's state dict; 0-d integer buffers included."""

Spec = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name to (dtype name, shape)."""

T = TypeVar("T")

HEAD_PREFIX = "classifier."
"""Prefix of the head's tensors; all others are the backbone."""

WEIGHTS = "weights"
"""Name of the model's state among the named states in one message."""

SELECTORS: dict[Part, Callable[[str], bool]] = {
    "all": lambda _name: True,
    "head": lambda name: name.startswith(HEAD_PREFIX),
    "backbone": lambda name: not name.startswith(HEAD_PREFIX),
}
"""Predicate on tensor names for each part of the model."""

TRAINED: dict[Mode, Part] = {"finetune": "all", "linear": "head"}
"""The part that hospitals train and return in each mode."""


def spec_of(state: Mapping[str, npt.NDArray[Any]]) -> Spec:
    """Return the names, dtypes and shapes of a state."""
    return {name: (array.dtype.name, array.shape) for name, array in state.items()}


def is_float(array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds floats rather than integers."""
    return np.issubdtype(array.dtype, np.floating)


def select(tensors: Mapping[str, T], part: Part) -> dict[str, T]:
    """Return a part of a state or a specification, in its order."""
    belongs = SELECTORS[part]
    return {name: value for name, value in tensors.items() if belongs(name)}


def join(states: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Return several named states as one state, for sending.

    The weights keep their names; a tensor of another state is called ``STATE/TENSOR``.
    """
    return {
        tensor if name == WEIGHTS else f"{name}/{tensor}": value
        for name, state in states.items()
        for tensor, value in state.items()
    }


def split(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Undo :func:`join`: return the named states, always with ``weights``, which may be empty."""
    states: dict[str, dict[str, T]] = {WEIGHTS: {}}
    for name, value in tensors.items():
        state, slash, tensor = name.partition("/")
        if slash:
            states.setdefault(state, {})[tensor] = value
        else:
            states[WEIGHTS][name] = value
    return states
