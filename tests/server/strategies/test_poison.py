"""One of five hospitals sends poison; the findings are such as a tiny model learns soon."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.model import build_model, state_of
from common.options import StrategyName
from common.protocol import Instruction, Reply
from common.provenance import Provenance
from common.shard import Entry, create_shard
from common.state import is_float, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds import testing
from server.rounds.loop import Rounds
from server.run.folder import RunFolder
from tests.support.hospitals import Fault, LocalHospitals, plan_of

FIRST = state_of(build_model("densenet-tiny", 5))


def make_easy_shard(path: Path, images: int, seed: int) -> Path:
    """Write a shard whose first finding is brightness and whose second is coarse noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, 14), np.uint8)
    labels[:, :2] = rng.random((images, 2)) < 0.5
    bright, coarse = labels[:, :2].T[:, :, None, None]
    noise = rng.standard_normal((images, 40, 40))
    entries = [Entry(str(i), f"{path.name}-{i}", "train") for i in range(images)]
    with create_shard(path, entries=entries, labels=labels, size=40, source="easy") as pixels:
        pixels[:] = (110 + 25 * bright + noise * (20 + 15 * coarse)).clip(0, 255)
    return path


class Poisoned(LocalHospitals):
    """Hospitals of which ``hospital-02`` sends five times its update, turned round."""

    def __init__(self, shards: list[Path], seed: int) -> None:
        super().__init__(shards, seed, {"hospital-02": self._turn_round})
        self._sent = b""

    def receives(self, instruction: Instruction, blob: bytes) -> bytes:
        self._sent = blob
        return super().receives(instruction, blob)

    def _turn_round(
        self, instruction: Instruction, reply: Reply, blob: bytes
    ) -> tuple[Reply, bytes]:
        if instruction.task == "evaluate":
            return reply, blob
        before, after = (unpack(b, spec_of(FIRST)) for b in (self._sent, blob))
        poison = {
            name: np.asarray(before[name] - 5 * (array - before[name]), array.dtype)
            if is_float(array) and not name.endswith("running_var")
            else array
            for name, array in after.items()
        }
        return reply.model_copy(update={"weights": fingerprint(pack(poison))}), pack(poison)


def final_auc(folder: Path, strategy: StrategyName, hospitals: LocalHospitals, test: Path) -> float:
    plan = plan_of(strategy=strategy, rounds=8, min_clients=5, lr=0.2, batch_size=8)
    tester = testing.Tester(test, "densenet-tiny", "cpu", 1)
    provenance = Provenance(method="fedavg", run="test")
    Rounds(plan, hospitals, RunFolder.create(folder, {}), FIRST, provenance, tester).run()
    last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    return float(last["test"]["auc"])


def easy_shards(folder: Path) -> tuple[list[Path], Path]:
    """Write the shards of five hospitals, and one to test on."""
    hospitals = [
        make_easy_shard(folder / f"hospital-{i:02d}", 60 + 6 * i, seed=i) for i in range(5)
    ]
    return hospitals, make_easy_shard(folder / "test", 300, seed=99)


CLEAN_AUC = 0.95
"""What a run without poison reaches, at least."""


@pytest.mark.fault(
    "one hospital of five sends poisoned updates",
    "under clipped, trimmed-mean and median the final AUC stays within 0.02 of the clean run",
)
@pytest.mark.parametrize(
    "strategy",
    [
        "median",
        pytest.param("clipped", marks=pytest.mark.long),
        pytest.param("trimmed-mean", marks=pytest.mark.long),
    ],
)
def test_robust_strategies_stay_close_to_the_clean_run(
    tmp_path: Path, strategy: StrategyName
) -> None:
    no_faults: dict[str, Fault] = {}
    shards, test = easy_shards(tmp_path / "data")
    clean = final_auc(tmp_path / "clean", strategy, LocalHospitals(shards, 5, no_faults), test)
    assert clean > CLEAN_AUC
    robust = final_auc(tmp_path / "robust", strategy, Poisoned(shards, 5), test)
    assert abs(robust - clean) <= 0.02


@pytest.mark.fault(
    "one hospital of five sends poisoned updates, under fedavg",
    "the model is spoiled: its AUC is below 0.75, where a clean run ends above 0.95",
)
def test_fedavg_is_spoiled(tmp_path: Path) -> None:
    no_faults: dict[str, Fault] = {}
    shards, test = easy_shards(tmp_path / "data")
    clean = final_auc(tmp_path / "clean", "fedavg", LocalHospitals(shards, 5, no_faults), test)
    assert clean > CLEAN_AUC
    assert final_auc(tmp_path / "plain", "fedavg", Poisoned(shards, 5), test) < CLEAN_AUC - 0.2
