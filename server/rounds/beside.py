"""What a round's checkpoint keeps beside the model."""

from typing import NamedTuple

from common.state import State

AVERAGE = "ema/"
"""Before the names of the moving average's tensors."""

SENT = "sent/"
"""Before the names of the tensors that went out in the round."""


class Beside(NamedTuple):
    """What is kept beside the model; each may be empty.

    Attributes:
        strategy: What the strategy remembers.
        average: The moving average of the models.
        sent: What went out in the round, where its changes go out in the next one.
    """

    strategy: State
    average: State
    sent: State

    def to_keep(self) -> State:
        """Return all of it as one state."""
        average = {AVERAGE + name: array for name, array in self.average.items()}
        return self.strategy | average | {SENT + name: array for name, array in self.sent.items()}


def take_apart(kept: State) -> Beside:
    """Undo :meth:`Beside.to_keep`."""
    beside = Beside({}, {}, {})
    for name, array in kept.items():
        if name.startswith(AVERAGE):
            beside.average[name.removeprefix(AVERAGE)] = array
        elif name.startswith(SENT):
            beside.sent[name.removeprefix(SENT)] = array
        else:
            beside.strategy[name] = array
    return beside
