"""The direction of each update, against a slow reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model import build_model, state_of
from common.options import StrategyName
from common.protocol import Instruction, Reply
from common.state import State, is_float, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.drift import cosines
from server.run.spool import Spool
from server.strategies.base import UpdateInfo
from tests.support.hospitals import Fault, plan_of, rounds_of
from tests.support.shards import make_hospitals

SPEC = spec_of(state_of(build_model("densenet-tiny")))


def cosines_of(
    folder: Path, before: State, sent: dict[str, State], after: State
) -> dict[str, float | None]:
    spool = Spool(folder / "replies", spec_of(before))
    for name, state in sent.items():
        spool.put(name, pack(state), UpdateInfo(1, 1.0))
    return cosines(before, after, spool.updates(sent))


def parameters(state: State) -> list[float]:
    """Return all parameters one after the other, in float64, without BatchNorm's statistics."""
    return [
        float(value)
        for name, array in sorted(state.items())
        if is_float(array) and not name.endswith(("running_mean", "running_var"))
        for value in array.ravel()
    ]


def slow_cosine(before: State, update: State, mean: State) -> float:
    start, a, b = (np.array(parameters(state)) for state in (before, update, mean))
    a, b = a - start, b - start
    return math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b))


BEFORE: State = {
    "w": np.linspace(-1, 1, 1200, dtype=np.float32).reshape(40, 30),
    "scale": np.array(2, np.float32),
    "norm.running_mean": np.zeros(8, np.float32),
    "num_batches_tracked": np.array(5),
}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_cosines_are_those_to_the_mean_update(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)

    def moved(state: State) -> State:
        """Return a state after a random step."""
        return {
            name: np.asarray(array + rng.normal(0, size, array.shape), array.dtype)
            for name, array in state.items()
        }

    common = moved(BEFORE)
    sent = {name: moved(common) for name in ("a", "b", "c")}
    mean = {
        name: np.asarray(np.mean([state[name] for state in sent.values()], axis=0), array.dtype)
        for name, array in BEFORE.items()
    }
    found = cosines_of(tmp_path_factory.mktemp("drift"), BEFORE, sent, mean)
    for name, state in sent.items():
        assert found[name] == pytest.approx(slow_cosine(BEFORE, state, mean), abs=1e-5)


@pytest.mark.parametrize("strategy", ["fedavg", "clipped", "trimmed-mean", "median"])
def test_a_hospital_that_pulls_the_other_way_is_told_apart(
    tmp_path: Path, strategy: StrategyName
) -> None:
    plan = plan_of(rounds=1, strategy=strategy, min_clients=5)
    before = state_of(build_model(plan.architecture, plan.seed))
    rng = np.random.default_rng(0)
    way = {name: rng.normal(0, 0.01, array.shape) for name, array in before.items()}

    def going(sign: int, noise: np.random.Generator) -> Fault:
        """Return what lets a hospital go along the way, or against it, with noise of its own."""

        def answer(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
            if instruction.task == "evaluate":
                return reply, blob
            state = {
                name: np.asarray(
                    before[name] + sign * way[name] + noise.normal(0, 0.01, array.shape),
                    array.dtype,
                )
                if is_float(array) and not name.endswith("running_var")
                else array
                for name, array in unpack(blob, SPEC).items()
            }
            blob = pack(state)
            return reply.model_copy(update={"weights": fingerprint(blob)}), blob

        return answer

    shards = make_hospitals(tmp_path / "data", 5, images=20)
    faults = {
        shard.name: going(-1 if i == 4 else 1, np.random.default_rng(i))
        for i, shard in enumerate(shards)
    }
    rounds_of(plan, shards, tmp_path / "run", faults).run()
    line = json.loads((tmp_path / "run" / "rounds.jsonl").read_text())
    found = {name: entry["cosine"] for name, entry in line["hospitals"].items()}
    assert found.pop("hospital-04") < 0
    assert all(cosine > 0.5 for cosine in found.values())


def test_what_did_not_move_has_no_direction(tmp_path: Path) -> None:
    before = state_of(build_model("densenet-tiny", 1))
    moved = {
        name: array + 1 if name.endswith("weight") else array for name, array in before.items()
    }
    statistics = {
        name: array + 1 if name.endswith("running_mean") else array
        for name, array in before.items()
    }
    sent = {"a": moved, "b": statistics, "c": before}
    assert cosines_of(tmp_path, before, sent, moved) == {
        "a": pytest.approx(1), "b": None, "c": None,
    }  # fmt: skip
    assert set(cosines_of(tmp_path, before, sent, before).values()) == {None}


def test_updates_beyond_float32_end_nothing(tmp_path: Path) -> None:
    before = state_of(build_model("densenet-tiny", 1))
    far = {name: np.full_like(array, 3e38) if is_float(array) else array
           for name, array in before.items()}  # fmt: skip
    found = cosines_of(tmp_path, before, {"a": far, "b": before}, far)
    assert found["b"] is None
    assert found["a"] is None or -1 <= found["a"] <= 1
