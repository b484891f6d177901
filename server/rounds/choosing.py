"""Which round's model is the best so far, and when no further round is worth it."""

import math

from common.readings import Pooled
from server.run.records import ChosenBy


class Choice:
    """Follows the hospitals' scores of the models, in the order of the rounds.

    The pooled AUC chooses: of all hospitals' validation films together. The hospitals' mean AUC
    chooses as long as none of them tells histograms, and throughout if ``pooled`` is False: in a
    pooled AUC a hospital counts by the films that it claims.

    Args:
        pooled: Whether the pooled AUC may choose.
        min_gain: By how much the AUC must rise to count as a gain.

    Attributes:
        best: Validation AUC and round of the best model.
        by: Which AUC that is.
    """

    def __init__(self, pooled: bool = True, min_gain: float = 0.001) -> None:
        self.best: tuple[float, int] | None = None
        self.by: ChosenBy = "mean"
        self._pooled = pooled
        self._min_gain = min_gain
        self._to_beat = -math.inf
        self._idle = self._noted = 0

    def note(self, number: int, mean: float | None, pooled: Pooled | None) -> None:
        """Note the hospitals' scores of the model of a round; the first model, 0, is no choice.

        Args:
            number: The round after which the model was made.
            mean: The hospitals' mean AUC.
            pooled: The AUC of all their films.
        """
        by, auc = self.by, mean
        if self._pooled and pooled is not None and pooled.auc is not None:
            by, auc = "pooled", pooled.auc
        elif self.by == "pooled":
            return  # a mean says nothing beside a pooled AUC
        if not number or auc is None:
            return
        if by != self.by:
            self.best, self.by, self._to_beat, self._idle = None, by, -math.inf, 0
        if self.best is None or auc > self.best[0]:
            self.best = (auc, number)
        if number > self._noted:  # the last model's is noted again if the run goes on
            self._noted, self._idle = number, self._idle + 1
        if auc >= self._to_beat + self._min_gain:
            self._to_beat, self._idle = auc, 0

    def why_stop(self, early_stop: int) -> str | None:
        """Return why no further round is worth it; None: go on.

        Args:
            early_stop: Rounds in a row whose AUC is no gain that are enough; 0: none are. Rounds
                without an AUC do not count.
        """
        idle = self._idle
        if not early_stop or idle < early_stop:
            return None
        return (
            f"the {self.by} validation AUC has not gained {self._min_gain:g} in {idle} rounds "
            f"(--early-stop {early_stop})"
        )
