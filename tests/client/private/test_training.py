"""Training with noise at a hospital: one step by hand, the noise's variance, and what is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from client.examples import trainable
from client.policy import Budget, Policy
from client.private.training import noisy_steps
from client.training import train
from common.evaluation import loss_of
from common.findings import UNKNOWN
from common.images import random_crops
from common.model import build_model, load_state, state_of, to_input
from common.options import Training
from common.protocol import Reply
from common.secret_stream import SecretStream
from common.shard import Shard
from common.state import State, is_parameter, select, spec_of
from common.wire import pack, unpack
from tests.support.hospitals import STATE, hospital_of, instruction_of, plan_of
from tests.support.shards import make_shard

CPU = torch.device("cpu")
FALSE_ALARM = 1e-9


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return make_shard(tmp_path_factory.mktemp("private") / "a", unknown=0.2)


def trained(shard: Shard, films: int, secret: SecretStream, **training: Any) -> State:
    model = build_model("densenet-tiny")
    load_state(model, STATE)
    instruction = instruction_of(plan_of(dp="sample", **training), 1)
    loss = train(model, shard, np.arange(films), instruction, "a", CPU, secret=secret)
    assert loss is None
    return state_of(model)


def test_a_round_is_what_it_is_by_hand(shard: Shard) -> None:
    settings = {"dp_clip": 0.3, "dp_noise": 0.5, "local_epochs": 2, "momentum": 0.9, "lr": 0.1}
    found = trained(shard, 40, SecretStream(bytes(32), b"a"), **settings)

    secret = SecretStream(bytes(32), b"a")
    model = build_model("densenet-tiny").eval()
    load_state(model, STATE)
    parameters = dict(model.named_parameters())
    speed = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for _ in range(2 * 3):  # batches of 16 of 40
        chosen = np.flatnonzero(secret.uniform(40) < 16 / 40)
        rng = np.random.default_rng(int(secret.uniform(1)[0] * 2**53))
        crops = random_crops(shard.images[chosen], rng)
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for crop, film in zip(crops, chosen, strict=True):
            labels = torch.from_numpy(shard.labelled()[film])
            loss = loss_of(model(to_input(torch.from_numpy(crop)[None])), labels[None])
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            norm = float(torch.cat([g.flatten() for g in gradients]).norm())
            for name, gradient in zip(parameters, gradients, strict=True):
                total[name] += gradient * min(1.0, 0.3 / norm)
        for name, p in parameters.items():
            noise = torch.from_numpy(secret.normal(p.numel())).float().reshape(p.shape)
            speed[name] = 0.9 * speed[name] + (total[name] + 0.5 * 0.3 * noise) / 16
            p.data -= 0.1 * speed[name]
    for name, expected in state_of(model).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4)


def test_the_noise_has_the_stated_variance(shard: Shard) -> None:
    """Between two trainings whose noise differs, the clipping bound is so low that all is noise."""
    settings = {"dp_clip": 1e-3, "dp_noise": 3.0, "momentum": 0.0, "lr": 1.0, "batch_size": 16}
    one, other = (
        trained(shard, 16, SecretStream(bytes(32), purpose), **settings)
        for purpose in (b"one", b"other")
    )
    # With 16 of 16 films in the step, what differs is their crops, of which each moves the sum by
    # at most twice the bound: nothing beside the noise over so many weights.
    gone = np.concatenate(
        [
            ((one[name].astype(np.float64) - other[name]) * 16 / (3.0 * 1e-3)).ravel()
            for name, array in STATE.items()
            if is_parameter(name) and not array.any()  # zeros keep all digits of a small change
        ]
    )
    assert len(gone) > 50
    low, high = stats.chi2(len(gone)).interval(1 - FALSE_ALARM)
    assert low < np.sum(gone**2) / 2 < high


def test_buffers_stay_as_they_were(shard: Shard) -> None:
    after = trained(shard, 40, SecretStream(bytes(32), b"a"))
    for name, array in STATE.items():
        assert is_parameter(name) != np.array_equal(after[name], array), name


@pytest.mark.parametrize("films", [3, 16, 100])
def test_the_cost_is_that_of_the_steps(films: int) -> None:
    cost = noisy_steps(Training(batch_size=16, local_epochs=2, dp="sample"), films)
    assert cost.rate == min(1, 16 / films)
    assert cost.steps == 2 * -(-films // 16)


def reply_of(tmp_path: Path, policy: Policy | None, **training: Any) -> tuple[Reply, bytes]:
    path = tmp_path / "a"
    make_shard(path)
    hospital = hospital_of(path, policy=policy, own=tmp_path)
    return hospital.answer(instruction_of(plan_of(**training), 1), pack(STATE))


def test_a_reply_tells_what_it_cost_and_nothing_that_noise_does_not_cover(tmp_path: Path) -> None:
    reply, blob = reply_of(tmp_path, None, dp="sample")
    assert (reply.status, reply.loss, reply.validation, reply.histograms) == (
        "ok",
        None,
        None,
        None,
    )
    assert reply.privacy is not None
    assert reply.privacy.epsilon > 0
    assert unpack(blob, spec_of(STATE)).keys() == STATE.keys()


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_reply_does_not_tell_that_films_overflow(tmp_path: Path, mode: str) -> None:
    make_shard(tmp_path / "a")
    hospital = hospital_of(tmp_path / "a", own=tmp_path)
    weight = STATE["classifier.weight"]
    huge = {**STATE, "classifier.weight": np.where(weight > 0, 3e38, -3e38).astype(weight.dtype)}
    instruction = instruction_of(plan_of(dp="sample", mode=mode), 1)
    reply, blob = hospital.answer(instruction, pack(huge))
    assert (reply.status, reply.loss, reply.validation) == ("ok", None, None)
    after = unpack(blob, spec_of(select(STATE, "head" if mode == "linear" else "all")))
    assert all(np.isfinite(array).all() for array in after.values())


def test_a_site_may_tell_its_scores_all_the_same(tmp_path: Path) -> None:
    policy = Policy(privacy=Budget(epsilon=1e6, validation=True))
    reply, _ = reply_of(tmp_path, policy, dp="sample")
    assert reply.validation is not None


@pytest.mark.parametrize("told", [False, True])
def test_a_budget_decides_on_scores_whatever_training_an_instruction_names(
    tmp_path: Path, told: bool
) -> None:
    """The server's command that scores models names a training without noise."""
    make_shard(tmp_path / "a")
    policy = Policy(privacy=Budget(epsilon=1, validation=told))
    hospital = hospital_of(tmp_path / "a", policy=policy, own=tmp_path)
    instruction = instruction_of(plan_of(dp="none"), 1, task="evaluate")
    reply, _ = hospital.answer(instruction, pack(STATE))
    assert reply.status == "ok"
    assert (reply.validation is not None, reply.histograms is not None) == (told, told)
    assert hospital.scored is not None


