"""Scores features of a labelled shard, by k-NN or logistic regression."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.findings import FINDINGS
from common.metrics import auc_by_finding
from common.scores import AucByFinding, mean_auc
from common.shard import Bytes, Shard
from pretrain.features import Features

NEIGHBOURS = 20
FOLDS = 5

PENALTIES = tuple(10 ** (half / 2) for half in range(2, 9))
"""Candidate weights of the squared norm, on features of unit variance."""


def knn_auc(features: Features, shard: Shard) -> float | None:
    """Return the mean AUC of a k-NN classifier, cross-validated by patient.

    The score of an image is the share of its nearest neighbours (by cosine, among other patients)
    with a finding.

    Args:
        features: float32, N x F: features of the shard's images.
        shard: Labelled shard with N images.

    Returns:
        The mean over the findings, or None if no finding has both values.

    Raises:
        BadInput: The shard has no labels.
    """
    labels = shard.labelled()
    cuts = _folds(shard)
    if not cuts:
        return None
    neighbours = min(NEIGHBOURS, *(len(training) for training, _ in cuts))
    model = KNeighborsRegressor(neighbours, metric="cosine")
    scores = cross_val_predict(model, features, labels.astype(np.float32), cv=cuts)
    return mean_auc(auc_by_finding(labels, scores))


class LinearEvaluation(NamedTuple):
    """Result of logistic regressions on frozen features.

    Attributes:
        scores: float32, M x 14: scores of the test images, higher for more likely.
        auc_by_finding: AUC of ``scores``; None for a finding without both values in both sets.
        penalty: Weight of the squared norm, the same for all findings.
        held_out: float32, N x 14: scores of the training images by regressions on other patients;
            None for a single patient.
        inside_auc: Mean AUC of ``held_out``, which chose the penalty; None if undefined.
    """

    scores: Features
    auc_by_finding: AucByFinding
    penalty: float
    held_out: Features | None
    inside_auc: float | None


def linear_evaluation(
    train: Features, shard: Shard, test: Features, labels: Bytes
) -> LinearEvaluation:
    """Fit a logistic regression for each finding on frozen features, and score test images.

    The penalty is chosen on the training images alone, cross-validated by patient.

    Args:
        train: float32, N x F: features of the shard's images.
        shard: Labelled shard with N images, to fit on.
        test: float32, M x F: features of the test images.
        labels: uint8, M x 14, 0 or 1: labels of the test images.

    Raises:
        BadInput: The shard has no labels.
    """
    known = shard.labelled()
    cuts = _folds(shard)
    inside: dict[float, float | None] = {PENALTIES[-1]: None}
    held_out: dict[float, Features] = {}
    for penalty in PENALTIES if cuts else ():
        held_out[penalty] = np.zeros(known.shape, np.float32)
        for fit, rest in cuts:
            held_out[penalty][rest] = _regression(train[fit], known[fit], train[rest], penalty)
        inside[penalty] = mean_auc(auc_by_finding(known, held_out[penalty]))
    chosen = max(inside, key=lambda penalty: inside[penalty] or 0)
    outcome = _regression(train, known, test, chosen)
    by_finding = auc_by_finding(labels, outcome)
    constant = known.min(axis=0) == known.max(axis=0)
    by_finding |= {FINDINGS[column]: None for column in np.flatnonzero(constant)}
    return LinearEvaluation(outcome, by_finding, chosen, held_out.get(chosen), inside[chosen])


def _regression(train: Features, labels: Bytes, test: Features, penalty: float) -> Features:
    """Return the decision values of the test images: float32, M x 14."""
    scores = np.zeros((len(test), labels.shape[1]), np.float32)
    for column, known in enumerate(labels.T):
        if known.min() < known.max():
            regression = LogisticRegression(C=1 / penalty, max_iter=500)
            model: Any = make_pipeline(StandardScaler(), regression)
            # Several threads are slower on matrices this small.
            with threadpool_limits(1):
                scores[:, column] = model.fit(train, known).decision_function(test)
    return scores


def _folds(shard: Shard) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the training and held-out indices of folds by patient; no folds for one patient."""
    patients = [entry.patient for entry in shard.entries]
    folds = min(FOLDS, len(set(patients)))
    return list(GroupKFold(folds).split(patients, groups=patients)) if folds > 1 else []
