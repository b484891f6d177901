from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.checkpoint import read_checkpoint, read_strategy
from common.findings import FINDINGS
from common.model import build_model, state_of
from common.provenance import Provenance
from common.scores import Scores
from common.state import State
from common.wire import pack
from server.rounds.average import MovingAverage
from server.rounds.beside import Beside, take_apart
from server.rounds.loop import Rounds
from server.rounds.progress import across
from server.run.folder import RunFolder
from tests.support.hospitals import (
    STATE,
    LocalHospitals,
    hospital_of,
    instruction_of,
    plan_of,
    rounds_of,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits, slow_average


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return {
        "weight": (rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-30, 30)).astype(np.float32),
        "num_batches_tracked": np.array(rng.integers(2**40), np.int64),
    }


@given(st.floats(0.01, 0.999), st.lists(st.integers(0, 2**32), min_size=1, max_size=5))
def test_the_average_is_that_of_a_loop(decay: float, seeds: list[int]) -> None:
    models = [model(seed) for seed in seeds]
    average = MovingAverage(decay, models[0])
    for each in models[1:]:
        average.follow(each)
    assert same_bits(average.state, slow_average(models, decay))


def test_what_never_changes_is_its_own_average() -> None:
    average = MovingAverage(0.9, STATE)
    for _ in range(20):
        average.follow(STATE)
    assert same_bits(average.state, STATE)


def test_what_is_kept_beside_the_model_is_kept_apart() -> None:
    mine = {
        f"{name}/0": np.full(3, number, np.float32)
        for number, name in enumerate(("m", "strategy", "ema", "sent", "residual", ""))
    }
    beside = Beside(mine, model(1), model(2), model(3))
    found = take_apart(beside.to_keep())
    assert all(same_bits(*pair) for pair in zip(found, beside, strict=True))
    assert take_apart({}) == ({}, {}, {}, {})


def test_what_earlier_versions_kept_beside_the_model_is_understood() -> None:
    mine = {name: np.zeros(3, np.float32) for name in ("m/weight", "strategy/0", "attributes")}
    whole = Beside(mine, model(1), model(2), model(3))
    prefixes = ("", "ema/", "sent/", "residual/")
    earlier = {
        prefix + name: array
        for prefix, state in zip(prefixes, whole, strict=True)
        for name, array in state.items()
    }
    assert all(same_bits(*pair) for pair in zip(take_apart(earlier), whole, strict=True))


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_run_ends_with_scores_of_its_average(tmp_path: Path, mode: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3, 20)
    plan = plan_of(rounds=2, ema=0.5, mode=mode)
    first = state_of(build_model("densenet-tiny", plan.seed))
    folder = RunFolder.create(tmp_path / "run", {})
    tested: list[State] = []
    unknown = dict.fromkeys(FINDINGS)

    def test(state: State) -> Scores:
        tested.append(state)
        auc = 0.5 + len(tested) / 100
        return Scores(images=9, loss=None, auc=auc, auc_by_finding=unknown)

    provenance = Provenance(method="fedavg", run="test", start=Provenance(method="random"))
    hospitals = LocalHospitals(shards, plan.seed, {})
    result = Rounds(plan, hospitals, folder, first, provenance, test).run()
    average, told = read_checkpoint(folder.path / "ema.pt", "densenet-tiny", 0)
    files = [folder.checkpoint(number) for number in (1, 2)]
    models = [first, *(read_checkpoint(file, "densenet-tiny", 0)[0] for file in files)]
    assert same_bits(average, slow_average(models, 0.5))
    assert (told.round, told.ema) == (2, 0.5)
    assert "moving average with decay 0.5" in told.describe()
    assert same_bits(tested[-1], average)
    assert read_strategy(folder.path / "ema.pt") == {}
    assert result.ema is not None
    assert result.ema.test is not None
    assert result.ema.test.auc == 0.5 + len(tested) / 100
    answers = {
        path.name: hospital_of(path).answer(instruction_of(plan, 3, task="evaluate"), pack(average))
        for path in shards
    }
    by_hand = {name: reply.validation for name, (reply, _) in answers.items() if reply.validation}
    assert result.ema.validation == across(by_hand, equal=False)
    assert result.ema.pooled is not None
    without = RunFolder.create(tmp_path / "without", {})
    plan = plan_of(rounds=2, mode=mode)
    hospitals = LocalHospitals(shards, plan.seed, {})
    Rounds(plan, hospitals, without, first, provenance, None).run()
    assert [each.model_sha256 for each in folder.rounds()] == [
        each.model_sha256 for each in without.rounds()
    ]
    assert not (without.path / "ema.pt").exists()


def test_the_average_promises_what_the_last_model_does(tmp_path: Path) -> None:
    plan = plan_of(rounds=2, ema=0.5, mode="linear", dp="site")
    shards = make_hospitals(tmp_path / "data", 3, 20)
    rounds_of(plan, shards, tmp_path / "run").run()
    told = [
        read_checkpoint(tmp_path / "run" / file, "densenet-tiny", 0)[1].privacy
        for file in ("ema.pt", "final.pt")
    ]
    assert told[0] is not None
    assert told[0] == told[1]
