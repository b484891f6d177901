from pathlib import Path

import numpy as np

from common.evaluation import evaluate
from common.model import build_model, choose_device, load_state
from server.rounds import testing
from tests.support.hospitals import STATE
from tests.support.shards import make_shard


def test_the_test_is_of_the_known_labels_alone(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "test", unknown=0.3, unlabelled=range(0, 40, 4))
    scores = testing.Tester(shard.path, "densenet-tiny", "cpu", 1)(STATE)
    model = build_model("densenet-tiny")
    load_state(model, STATE)
    labelled = np.array([i for i in range(40) if i % 4])
    assert scores.images == 30
    assert scores == evaluate(model, shard, labelled, choose_device("cpu"))
