from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.images import centre_crops
from common.model import build_model, to_input
from pretrain.features import Features, pooled_features, rankme
from pretrain.networks import take_backbone
from tests.support.shards import make_shard

CPU = torch.device("cpu")


def test_features_are_those_of_the_central_crops(tmp_path: Path) -> None:
    images = make_shard(tmp_path / "s", images=70).images
    backbone, width = take_backbone(build_model("densenet-tiny"))
    backbone.train()
    features = pooled_features(backbone, images, CPU)
    assert features.shape == (70, width)
    assert backbone.training
    backbone.eval()
    with torch.inference_mode():
        alone = backbone(to_input(torch.from_numpy(centre_crops(images[66:67]))))
    np.testing.assert_allclose(features[66:67], alone.numpy(), rtol=1e-4, atol=1e-6)


def test_the_training_mode_comes_back_after_an_error(tmp_path: Path) -> None:
    images = make_shard(tmp_path / "s", images=4).images
    backbone = nn.Sequential(nn.Linear(1, 1)).train()
    with pytest.raises(RuntimeError):
        pooled_features(backbone, images, CPU)
    assert backbone.training


def of_rank(rank: int, n: int = 200, width: int = 32) -> Features:
    """Return features with as many singular values, all the same."""
    rng = np.random.default_rng(rank)
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (n, width))
    features: Features = (7 * left @ right.T).astype(np.float32)
    return features


@pytest.mark.parametrize("rank", [1, 2, 5, 32])
def test_the_rank_of_matrices_of_known_rank(rank: int) -> None:
    assert rankme(of_rank(rank)) == pytest.approx(rank, rel=1e-3)


def test_singular_values_of_different_sizes_count_by_their_entropy() -> None:
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    expected = np.exp(-sum(share * np.log(share) for share in shares))
    assert rankme(np.diag(3 * shares).astype(np.float32)) == pytest.approx(expected)


def test_noise_spans_nearly_all_dimensions_and_one_point_a_single_one() -> None:
    rng = np.random.default_rng(0)
    assert 30 < rankme(rng.standard_normal((4096, 32)).astype(np.float32)) <= 32
    assert rankme(np.ones((64, 32), np.float32)) == pytest.approx(1)
    assert rankme(np.zeros((64, 32), np.float32)) == 1


def test_features_that_overflow_have_no_rank() -> None:
    assert rankme(np.array([[1, np.inf], [0, 1]], np.float32)) == 0
