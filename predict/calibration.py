"""Probabilities that are calibrated, and thresholds, by the hospitals' validation films.

A run keeps histograms of the logits of these films (:mod:`common.histograms`). From those of all
hospitals together each finding gets a line that its logit goes through before the sigmoid (Platt,
"Probabilistic outputs for support vector machines", 1999, section 2.2, with its smoothed targets),
and the threshold with the largest sum of sensitivity and specificity (Youden, Cancer 1950).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import BadInput
from common.findings import FINDINGS
from common.histograms import CENTRES, Counts, Histograms, HistogramsText, total
from common.readings import youden
from predict.run_folder import Run

FEWEST = 20
"""With fewer films that have a finding, or that do not, its probability stays as it is."""

TEXTS = TypeAdapter(dict[str, HistogramsText])


class Calibrated(BaseModel):
    """How a finding's logit becomes a probability, and where its threshold is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    slope: float = Field(gt=0)
    intercept: float
    threshold: float = Field(description="a logit of the model; films at or above it are called")
    sensitivity: float = Field(ge=0, le=1, description="at the threshold, on the same films")
    specificity: float = Field(ge=0, le=1, description="at the threshold, on the same films")
    positives: int = Field(description="validation films that have the finding")
    negatives: int = Field(description="validation films that are known not to have it")

    def probability(self, logit: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the calibrated probability of a logit."""
        line = self.slope * np.asarray(logit, np.float64) + self.intercept
        return np.asarray(1 / (1 + np.exp(-line)))


Calibration = Mapping[str, Calibrated]
"""By finding; findings with too few films are not in it."""


def calibration_of(run: Run, number: int) -> dict[str, Calibrated]:
    """Return what the hospitals' films tell of the model that a round has made.

    Args:
        run: The model's run.
        number: The round's. The hospitals scored its model in the next one, or at the end.

    Raises:
        BadInput: The file is damaged.
    """
    path = run.folder / "histograms" / f"round-{number + 1:04d}.json"
    try:
        texts = TEXTS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError:
        raise BadInput(f"{path}: damaged; restore it from a backup") from None
    together = total(Histograms.from_text(text) for text in texts.values())
    if together is None:
        return {}
    found = {finding: calibrated(*together.of(finding)) for finding in FINDINGS}
    return {finding: of for finding, of in found.items() if of is not None}


def calibrated(positives: Counts, negatives: Counts) -> Calibrated | None:
    """Return a finding's line and threshold; None with too few films or an AUC below a half.

    Args:
        positives: int, 512: films with the finding, by bin of their logit.
        negatives: int, 512: films without it.
    """
    point = youden(positives, negatives)
    having, lacking = int(positives.sum()), int(negatives.sum())
    if point is None or min(having, lacking) < FEWEST:
        return None
    slope, intercept = _line(positives, negatives)
    if slope <= 0:
        return None
    return Calibrated(
        slope=slope,
        intercept=intercept,
        threshold=point.threshold,
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        positives=having,
        negatives=lacking,
    )


def _line(positives: Counts, negatives: Counts) -> tuple[float, float]:
    """Return slope and intercept; smoothed targets keep them finite where the two are apart."""
    from sklearn.linear_model import LogisticRegression  # takes a second: not for --help

    high = (positives.sum() + 1) / (positives.sum() + 2)
    low = 1 / (negatives.sum() + 2)
    yes = positives * high + negatives * low
    no = positives * (1 - high) + negatives * (1 - low)
    fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.tile(CENTRES, 2)[:, None],
        np.repeat([1, 0], len(CENTRES)),
        sample_weight=np.concatenate([yes, no]),
    )
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])
