"""The probability of each finding on films.

The pixels go the way of a shard's in :mod:`common.evaluation`: the same crops, the same batches and
so the same logits, bit for bit.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.evaluation import EVALUATION_BATCH, logits_of
from common.findings import FINDINGS
from predict.films import Film

Probabilities = npt.NDArray[np.float32]
"""float32, 14: the sigmoid of the logits, in the order of FINDINGS. They are not calibrated."""


class Prediction(NamedTuple):
    """What a model says of a film."""

    film: Film
    probabilities: Probabilities

    @property
    def likeliest(self) -> str:
        """The finding with the highest probability."""
        return FINDINGS[int(self.probabilities.argmax())]


def predict(
    network: nn.Module, films: Iterable[Film], device: torch.device
) -> Iterator[Prediction]:
    """Yield what a model says of films, in their order.

    Args:
        network: In evaluation mode, on the device.
        films: Of one size.
        device: Where to compute.
    """
    left = iter(films)
    while batch := list(islice(left, EVALUATION_BATCH)):
        with torch.inference_mode():
            logits = logits_of(network, np.stack([film.pixels for film in batch]), device)
        probabilities = torch.sigmoid(logits.float()).cpu().numpy()
        yield from map(Prediction, batch, probabilities)
