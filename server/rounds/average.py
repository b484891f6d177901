"""The exponential moving average of the global model over the rounds; needs no torch."""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from common.state import State, is_float


class AverageSettings(BaseModel):
    """Of the average; ``flower-server`` and ``config.json`` have these fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of a moving average of the models, which is kept beside them as ema.pt; "
        "0: none",
    )


class MovingAverage:
    """Follows the global model, a part of the way in each round.

    With the decay d and the model x of a round, a' = d a + (1 - d) x, tensor entry by tensor entry,
    in float64, kept as the model's floats; it begins at the first model. Counters are the newest
    model's. Polyak and Juditsky, SIAM J. Control Optim. 1992, average all iterates alike; the
    exponential one is usual for networks (Tarvainen and Valpola, "Mean teachers", NeurIPS 2017).

    Args:
        decay: In (0, 1).
        state: To begin with.

    Attributes:
        decay: As given.
        state: The average.
    """

    def __init__(self, decay: float, state: State) -> None:
        self.decay = decay
        self.state = state

    def follow(self, model: State) -> None:
        """Go a part of the way to a model."""
        self.state = {name: self._between(name, array) for name, array in model.items()}

    def _between(self, name: str, array: np.ndarray) -> np.ndarray:
        if not is_float(array):
            return array
        old, new = self.state[name].astype(np.float64), array.astype(np.float64)
        return np.asarray(self.decay * old + (1 - self.decay) * new, array.dtype)
