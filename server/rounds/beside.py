"""What a round's checkpoint keeps beside the model."""

from typing import NamedTuple

from common.state import State

AVERAGE = "ema/"
"""Before the names of the moving average's tensors."""

SENT = "sent/"
"""Before the names of the tensors that went out in the round."""

RESIDUAL = "residual/"
"""Before the names of what has not gone out yet."""


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
        kept = dict(self.strategy)
        for prefix, state in zip((AVERAGE, SENT, RESIDUAL), self[1:], strict=True):
            kept |= {prefix + name: array for name, array in state.items()}
        return kept


def take_apart(kept: State) -> Beside:
    """Undo :meth:`Beside.to_keep`."""
    beside = Beside({}, {}, {}, {})
    for name, array in kept.items():
        for prefix, state in zip((AVERAGE, SENT, RESIDUAL), beside[1:], strict=True):
            if name.startswith(prefix):
                state[name.removeprefix(prefix)] = array
                break
        else:
            beside.strategy[name] = array
    return beside
