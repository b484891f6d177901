"""What a backbone has learned, told from its features and a labelled shard."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from common.data.shard import Bytes, Shard
from common.evaluation import EVALUATION_BATCH
from common.findings import FINDINGS
from common.images import centre_crops, to_device
from common.metrics import AucByFinding, auc_by_finding, mean_auc
from common.model import to_input

Features = npt.NDArray[np.float32]

NEIGHBOURS = 20
FOLDS = 5


def pooled_features(backbone: nn.Module, images: Bytes, device: torch.device) -> Features:
    """Return what the backbone, in evaluation mode, makes of the images' central crops.

    Its training mode is as before afterwards.

    Args:
        backbone: B x 3 x C x C to B x F.
        images: uint8, N x S x S.
        device: Where the backbone is.

    Returns:
        float32, N x F.
    """
    training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            parts = [
                backbone(
                    to_input(to_device(centre_crops(images[i : i + EVALUATION_BATCH]), device))
                )
                for i in range(0, len(images), EVALUATION_BATCH)
            ]
            features: Features = torch.cat(parts).float().cpu().numpy()
    finally:
        backbone.train(training)
    return features


def knn_auc(features: Features, shard: Shard) -> float | None:
    """Return the mean AUC of the nearest neighbours' labels, cross-validated by patient.

    An image is scored by the share of its nearest neighbours, by cosine among other patients, that
    show a finding.

    Args:
        features: float32, N x F, of the shard's images.
        shard: Labelled, N images.

    Returns:
        The mean over the findings, or None where no finding has both values.

    Raises:
        BadInput: The shard has no labels.
    """
    labels = shard.labelled()
    patients = [entry.patient for entry in shard.entries]
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return None
    cuts = list(GroupKFold(folds).split(features, groups=patients))
    neighbours = min(NEIGHBOURS, *(len(training) for training, _ in cuts))
    model = KNeighborsRegressor(neighbours, metric="cosine")
    scores = cross_val_predict(model, features, labels.astype(np.float32), cv=cuts)
    return mean_auc(auc_by_finding(labels, scores))


def linear_evaluation(
    train: Features, train_labels: Bytes, test: Features, test_labels: Bytes, penalty: float = 100.0
) -> AucByFinding:
    """Return the AUC of a logistic regression for each finding on frozen features.

    Args:
        train: float32, N x F.
        train_labels: uint8, N x 14, 0 or 1.
        test: float32, M x F.
        test_labels: uint8, M x 14, 0 or 1.
        penalty: Weight of the squared norm, on features of unit variance.

    Returns:
        By finding; None for one that does not have both values in both sets.
    """
    scores = np.zeros(test_labels.shape, np.float32)
    constant = train_labels.min(axis=0) == train_labels.max(axis=0)
    for column in np.flatnonzero(~constant):
        model: Any = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=500)
        )
        scores[:, column] = model.fit(train, train_labels[:, column]).decision_function(test)
    by_finding = auc_by_finding(test_labels, scores)
    return by_finding | {FINDINGS[column]: None for column in np.flatnonzero(constant)}
