"""``best.pt``: a copy of the model that the hospitals scored best so far."""

from server.rounds.progress import Progress
from server.run.folder import RunFolder


class BestCopy:
    """Keeps ``best.pt``, since a round's own checkpoint is among the last few only.

    Args:
        folder: The run's.
        progress: Knows which model is best.
        one_model: Whether a round's model is whole; if not, no copy is kept.
    """

    def __init__(self, folder: RunFolder, progress: Progress, one_model: bool = True) -> None:
        self._one_model = one_model
        self._folder = folder
        self._progress = progress
        self._kept: int | None = None

    def update(self) -> None:
        """Copy the best model if it is another one than before and its checkpoint is there."""
        best = self._progress.best
        if not self._one_model or best is None or best[1] == self._kept:
            return
        if self._folder.checkpoint(best[1]).exists():
            self._folder.copy_checkpoint(best[1], "best.pt")
        self._kept = best[1]
