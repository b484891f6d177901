"""What has to be right in each method beside its loss."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.methods.base import Method, embedding_std
from pretrain.methods.byol import BYOL
from pretrain.methods.mocov2 import MoCoV2
from pretrain.methods.rotation import Rotation, turn
from pretrain.methods.simclr import SimCLR
from pretrain.networks import SplitBatchNorm, split_batch_norm
from pretrain.recipe import MethodName
from tests.support.pretraining import tiny

BATCH = 8
METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")


PATIENTS = torch.arange(BATCH)


def some_views(count: int = 2, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, 3, 32, 32, generator=rng) for _ in range(count)]


def step(method: Method, views: list[Tensor]) -> None:
    """Take a plain step of gradient descent."""
    method.zero_grad()
    method(views, PATIENTS).loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_parameter_gets_a_gradient(name: MethodName) -> None:
    method = tiny(name)
    views = some_views(1 if name == "rotation" else 2)
    step(method, views)
    for key, parameter in method.named_parameters():
        trained = not key.startswith(("key_encoder.", "target."))
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None) == trained, key


@pytest.mark.parametrize("name", METHODS)
def test_weights_depend_on_the_seed_alone(name: MethodName) -> None:
    torch.manual_seed(7)
    one = tiny(name, 1).state_dict()
    torch.rand(5)
    again, other = tiny(name, 1).state_dict(), tiny(name, 2).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    heads = [key for key in one if "head" in key and one[key].dtype.is_floating_point]
    assert any(not torch.equal(one[key], other[key]) for key in heads)


class TestMoCo:
    def method(self) -> MoCoV2:
        method = tiny("mocov2")
        assert isinstance(method, MoCoV2)
        return method

    def test_the_key_encoder_starts_as_a_copy_head_included(self) -> None:
        method = self.method()
        own = dict(method.encoder.named_parameters())
        keys = dict(method.key_encoder.named_parameters())
        assert own.keys() == keys.keys()
        assert any(name.startswith("head.") for name in own)
        assert all(torch.equal(own[name], keys[name]) for name in own)
        # A copy, not the same tensors.
        assert all(own[name].data_ptr() != keys[name].data_ptr() for name in own)

    def test_the_key_encoder_follows_by_ema_and_by_nothing_else(self) -> None:
        method = self.method()
        before = [p.detach().clone() for p in method.key_encoder.parameters()]
        step(method, some_views())
        for was, now in zip(before, method.key_encoder.parameters(), strict=True):
            assert torch.equal(was, now)
        method.prepare(0.5)
        pairs = zip(before, method.encoder.parameters(), strict=True)
        expected = [0.999 * was + 0.001 * online for was, online in pairs]
        for want, now in zip(expected, method.key_encoder.parameters(), strict=True):
            torch.testing.assert_close(now.detach(), want.detach())
        assert any(
            not torch.equal(was, now)
            for was, now in zip(before, method.key_encoder.parameters(), strict=True)
        )

    def test_the_queue_wraps_and_drops_the_oldest_first(self) -> None:
        method = self.method()
        expected = [*method.queue.clone()]
        patients = [-1] * len(expected)
        place = 0
        for number in range(5):  # 40 keys through a queue of 24
            keys = normalize(
                torch.randn(BATCH, 128, generator=torch.Generator().manual_seed(number))
            )
            method._enqueue(keys, BATCH * number + PATIENTS)
            for row, key in enumerate(keys):
                expected[place] = key
                patients[place] = BATCH * number + row
                place = (place + 1) % len(expected)
            assert torch.equal(method.queue, torch.stack(expected))
            assert method.queue_patients.tolist() == patients
        assert int(method.position) == place

    def test_a_batch_that_does_not_divide_the_queue_wraps_too(self) -> None:
        method = self.method()
        keys = torch.arange(10.0).unsqueeze(1).expand(10, 128)
        for _ in range(3):
            method._enqueue(keys, torch.arange(10))
        expected = [*range(4, 10), *range(6, 10), *range(10), *range(4)]
        assert method.queue[:, 0].tolist() == method.queue_patients.tolist() == expected

    def test_the_negatives_are_the_queue_before_the_batch_entered_it(self) -> None:
        method = self.method()
        before = method.queue.clone()
        views = some_views()
        probe = copy.deepcopy(method)
        loss = method(views, PATIENTS).loss
        query = normalize(probe.encoder(views[0]))
        key = probe.encode_keys(views[1])
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ before.T], dim=1) / 0.2
        torch.testing.assert_close(loss, (logits.logsumexp(1) - logits[:, 0]).mean())
        assert torch.equal(method.queue[:BATCH], key)
        assert torch.equal(method.queue_patients[:BATCH], PATIENTS)

    def test_older_keys_of_the_same_patient_are_no_negatives(self) -> None:
        method = self.method()
        method(some_views(), PATIENTS)
        before = method.queue.clone()
        views, patients = some_views(seed=1), PATIENTS // 2 + 4  # 4, 4, 5, 5, 6, 6, 7, 7
        probe = copy.deepcopy(method)
        loss = method(views, patients).loss
        query, key = normalize(probe.encoder(views[0])), probe.encode_keys(views[1])
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ before.T], dim=1) / 0.2
        for row, patient in enumerate(patients.tolist()):
            logits[row, 1 + patient] = -torch.inf  # at its place in the queue
        torch.testing.assert_close(loss, (logits.logsumexp(1) - logits[:, 0]).mean())

    def test_keys_come_back_in_the_order_of_their_images(self) -> None:
        method = self.method()
        assert not torch.equal(method.shuffle, torch.arange(BATCH))
        views = some_views(1)[0]
        keys = method.encode_keys(views)
        changed = views.clone()
        changed[3] += 1
        moved = (method.encode_keys(changed) - keys).abs().amax(dim=1)
        assert moved.argmax() == 3

    def test_a_key_is_what_an_encoder_makes_of_its_group(self) -> None:
        method = self.method()
        views = some_views(1)[0]
        expected = torch.empty(BATCH, 128)
        for group in method.shuffle.view(2, -1):
            ordinary = copy.deepcopy(method.encoder)  # the key encoder has its weights
            expected[group] = normalize(ordinary(views[group])).detach()
        torch.testing.assert_close(method.encode_keys(views), expected)

    def test_query_and_key_statistics_come_from_different_subsets(self) -> None:
        method = self.method()
        place = method.shuffle.tolist().index(0)
        groups = method.shuffle.view(2, -1)
        with_first, without = (groups[0], groups[1]) if place < 4 else (groups[1], groups[0])
        views = some_views(1)[0]
        changed = views.clone()
        changed[0] = 5 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(9))
        key_moved = (method.encode_keys(views) - method.encode_keys(changed)).abs().amax(dim=1)
        with torch.no_grad():
            query = method.encoder
            query_moved = (query(views) - query(changed)).abs().amax(dim=1)
        # A key feels the images of its own group alone, a query those of the whole batch.
        assert (key_moved[with_first] > 0).sum() > 1
        assert (key_moved[without] == 0).all()
        assert (query_moved[without] > 0).any()

    def test_no_running_statistics_of_the_queries_come_from_keys(self) -> None:
        method = self.method()
        method.encode_keys(some_views(1)[0])
        for name, buffer in method.encoder.named_buffers():
            if name.endswith("num_batches_tracked"):
                assert int(buffer) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_batch_norm_is_batch_norm_of_each_group(dtype: torch.dtype) -> None:
    whole = nn.BatchNorm2d(3)
    nn.init.uniform_(whole.weight)
    nn.init.uniform_(whole.bias)
    holder = nn.Sequential(whole)
    split_batch_norm(holder, 4)
    split = holder[0]
    assert isinstance(split, SplitBatchNorm)
    images = 9 + 0.5 * torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last)
    images = images.to(dtype)
    expected = torch.cat([whole(images[2 * i : 2 * i + 2]) for i in range(4)])
    for found in (split(images), split._at_once(images)):
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


class TestBYOL:
    def method(self) -> BYOL:
        method = tiny("byol")
        assert isinstance(method, BYOL)
        return method

    def test_the_target_never_gets_a_gradient_and_moves_by_ema_alone(self) -> None:
        method = self.method()
        before = [p.detach().clone() for p in method.target.parameters()]
        step(method, some_views())
        for was, now in zip(before, method.target.parameters(), strict=True):
            assert now.grad is None
            assert torch.equal(was, now)
        method.prepare(0.5)
        for was, now, online in zip(
            before, method.target.parameters(), method.encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(now, 0.995 * was + 0.005 * online.detach())

    def test_neither_projector_nor_predictor_adds_a_bias_to_its_output(self) -> None:
        method = self.method()
        for head in (method.encoder.head, method.predictor):
            last = list(head.modules())[-1]
            assert isinstance(last, nn.Linear)
            assert last.bias is None

    def test_the_loss_is_symmetric(self) -> None:
        method = self.method()
        views = some_views()
        torch.testing.assert_close(
            copy.deepcopy(method)(views, PATIENTS).loss,
            copy.deepcopy(method)(views[::-1], PATIENTS).loss,
        )

    def test_the_target_normalises_by_the_batch_with_statistics_of_its_own(self) -> None:
        method = self.method()
        method(some_views(), PATIENTS)
        mean = "backbone.features.norm0.running_mean"
        own, target = dict(method.encoder.named_buffers()), dict(method.target.named_buffers())
        assert own[mean].data_ptr() != target[mean].data_ptr()
        assert not torch.equal(target[mean], torch.zeros_like(target[mean]))

    def test_without_predictor_the_first_loss_would_be_that_of_the_views(self) -> None:
        method = self.method()
        method.predictor = nn.Sequential()
        view = some_views(1)[0]
        # Target and online network are equal at first: the same view twice has no distance.
        assert float(method([view, view], PATIENTS).loss.detach()) == pytest.approx(0, abs=1e-5)


class TestRotation:
    def test_labels_match_images_turned_by_hand(self) -> None:
        image = np.arange(9).reshape(3, 3)
        by_hand = {
            0: [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
            1: [[2, 5, 8], [1, 4, 7], [0, 3, 6]],
            2: [[8, 7, 6], [5, 4, 3], [2, 1, 0]],
            3: [[6, 3, 0], [7, 4, 1], [8, 5, 2]],
        }
        views = torch.from_numpy(np.stack([image, image + 9])[:, None]).float()
        turned, labels = turn(views)
        assert turned.shape == (8, 1, 3, 3)
        assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        for i, label in enumerate(labels.tolist()):
            assert (turned[i, 0] - 9 * (i % 2)).tolist() == by_hand[label]

    def test_an_upright_network_is_scored_as_such(self) -> None:
        method = tiny("rotation")
        assert isinstance(method, Rotation)
        head = method.encoder.head
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([9.0, 0, 0, 0]))
        signs = method(some_views(1), PATIENTS).signs
        assert float(signs["accuracy"]) == 0.25
        assert float(signs["embedding_std"]) == pytest.approx(0, abs=1e-6)


def test_simclr_normalises_both_views_together() -> None:
    method = tiny("simclr")
    assert isinstance(method, SimCLR)
    method(some_views(), PATIENTS)
    counts = [b for n, b in method.named_buffers() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {1}


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [
        (lambda: torch.ones(64, 8), 0.0),
        (lambda: torch.randn(4096, 64, generator=torch.Generator().manual_seed(0)), 1.0),
    ],
)
def test_embeddings_spread(embeddings: Callable[[], Tensor], expected: float) -> None:
    assert float(embedding_std(embeddings())) == pytest.approx(expected, abs=0.01)
