"""Secure sums with half a word for each parameter, ``--wire int8``, with real hospitals."""

from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import read_checkpoint, read_strategy
from common.model import build_model, state_of
from common.state import State, parameters_of
from server.run.folder import RunFolder
from server.run.records import read_rounds
from server.secure.options import SecureOptions
from tests.support.hospitals import (
    LocalHospitals,
    models_by_hand,
    plan_of,
    rounds_with,
    run_strategy,
)
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

SECURE = SecureOptions(secure_aggregation=True, secure_threshold=0.5)


def model_of(folder: Path) -> State:
    return read_checkpoint(folder / "final.pt", "densenet-tiny", 0)[0]


def test_int8_halves_the_sums_and_costs_little_beside_plain_int8(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3, images=30)
    fields = {"min_clients": 3, "quorum": 1.0, "rounds": 4}
    expected = models_by_hand(plan_of(**fields), shards)[-1]
    off = {}
    for name, options in {"plain": SecureOptions(), "secure": SECURE}.items():
        plan = plan_of(**fields, secure=options, wire="int8", most_films=100)
        own = tmp_path / "own" / name
        hospitals = LocalHospitals(shards, 5, {}, own, secure=options.secure_aggregation)
        rounds_with(plan, hospitals, tmp_path / name).run()
        after = model_of(tmp_path / name)
        differences = (after[n] - array for n, array in parameters_of(expected).items())
        off[name] = sum(float(np.square(each).sum()) for each in differences) ** 0.5
    assert 0 < off["secure"] < 1.4 * off["plain"]
    first, *others = read_rounds(tmp_path / "secure")
    whole = first.hospitals["hospital-00"].bytes
    for line in others:
        part = line.hospitals["hospital-00"].bytes
        assert 0.4 * whole.sent < part.sent < 0.6 * whole.sent
        assert 0.2 * whole.received < part.received < 0.4 * whole.received


def test_int8_in_secure_sums_goes_on_bit_for_bit(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3, images=30)
    fields = {"min_clients": 3, "quorum": 1.0, "secure": SECURE, "wire": "int8", "most_films": 100}
    state = state_of(build_model("densenet-tiny", 5))

    def go_on(name: str, rounds: int, state: State, kept: State) -> None:
        path = tmp_path / name
        folder = RunFolder.reopen(path, {}) if path.exists() else RunFolder.create(path, {})
        hospitals = LocalHospitals(shards, 5, {}, tmp_path / f"own-{name}", secure=True)
        run_strategy(plan_of(rounds=rounds, **fields), folder, hospitals, state, kept)
        folder.log.close()

    go_on("whole", 3, state, {})
    go_on("half", 2, state, {})
    done = tmp_path / "half" / "checkpoints" / "round-0002.pt"
    go_on("half", 3, read_checkpoint(done, "densenet-tiny", 0)[0], read_strategy(done))
    assert same_bits(model_of(tmp_path / "whole"), model_of(tmp_path / "half"))


@pytest.mark.parametrize("shared", ["all", "no-batchnorm"])
def test_int8_in_secure_sums_ends_with_a_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: str
) -> None:
    """What hospitals keep of their own is what they look for when they score the final model."""
    shards = make_hospitals(tmp_path / "data", 3, images=30)
    plan = plan_of(
        min_clients=3, quorum=1.0, secure=SECURE, wire="int8", shared=shared, most_films=100
    )
    hospitals = LocalHospitals(shards, 5, {}, tmp_path / "own", secure=True)
    ended = rounds_with(plan, hospitals, tmp_path / "run").run()
    assert ended.validation.auc is not None
    assert "is lost" not in caplog.text
