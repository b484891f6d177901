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

from common.evaluation import evaluation_batch, logits_of
from common.findings import FINDINGS
from predict.calibration import Calibration
from predict.films import Film

Probabilities = npt.NDArray[np.float32]
"""float32, 14, in the order of FINDINGS: sigmoids of the logits, calibrated or not."""


class Prediction(NamedTuple):
    """What a model says of a film.

    Attributes:
        film: The film.
        probabilities: Of the findings.
        called: Findings whose threshold it reaches, of those that have one.
        calibrated: Findings whose probability is calibrated.
    """

    film: Film
    probabilities: Probabilities
    called: tuple[str, ...]
    calibrated: tuple[str, ...]

    @property
    def likeliest(self) -> str:
        """The finding with the highest probability."""
        return FINDINGS[int(self.probabilities.argmax())]


def predict(
    network: nn.Module,
    films: Iterable[Film],
    size: int,
    device: torch.device,
    calibration: Calibration,
) -> Iterator[Prediction]:
    """Yield what a model says of films, in their order.

    Args:
        network: In evaluation mode, on the device.
        films: Of one size.
        size: S, pixels along each side of them.
        device: Where to compute.
        calibration: Of the model.
    """
    left, together = iter(films), evaluation_batch(size, device)
    while batch := list(islice(left, together)):
        with torch.inference_mode():
            logits = logits_of(network, np.stack([film.pixels for film in batch]), device)
        plain = torch.sigmoid(logits.float()).cpu().numpy()
        values = logits.double().cpu().numpy()
        for film, own, probabilities in zip(batch, values, plain, strict=True):
            by_finding = dict(zip(FINDINGS, own.tolist(), strict=True))
            for finding, of in calibration.items():
                probabilities[FINDINGS.index(finding)] = of.probability(by_finding[finding])
            called = (f for f, of in calibration.items() if by_finding[f] >= of.threshold)
            yield Prediction(film, probabilities, tuple(called), tuple(calibration))
