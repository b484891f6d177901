import json
from pathlib import Path

import pytest

from common.shard import open_shard
from experiments.launch.local import LocalFederation
from tests.support.commands import run
from tests.support.federations import options
from tests.support.shards import SHARED, needs_shared_data


@needs_shared_data
@pytest.mark.slow
def test_ten_hospitals_train_densenet121_on_real_films(
    tmp_path: Path, federation: LocalFederation
) -> None:
    data = tmp_path / "data"
    result = run(
        "flower-data",
        "chestxray14",
        *("--images", SHARED / "cxr-small" / "images"),
        *("--metadata", SHARED / "cxr-small" / "labels.csv"),
        *("--train-list", SHARED / "nih" / "train_val_list.txt"),
        *("--test-list", SHARED / "nih" / "test_list.txt"),
        *("--out", data, "--size", 48, "--allow-missing"),
    )
    assert result.returncode == 0, result.stderr
    shards = sorted(data.glob("hospital-*"))
    assert len(shards) == 10
    assert sum(len(open_shard(shard)) for shard in [*shards, data / "test"]) == 1724

    folder = tmp_path / "run"
    changes = {"architecture": "densenet121", "test": data / "test", "image_size": 48}
    federation.start_server(options(folder, 10, rounds=1, round_timeout=200, **changes))
    for shard in shards:
        federation.start_client(shard)
    assert set(federation.wait(280).values()) == {0}
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [len(line["hospitals"]) for line in lines] == [10]
    for line in lines:
        assert all(0 <= auc <= 1 for auc in line["test"]["auc_by_finding"].values())
        assert all(0 <= line["auc_by_finding"][name] <= 1 for name in ("Mass", "Pneumonia"))
