"""Updates in memory, in the place of those on disk."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.state import WEIGHTS, State
from server.strategies.base import Update, UpdateInfo


class HeldUpdates:
    """See :class:`server.strategies.base.Updates`."""

    def __init__(self, updates: Mapping[str, tuple[dict[str, State], int]]) -> None:
        self._states = {name: states for name, (states, _) in sorted(updates.items())}
        self.infos: Mapping[str, UpdateInfo] = {
            name: UpdateInfo(n, 1.0) for name, (_, n) in sorted(updates.items())
        }

    def __iter__(self) -> Iterator[Update]:
        for name, states in self._states.items():
            yield Update(name, self.infos[name], states)

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        all_weights = [states[WEIGHTS] for states in self._states.values()]
        for tensor in all_weights[0]:
            yield tensor, np.stack([weights[tensor] for weights in all_weights])
