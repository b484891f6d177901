"""A model's state as arrays, and the parts of it that are sent."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.options import Mode, Part, Training

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
    "no-batchnorm": lambda name: ".norm" not in name,
}
"""Predicate on tensor names for each part of the model."""

TRAINED: dict[Mode, Part] = {"finetune": "all", "linear": "head"}
"""The part that hospitals train in each mode."""

STATISTICS = ("running_mean", "running_var")
"""Ends of the names of BatchNorm's running statistics, which follow the batches, not the
optimiser."""

COUNTER = "num_batches_tracked"
"""End of the name of BatchNorm's counter of batches."""

OF_LOCAL = "local"
"""Name of what a method of local training remembers among a hospital's own states."""

RESIDUAL = "residual"
"""Name of what has not travelled yet among a hospital's own states."""

CONTROL = "control"
"""Name of SCAFFOLD's control variates among the named states in one message."""


def spec_of(state: Mapping[str, npt.NDArray[Any]]) -> Spec:
    """Return the names, dtypes and shapes of a state."""
    return {name: (array.dtype.name, array.shape) for name, array in state.items()}


def is_float(array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds floats rather than integers."""
    return np.issubdtype(array.dtype, np.floating)


def is_parameter(name: str) -> bool:
    """Return whether a tensor follows the optimiser, by its name; all others are buffers."""
    return not name.endswith((*STATISTICS, COUNTER))


def parameters_of(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the parameters of a state or a specification, in its order."""
    return {name: value for name, value in tensors.items() if is_parameter(name)}


def select(tensors: Mapping[str, T], part: Part) -> dict[str, T]:
    """Return a part of a state or a specification, in its order."""
    belongs = SELECTORS[part]
    return {name: value for name, value in tensors.items() if belongs(name)}


def returned(tensors: Mapping[str, T], training: Training) -> dict[str, T]:
    """Return what hospitals train and share, in its order."""
    return select(select(tensors, TRAINED[training.mode]), training.shared)


def kept_back(tensors: Mapping[str, T], training: Training) -> dict[str, T]:
    """Return what hospitals train and keep for themselves, in its order."""
    trained = select(tensors, TRAINED[training.mode])
    shared = select(trained, training.shared)
    return {name: value for name, value in trained.items() if name not in shared}


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
