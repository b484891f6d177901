import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.evaluation import evaluate
from common.frozen import FrozenFeatures
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


@pytest.mark.fault(
    "the server's GPU is out of memory while it scores --test",
    "the CPU scores that model; the next one is tried on the GPU again",
)
@pytest.mark.parametrize(
    ("error", "left"),
    [(torch.OutOfMemoryError(), "meta"), (torch.AcceleratorError("gone", 1), "cpu")],
    ids=lambda value: type(value).__name__,
)
def test_when_the_accelerator_fails_the_cpu_scores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    left: str,
) -> None:
    tester = testing.Tester(make_shard(tmp_path / "test").path, "densenet-tiny", "cpu", 1)
    expected = tester(STATE)
    predict = FrozenFeatures.predict

    def fails(self: FrozenFeatures, *given: Any) -> torch.Tensor:
        if given[3].type == "meta":
            raise error
        return predict(self, *given)

    monkeypatch.setattr(FrozenFeatures, "predict", fails)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    tester._device = torch.device("meta")
    with caplog.at_level(logging.WARNING):
        assert [tester(STATE), tester(STATE)] == [expected, expected]
    assert len(caplog.messages) == (2 if left == "meta" else 1)
    assert "meta failed" in caplog.text
    assert tester._device.type == left
