"""How SCAFFOLD's control variates follow from what travels; both sides compute the same.

With the server's control variate c and the weights x that went out, and y that came back after K
effective steps at rate eta, a hospital's control variate c_i changes by::

    c_i' - c_i = (x - y) / (K eta) - c

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
algorithm 1, option II, where the steps are plain SGD. Under momentum x - y is a sum in which each
gradient counts as often as momentum repeats it; K is the sum of these
(:meth:`common.options.Training.effective_steps`), so that the quotient is a mean gradient. No c_i
is in it: the server needs to be told of none, and believes none.
"""

import numpy as np

from common.options import Training
from common.state import State


def control_change(
    control: State, before: State, after: State, training: Training, steps: int
) -> State:
    """Return the change of a hospital's control variate, in the names and dtypes of ``control``.

    Args:
        control: The server's, as it went out.
        before: The parameters that went out.
        after: Those that came back, as they arrived.
        training: How they were trained.
        steps: The optimiser's.
    """
    length = training.effective_steps(steps) * training.lr
    return {
        name: np.asarray(
            (before[name].astype(np.float64) - after[name]) / length - theirs, theirs.dtype
        )
        for name, theirs in control.items()
    }
