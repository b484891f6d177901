"""Features of images in evaluation mode, and how many dimensions they span."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.evaluation import EVALUATION_BATCH
from common.images import centre_crops, to_device
from common.model import to_input
from common.shard import Bytes

Features = npt.NDArray[np.float32]


def pooled_features(backbone: nn.Module, images: Bytes, device: torch.device) -> Features:
    """Return the backbone's features of the images' central crops, in evaluation mode.

    The backbone's training mode is restored afterwards.

    Args:
        backbone: B x 3 x C x C to B x F.
        images: uint8, N x S x S.
        device: Device of the backbone.

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


def rankme(features: Features) -> float:
    """Return the effective rank of features: the dimensions that they span, from 1 to min(N, F).

    The exponential of the entropy of the singular values, normalised to sum 1 (Garrido et al. 2023,
    "RankMe", section 3).

    Args:
        features: float32, N x F.

    Returns:
        The rank; 0 if a feature is not finite.
    """
    if not np.isfinite(features).all():
        return 0.0
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
