from pathlib import Path

import numpy as np
import torch

from common.evaluation import evaluate
from common.images import centre_crops
from common.metrics import auc_by_finding
from common.model import build_model, load_state, state_of, to_input
from tests.support.shards import make_shard
from tests.support.states import same_bits

CPU = torch.device("cpu")


def test_evaluation_leaves_batch_norm_alone_and_never_mixes_images(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=70)
    model = build_model("densenet-tiny").train()
    before = state_of(model)
    together = evaluate(model, shard, np.arange(70), CPU)
    assert same_bits(state_of(model), before)
    # By hand, one image at a time: in training mode each would be normalised by itself.
    model.eval()
    with torch.no_grad():
        logits = np.concatenate(
            [
                model(to_input(torch.from_numpy(centre_crops(shard.images[i : i + 1])))).numpy()
                for i in range(70)
            ]
        )
    by_hand = auc_by_finding(shard.labelled(), logits)
    for finding, auc in together.auc_by_finding.items():
        expected = by_hand[finding]
        assert auc is not None
        assert expected is not None
        assert abs(auc - expected) < 0.01
    alone = evaluate(model.train(), shard, np.arange(5), CPU)
    assert alone.images == 5


def test_nothing_to_score_is_undefined(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    scores = evaluate(build_model("densenet-tiny"), shard, np.arange(0), CPU)
    assert (scores.images, scores.loss, scores.auc) == (0, None, None)
    assert set(scores.auc_by_finding.values()) == {None}


def test_a_diverged_model_has_no_score(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    model = build_model("densenet-tiny")
    load_state(model, {"classifier.bias": np.full(14, np.nan, np.float32)})
    assert evaluate(model, shard, np.arange(40), CPU).auc is None
