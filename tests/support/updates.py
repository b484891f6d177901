"""Updates in memory, in the place of those on disk."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.state import State
from server.strategies.base import Update, UpdateInfo


class HeldUpdates:
    """See :class:`server.strategies.base.Updates`.

    Args:
        updates: Weights and examples by the hospital's name.
        more: What else is known of some, for :class:`UpdateInfo`.
    """

    def __init__(
        self, updates: Mapping[str, tuple[State, int]], more: Mapping[str, dict[str, float]] = {}
    ) -> None:
        self._weights = {name: weights for name, (weights, _) in sorted(updates.items())}
        self.infos: Mapping[str, UpdateInfo] = {
            name: UpdateInfo(n, 1.0, **more.get(name, {}))
            for name, (_, n) in sorted(updates.items())
        }

    def __iter__(self) -> Iterator[Update]:
        for name, weights in self._weights.items():
            yield Update(name, self.infos[name], weights)

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        all_weights = list(self._weights.values())
        for tensor in all_weights[0]:
            yield tensor, np.stack([weights[tensor] for weights in all_weights])