def test_a_site_with_a_budget_trains_with_noise_alone(tmp_path: Path) -> None:
    reply, blob = reply_of(tmp_path, Policy(privacy=Budget(epsilon=1)))
    assert reply.reason == (
        "against the site's policy: to train without --dp sample is not allowed here"
    )
    assert not blob


def test_when_the_budget_is_spent_the_hospital_refuses(tmp_path: Path) -> None:
    reply, blob = reply_of(tmp_path, Policy(privacy=Budget(epsilon=0.01)), dp="sample")
    assert reply.status == "failed"
    assert "the budget is 0.01 at delta 1e-05" in reply.reason
    assert not blob


@pytest.mark.parametrize("batches", [None, 1])
def test_without_a_place_for_the_account_nothing_is_trained(
    tmp_path: Path, batches: int | None
) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    instruction = instruction_of(plan_of(dp="sample"), 1, batches=batches)
    reply, blob = hospital.answer(instruction, pack(STATE))
    assert (reply.status, blob) == ("failed", b"")
    assert reply.reason.endswith("outlives this process; give the client --state DIR")


def test_a_canary_costs_nothing_and_tells_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "a"
    make_shard(path)
    hospital = hospital_of(path, own=tmp_path)
    canary = instruction_of(plan_of(dp="sample"), 0, batches=1)
    reply, blob = hospital.answer(canary, pack(STATE))
    assert (reply.status, reply.loss, reply.privacy) == ("ok", None, None)
    assert blob == pack(STATE)
    assert not (tmp_path / "privacy.json").exists()


def test_whether_a_finding_is_rare_decides_nothing(shard: Shard) -> None:
    """A finding that is left out for lack of one film would tell of that film."""
    few, films = Policy(min_group=10**3), np.arange(40)
    plain, chosen = trainable(shard, films, Training(), few)
    assert (plain.labelled()[films] == UNKNOWN).all()
    assert not len(chosen)
    private, chosen = trainable(shard, films, Training(dp="sample"), few)
    assert np.array_equal(private.labelled(), shard.labelled())
    assert len(chosen)
