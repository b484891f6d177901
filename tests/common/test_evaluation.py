import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn.functional import binary_cross_entropy_with_logits

from common.evaluation import evaluate, evaluation_batch, loss_of, predict
from common.findings import UNKNOWN
from common.images import centre_crops
from common.metrics import auc_by_finding
from common.model import build_model, load_state, state_of, to_input
from common.resident import copy_to
from tests.support.shards import make_shard
from tests.support.states import same_bits

CPU = torch.device("cpu")


def slow_loss(
    logits: list[list[float]], labels: list[list[int]]
) -> tuple[float, list[list[float]]]:
    """The loss and its gradient, one known label after the other."""
    terms = []
    gradient = [[0.0] * len(row) for row in logits]
    known = sum(label != UNKNOWN for row in labels for label in row)
    for i, row in enumerate(labels):
        for j, label in enumerate(row):
            if label != UNKNOWN:
                p = 1 / (1 + math.exp(-logits[i][j]))
                terms.append(-math.log(p if label == 1 else 1 - p))
                gradient[i][j] = (p - label) / known
    return sum(terms) / max(known, 1), gradient


def loss_and_gradient(logits: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    given = torch.tensor(logits, requires_grad=True)
    loss = loss_of(given, torch.from_numpy(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return loss.detach(), given.grad


@given(
    hnp.arrays(np.float32, (5, 14), elements=st.integers(-40, 40).map(lambda tenths: tenths / 8)),
    hnp.arrays(np.uint8, (5, 14), elements=st.sampled_from([0, 1, UNKNOWN])),
)
def test_the_loss_is_the_mean_over_the_known_labels(logits: np.ndarray, labels: np.ndarray) -> None:
    loss, gradient = loss_and_gradient(logits, labels)
    expected, slopes = slow_loss(logits.tolist(), labels.tolist())
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-5, atol=1e-7)
    assert not gradient[torch.from_numpy(labels == UNKNOWN)].any()


def test_no_known_label_is_no_loss_and_no_gradient() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 14)).astype(np.float32)
    loss, gradient = loss_and_gradient(logits, np.full((6, 14), UNKNOWN, np.uint8))
    assert float(loss) == 0
    assert not gradient.any()


@pytest.mark.parametrize("images", [1, 3, 16, 64])
def test_where_all_is_known_the_loss_is_the_plain_mean_in_every_bit(images: int) -> None:
    rng = np.random.default_rng(images)
    logits = rng.normal(0, 3, (images, 14)).astype(np.float32)
    labels = (rng.random((images, 14)) < 0.3).astype(np.uint8)
    loss, gradient = loss_and_gradient(logits, labels)
    given = torch.tensor(logits, requires_grad=True)
    plain = binary_cross_entropy_with_logits(given, torch.from_numpy(labels).float())
    plain.backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert float(loss) == float(plain.detach())
    assert torch.equal(gradient, given.grad)


def test_images_without_a_known_label_are_not_scored(tmp_path: Path) -> None:
    model = build_model("densenet-tiny", 1)
    shard = make_shard(tmp_path / "a", unknown=0.3, unlabelled=range(0, 40, 4))
    scored = evaluate(model, shard, np.arange(40), CPU)
    assert scored.images == 30
    others = np.array([i for i in range(40) if i % 4])
    assert scored == evaluate(model, shard, others, CPU)
    whole = make_shard(tmp_path / "b")
    assert scored.loss != evaluate(model, whole, others, CPU).loss


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


def test_films_in_a_devices_memory_have_the_same_logits(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=90)
    model, films = build_model("densenet-tiny"), np.arange(0, 90, 3)
    resident = replace(shard, resident=copy_to(shard.images, CPU))
    assert torch.equal(predict(model, resident, films, CPU), predict(model, shard, films, CPU))


@pytest.mark.parametrize(
    ("device", "size", "films"),
    [
        ("cpu", 64, 64),
        ("cpu", 256, 16),
        ("cuda", 72, 128),
        ("cuda", 256, 128),
        ("cuda", 512, 32),
        ("cuda", 1024, 8),
    ],
)
def test_batches_are_as_large_as_is_fast_and_fits(device: str, size: int, films: int) -> None:
    assert evaluation_batch(size, torch.device(device)) == films
