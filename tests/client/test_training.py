"""What the options of local training do, each against a slow and obvious reference."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from client.batches import Batch, augmented, batches, light_views, mixed, one_ahead
from client.local.base import LocalTraining
from client.loss import MOST_WEIGHT, batch_loss, positive_weights
from client.training import train
from common.augment import draw_views
from common.evaluation import loss_of
from common.findings import UNKNOWN
from common.images import random_crops
from common.model import build_model, load_state, set_training_mode, state_of, to_input
from common.options import Augment, Mode, Training
from common.resident import copy_to
from common.seeds import generator
from common.shard import Shard
from common.state import parameters_of, spec_of
from common.wire import pack, unpack
from tests.support.hospitals import STATE, instruction_of, plan_of
from tests.support.shards import make_shard

CPU = torch.device("cpu")

LIMIT = 0.8

EVERYTHING: dict[str, Any] = {
    "weight_decay": 0.001,
    "clip_norm": 0.5,
    "positive_weights": True,
    "augment": "light",
    "mixup": 0.4,
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return make_shard(tmp_path_factory.mktemp("training") / "a", unknown=0.2)


def trained(
    shard: Shard, number: int = 1, local: LocalTraining | None = None, **training: Any
) -> bytes:
    """Return the weights after a round on a shard."""
    model = build_model("densenet-tiny")
    load_state(model, STATE)
    instruction = instruction_of(plan_of(**training), number)
    train(model, shard, np.arange(40), instruction, "a", CPU, local=local)
    return pack(state_of(model))


def by_hand(
    shard: Shard, correct: Callable[[list[nn.Parameter]], None] = lambda _: None, decay: float = 0
) -> bytes:
    """Return the weights after a round of plain SGD: order, crops and steps, one by one."""
    model = build_model("densenet-tiny")
    load_state(model, STATE)
    parameters = set_training_mode(model, "finetune")
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=decay)
    rng = generator(5, "training", 1, "a")
    for _ in range(2):
        for chosen in np.array_split(rng.permutation(np.arange(40)), 3):
            inputs = to_input(torch.from_numpy(random_crops(shard.images[chosen], rng)))
            labels = torch.from_numpy(shard.labelled()[chosen])
            optimizer.zero_grad()
            loss_of(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            correct(parameters)
            optimizer.step()
    return pack(state_of(model))


def test_without_options_every_bit_is_that_of_plain_sgd(shard: Shard) -> None:
    off = {name: Training.model_fields[name].default for name in EVERYTHING}
    assert trained(shard, local_epochs=2, **off) == by_hand(shard)


def test_weight_decay_is_that_of_sgd(shard: Shard) -> None:
    found = trained(shard, local_epochs=2, weight_decay=0.01)
    assert found == by_hand(shard, decay=0.01) != by_hand(shard)


def test_no_step_goes_along_a_gradient_that_is_longer_than_the_limit(shard: Shard) -> None:
    lengths = []

    def clip(parameters: list[nn.Parameter]) -> None:
        gradients = [each.grad for each in parameters if each.grad is not None]
        length = math.sqrt(sum(float(value) ** 2 for g in gradients for value in g.flatten()))
        lengths.append(length)
        for gradient in gradients:
            gradient *= min(1.0, LIMIT / length)

    expected = unpack(by_hand(shard, clip), spec_of(STATE))
    found = trained(shard, local_epochs=2, clip_norm=LIMIT)
    assert min(lengths) < LIMIT < max(lengths)  # some are shortened, and some are not
    for name, array in unpack(found, spec_of(STATE)).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5)


def test_gradients_are_corrected_after_they_are_clipped(shard: Shard) -> None:
    class Correction(LocalTraining):
        longest = 0.0

        def correct(self, parameters: Mapping[str, nn.Parameter]) -> None:
            gradients = [each.grad for each in parameters.values() if each.grad is not None]
            length = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
            self.longest = max(self.longest, length)
            for gradient in gradients:
                gradient.zero_()

    local = Correction(Training(), {}, {}, {}, CPU)
    after = unpack(trained(shard, local=local, clip_norm=0.01), spec_of(STATE))
    assert local.longest == pytest.approx(0.01, rel=1e-3)
    assert pack(parameters_of(after)) == pack(parameters_of(STATE))


known = st.lists(
    st.lists(st.sampled_from([0, 0, 0, 1, UNKNOWN]), min_size=14, max_size=14), min_size=1
)


@given(known)
def test_weights_of_positives_are_counted(rows: list[list[int]]) -> None:
    found = positive_weights(np.array(rows, np.uint8)).tolist()
    for finding, weight in enumerate(found):
        column = [row[finding] for row in rows]
        positives, negatives = column.count(1), column.count(0)
        expected = min(max(negatives / positives, 1), MOST_WEIGHT) if positives else 1
        assert weight == pytest.approx(expected)


def test_the_rarest_finding_counts_no_more_than_the_bound() -> None:
    labels = np.zeros((101, 14), np.uint8)
    labels[0] = 1
    assert positive_weights(labels).tolist() == [MOST_WEIGHT] * 14


def slow_loss(logits: Tensor, labels: Tensor, weights: list[float]) -> float:
    """Return the mean over the known labels, one label after the other."""
    terms = []
    for i, j in np.ndindex(tuple(labels.shape)):
        p = 1 / (1 + math.exp(-float(logits[i, j])))
        if labels[i, j] == 1:
            terms.append(-weights[j] * math.log(p))
        elif labels[i, j] == 0:
            terms.append(-math.log(1 - p))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_mixed_films_is_the_mixture_of_their_losses(
    shard: Shard, weighted: bool
) -> None:
    labels = torch.from_numpy(shard.labelled()[:12])
    inputs = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    logits = torch.randn(12, 14, generator=torch.Generator().manual_seed(2))
    share, partners = 0.3, np.random.default_rng(3).permutation(12).tolist()
    batch = mixed(Batch(inputs, labels), share, torch.tensor(partners))
    for i, partner in enumerate(partners):
        expected = share * inputs[i] + (1 - share) * inputs[partner]
        torch.testing.assert_close(batch.inputs[i], expected)
    weights = torch.arange(1.0, 15.0) if weighted else None
    found = float(batch_loss(logits, batch, weights))
    by = weights.tolist() if weights is not None else [1.0] * 14
    own, other = slow_loss(logits, labels, by), slow_loss(logits, labels[partners], by)
    assert found == pytest.approx(share * own + (1 - share) * other, rel=1e-5)


@pytest.mark.parametrize("augment", ["light", "unflipped"])
def test_augmented_films_are_small_changes_of_crops(augment: Augment) -> None:
    ramp = np.tile(np.linspace(50, 200, 40).astype(np.uint8), (64, 40, 1))  # brighter to the right
    draws = draw_views(light_views(augment, 35 / 40), 64, 40, 35, np.random.default_rng(0))
    found = augmented(torch.from_numpy(ramp), torch.from_numpy(draws), augment)
    assert found.shape == (64, 35, 35)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert len({film.numpy().tobytes() for film in found}) == 64
    right, left = found[:, :, 18:].mean(dim=(1, 2)), found[:, :, :17].mean(dim=(1, 2))
    mirrored = int((right < left).sum())
    assert (16 < mirrored < 48) if augment == "light" else not mirrored
    lengths = [float(film.max() - film.min()) for film in found]
    assert min(lengths) > 0.3 * 150 / 255  # neither turned nor changed beyond recognition


def test_options_leave_the_order_of_films_as_it_is(shard: Shard) -> None:
    def first(**options: Any) -> list[list[int]]:
        training = Training.model_validate({"batch_size": 16, **options})
        epoch = batches(shard, np.arange(40), training, generator(0, "t"), CPU)
        return next(iter(epoch)).labels.tolist()

    assert first() == first(**EVERYTHING)


@given(
    st.sampled_from(["none", "light", "unflipped"]),
    st.sampled_from([0, 0.4]),
    st.integers(2, 40),
    st.integers(0, 2**32),
)
def test_films_in_a_devices_memory_make_the_same_batches(
    shard: Shard, augment: Augment, mixup: float, size: int, seed: int
) -> None:
    training = Training(augment=augment, mixup=mixup, batch_size=size)
    resident = replace(shard, resident=copy_to(shard.images, CPU))
    there, here = (
        list(batches(each, np.arange(3, 40), training, generator(seed, "t"), CPU))
        for each in (resident, shard)
    )
    assert len(there) == len(here)
    for one, other in zip(there, here, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)
        assert one.share == other.share
        assert one.inputs.is_contiguous(memory_format=torch.channels_last)


def test_the_next_batch_is_prepared_while_one_is_used() -> None:
    prepared = [Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for number, event in enumerate(prepared):
            event.set()
            yield number
        raise ValueError("no more")

    ahead = one_ahead(source())
    for number, following in enumerate([*prepared[1:], prepared[2]]):
        assert next(ahead) == number
        assert following.wait(20)
    with pytest.raises(ValueError, match="no more"):
        next(ahead)


@pytest.mark.parametrize("option", EVERYTHING)
def test_every_option_changes_the_training(shard: Shard, option: str) -> None:
    assert trained(shard, **{option: EVERYTHING[option]}) != trained(shard)


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_round_with_all_options_gives_the_same_bytes_again(shard: Shard, mode: Mode) -> None:
    first = trained(shard, 3, mode=mode, **EVERYTHING)
    assert first == trained(shard, 3, mode=mode, **EVERYTHING)
    assert first != trained(shard, 4, mode=mode, **EVERYTHING)
    assert first != trained(shard, 3, mode=mode)
