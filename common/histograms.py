"""Histograms of a model's logits, by finding: films that have it, and films known not to have it.

They add up over hospitals, so that an AUC of all films follows from them, not a mean of AUCs.
:mod:`common.readings` reads numbers from them. Logits are binned, not probabilities: probabilities
of rare findings crowd into few bins.
"""

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from common.findings import FINDINGS, UNKNOWN
from common.scores import MOST_IMAGES

BINS = 512

LIMIT = 14.0
"""Bins are equally wide from -LIMIT to LIMIT; logits beyond count in the first and the last."""

EDGES: npt.NDArray[np.float64] = np.linspace(-LIMIT, LIMIT, BINS + 1)
"""Edges of the bins; a logit on an edge is in the bin above it."""

CENTRES: npt.NDArray[np.float64] = (EDGES[:-1] + EDGES[1:]) / 2

SHAPE = (2, len(FINDINGS), BINS)

WIRE_TYPE = np.dtype("<u4")

WIRE_BYTES = WIRE_TYPE.itemsize * 2 * len(FINDINGS) * BINS

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histograms:
    """Counts of films by finding and bin.

    Attributes:
        positives: Films that have the finding: int64, 14 x 512.
        negatives: Films that are known not to have it: the same.
    """

    positives: Counts
    negatives: Counts

    def __post_init__(self) -> None:
        for counts in (self.positives, self.negatives):
            if counts.shape != SHAPE[1:] or (counts < 0).any():
                raise ValueError(f"no counts of {SHAPE[1]} findings in {BINS} bins")

    def __add__(self, other: "Histograms") -> "Histograms":
        return Histograms(self.positives + other.positives, self.negatives + other.negatives)

    def of(self, finding: str) -> tuple[Counts, Counts]:
        """Return a finding's positives and negatives: int64, 512 each."""
        row = FINDINGS.index(finding)
        return self.positives[row], self.negatives[row]

    @property
    def films(self) -> int:
        """The most films that one finding is known in."""
        return int((self.positives + self.negatives).sum(axis=1).max())

    def to_text(self) -> str:
        """Return them as text: zlib of 2 x 14 x 512 little-endian uint32, in base64.

        Raises:
            ValueError: More films than one hospital may have.
        """
        if self.films > MOST_IMAGES:
            raise ValueError(f"{self.films} films are more than {MOST_IMAGES}")
        counts = np.stack([self.positives, self.negatives]).astype(WIRE_TYPE)
        return base64.b64encode(zlib.compress(counts.tobytes(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> "Histograms":
        """Return the histograms in a text of :meth:`to_text`, which anybody may have made.

        Never decompresses to more than :data:`WIRE_BYTES`.

        Raises:
            ValueError: It is no such text, or counts more than :data:`common.scores.MOST_IMAGES`
                films.
        """
        data = zlib.decompressobj()
        try:
            raw = data.decompress(base64.b64decode(text, validate=True), WIRE_BYTES + 1)
        except (ValueError, zlib.error):
            raise ValueError("no histograms") from None
        if len(raw) != WIRE_BYTES or not data.eof or data.unused_data:
            raise ValueError("no histograms")
        positives, negatives = np.frombuffer(raw, WIRE_TYPE).reshape(SHAPE).astype(np.int64)
        found = cls(positives, negatives)
        if found.films > MOST_IMAGES:
            raise ValueError(f"histograms of more than {MOST_IMAGES} films")
        return found


def _checked(text: str) -> str:
    Histograms.from_text(text)
    return text


HistogramsText = Annotated[str, Field(max_length=2 * WIRE_BYTES), AfterValidator(_checked)]
"""A text of :meth:`Histograms.to_text`; incompressible counts take 4/3 of their bytes."""


def histograms_of(labels: npt.NDArray[np.uint8], logits: npt.NDArray[Any]) -> Histograms:
    """Return the histograms of a model's logits; unknown labels are left out.

    Args:
        labels: uint8, N x 14, 0, 1 or UNKNOWN.
        logits: float, N x 14.

    Raises:
        ValueError: The logit of a known label is NaN.
    """
    if np.isnan(logits[labels != UNKNOWN]).any():
        raise ValueError("some logits are NaN: the model has diverged")
    bins = np.searchsorted(EDGES, logits.astype(np.float64), side="right") - 1
    bins = np.clip(bins, 0, BINS - 1)
    positives, negatives = np.zeros(SHAPE, np.int64)
    for row, (known, column) in enumerate(zip(labels.T, bins.T, strict=True)):
        positives[row] = np.bincount(column[known == 1], minlength=BINS)
        negatives[row] = np.bincount(column[known == 0], minlength=BINS)
    return Histograms(positives, negatives)


def total(histograms: Iterable[Histograms]) -> Histograms | None:
    """Return the sum of histograms; None if there are none."""
    found = list(histograms)
    if not found:
        return None
    return Histograms(
        np.sum([each.positives for each in found], axis=0),
        np.sum([each.negatives for each in found], axis=0),
    )
