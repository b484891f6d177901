"""Honest hospitals of real films, as unequal as the partitions make them: none may be rejected."""

from pathlib import Path

import pytest
import torch

from client.hospital import Hospital
from common.model import build_model, state_of
from common.options import Mode
from common.protocol import Greeting
from common.provenance import Provenance
from common.shard import open_shard
from experiments.launch.inprocess import InProcessHospitals
from server.members.admission import Admission
from server.rounds.loop import Rounds
from server.rounds.pace import WARNING
from server.run.events import read_events
from server.run.folder import RunFolder
from tests.support.commands import run
from tests.support.hospitals import plan_of
from tests.support.shards import SHARED, needs_shared_data

SETS: dict[str, tuple[object, ...]] = {
    "cxr-small": ("--metadata", SHARED / "cxr-small" / "labels.csv", "--no-finding", "last"),
    "nih-128": (
        *("--metadata", SHARED / "nih" / "Data_Entry_2017_v2020.csv.gz"),
        *("--no-finding", "spread", "--group-by", "patient"),
    ),
}


@needs_shared_data
@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("mode", ["linear", "finetune"])
@pytest.mark.parametrize("films", list(SETS))
def test_no_honest_hospital_is_unusual(tmp_path: Path, films: str, mode: Mode) -> None:
    """The paper's partition, seed 0, random weights, the server's default rates, two rounds."""
    made = run(
        "flower-data",
        *("chestxray14", "--images", SHARED / films / "images", *SETS[films]),
        *("--train-list", SHARED / "nih" / "train_val_list.txt"),
        *("--test-list", SHARED / "nih" / "test_list.txt"),
        *("--out", tmp_path / "data", "--size", 64, "--allow-missing"),
    )
    assert made.returncode == 0, made.stderr
    shards = [open_shard(path) for path in sorted((tmp_path / "data").glob("hospital-*"))]
    plan = plan_of(
        architecture="densenet121", mode=mode, lr=0.001, batch_size=64, min_clients=10,
        rounds=2, norm_limit=WARNING, round_timeout=1e6, seed=0,
    )  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", {})
    cpu = torch.device("cpu")
    hospitals = InProcessHospitals(
        [Hospital(shard.path.name, shard, cpu, precision=None) for shard in shards],
        Admission(Greeting(run=plan.run, seed=plan.seed, training=plan.training), 64, folder),
    )
    state = state_of(build_model(plan.architecture, plan.seed))
    Rounds(plan, hospitals, folder, state, Provenance(method="fedavg"), None).run()
    assert [len(record.hospitals) for record in folder.rounds()] == [10, 10]
    assert read_events(folder.path) == []
