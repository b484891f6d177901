"""What a round's checkpoint keeps beside the model.

::

    /strategy/m_t/0    what the strategy remembers, by the names that it gives
    /ema/TENSOR        the moving average of the models
    /sent/TENSOR       what went out in the round
    /residual/TENSOR   what has not gone out yet

In runs of earlier versions no name begins with a slash, and a strategy's are as they are.
"""

from typing import NamedTuple

from common.state import State

PARTS = ("/strategy/", "/ema/", "/sent/", "/residual/")
"""Before the names of each part's tensors."""


class Beside(NamedTuple):
    """What is kept beside the model; each may be empty.

    Attributes:
        strategy: What the strategy remembers.
        average: The moving average of the models.
        sent: What is trained, as it went out in the round, where its change goes out in the next.
        residual: What has not gone out of it yet.
    """

    strategy: State
    average: State
    sent: State
    residual: State

    def to_keep(self) -> State:
        """Return all of it as one state."""
        return {
            part + name: array
            for part, state in zip(PARTS, self, strict=True)
            for name, array in state.items()
        }


def take_apart(kept: State) -> Beside:
    """Undo :meth:`Beside.to_keep`."""
    beside = Beside({}, {}, {}, {})
    for name, array in kept.items():
        path = name if name.startswith("/") else _path(name)
        for part, state in zip(PARTS, beside, strict=True):
            if path.startswith(part):
                state[path.removeprefix(part)] = array
    return beside


def _path(name: str) -> str:
    """Return what a tensor of a run of an earlier version is called now."""
    return f"/{name}" if f"/{name}".startswith(PARTS[1:]) else f"{PARTS[0]}{name}"
