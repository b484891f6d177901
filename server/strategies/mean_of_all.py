"""The mean, over all hospitals of a run, of what each of them remembers.

With the sum of what they remember, whose changes S hospitals of N return in a round::

    mean' = N_before / N mean + |S| / N * mean over S of the changes

Those who have not been in a round yet remember zeros: a hospital that joins makes the mean smaller
at once. Who leaves still counts, since what it has added is still in the sum.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.state import State

HOSPITALS = "hospitals"
"""Name of N in what is kept with the checkpoint."""


class MeanOfAll:
    """Follows the changes round by round; begins at zero.

    Attributes:
        values: The mean; empty before the first round.
    """

    def __init__(self) -> None:
        self.values: State = {}
        self._hospitals = 0

    def follow(
        self,
        changes: Mapping[str, npt.NDArray[np.float64]],
        like: State,
        in_round: int,
        hospitals: int,
    ) -> None:
        """Go on by the changes of a round.

        Args:
            changes: Their mean over the hospitals of the round.
            like: Has the dtypes.
            in_round: Hospitals in it.
            hospitals: In the run, as far as is known; never fewer than in an earlier round.
        """
        most = max(self._hospitals, hospitals)
        stays, share = (self._hospitals or most) / most, in_round / most
        for name, change in changes.items():
            before = self.values.get(name, np.zeros(())).astype(np.float64)
            self.values[name] = np.asarray(stays * before + share * change, like[name].dtype)
        self._hospitals = most

    def state_dict(self) -> State:
        """Return the mean, and of how many hospitals it is."""
        return self.values | {HOSPITALS: np.array(self._hospitals)} if self.values else {}

    def load_state_dict(self, state: State) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.values = dict(state)
        self._hospitals = int(self.values.pop(HOSPITALS, 0))
