from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation import predict
from common.frozen import FrozenFeatures
from common.model import build_model
from tests.support.shards import make_shard

CPU = torch.device("cpu")


def test_a_frozen_backbone_runs_once_and_the_logits_are_the_same(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", images=70)
    model = build_model("densenet-tiny", 0)
    runs: list[None] = []
    model.features.register_forward_hook(lambda *_: runs.append(None))
    features, films = FrozenFeatures(), np.arange(70)

    def scored(backbone: str | None, indices: np.ndarray = films) -> bool:
        """Return whether the backbone ran, once the logits are seen to be right."""
        before = len(runs)
        logits = features.predict(model.train(), shard, indices, CPU, backbone)
        ran = len(runs) > before
        assert torch.equal(logits, predict(model, shard, indices, CPU))
        return ran

    assert scored("one")
    torch.nn.init.normal_(model.classifier.weight)
    assert not scored("one")  # with a partial batch at the end
    assert scored("one", films[:5])
    torch.nn.init.normal_(model.features.conv0.weight)
    assert scored("another", films[:5])
    assert scored(None)
    assert scored(None)


def test_features_that_are_not_whole_are_not_kept(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", images=70)
    model = build_model("densenet-tiny", 0)
    features, films = FrozenFeatures(), np.arange(70)
    calls = iter([None])

    with pytest.raises(StopIteration):
        features.predict(model, shard, films, CPU, "one", lambda: next(calls))
    logits = features.predict(model, shard, films, CPU, "one")
    assert torch.equal(logits, predict(model, shard, films, CPU))
    assert torch.equal(features.predict(model, shard, films, CPU, "one"), logits)
    assert features.predict(model, shard, films[:0], CPU, "one").shape == (0, 14)
