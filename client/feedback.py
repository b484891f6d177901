"""Error feedback: what encoding leaves out of a change is added to the change of the next round.

With the received model x, the trained one y, and the residual e of the last round that counted::

    travels    c = encode(y + e - x)
    kept       e' = (y + e) - (x + decode(c))

Nothing is lost, only late: over the rounds the sum of what was decoded is the sum of the changes,
less one residual. Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy
et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019,
algorithm 2.
"""

import numpy as np

from common.codec.change import sent
from common.options import Wire
from common.state import State


def with_feedback(
    before: State, after: State, residual: State, wire: Wire, rng: np.random.Generator
) -> tuple[bytes, State]:
    """Return a trained model as it travels, and the new residual.

    Args:
        before: The parameters as they were received.
        after: Joined states with the same parameters, trained.
        residual: Of these parameters; empty: none.
        wire: How it travels; fp32: exactly, and without a residual.
        rng: Rounds at random.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # whoever checks the weights finds it
        wanted = {
            name: array + residual[name] if name in residual else array
            for name, array in after.items()
        }
        blob, arrives = sent(before, wanted, wire, rng)
        if wire == "fp32":
            return blob, {}
        return blob, {name: wanted[name] - arrives[name] for name in before}
