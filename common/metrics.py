"""How good a model is: the area under the ROC curve, finding by finding."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.metrics import roc_auc_score

from common.findings import FINDINGS

Auc = Annotated[float, Field(ge=0, le=1)]

AucByFinding = dict[str, Auc | None]


def auc_by_finding(labels: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32]) -> AucByFinding:
    """Return the AUC of every finding; None where it is undefined.

    The AUC of a finding that all images have, or none has, is undefined: neither 0 nor 0.5.

    Args:
        labels: uint8, N x 14, 0 or 1.
        scores: float, N x 14; higher means more likely. Logits serve as well as probabilities.
    """
    return {
        finding: min(1.0, float(roc_auc_score(labels[:, i], scores[:, i])))  # it rounds
        if 0 < labels[:, i].sum() < len(labels)
        else None
        for i, finding in enumerate(FINDINGS)
    }


def mean_auc(by_finding: AucByFinding) -> float | None:
    """Return the mean over the findings whose AUC is defined; None if there is none."""
    defined = [auc for auc in by_finding.values() if auc is not None]
    return sum(defined) / len(defined) if defined else None


def weighted_auc(hospitals: list[tuple[int, AucByFinding]]) -> AucByFinding:
    """Return each finding's mean AUC over the hospitals where it is defined.

    Args:
        hospitals: For each hospital its number of validation images, which is its weight, and
            its own AUCs.
    """
    means: AucByFinding = {}
    for finding in FINDINGS:
        defined = [(n, auc) for n, by in hospitals if (auc := by.get(finding)) is not None]
        total = sum(n for n, _ in defined)
        means[finding] = sum(n * auc for n, auc in defined) / total if total else None
    return means
