"""A trial in one process against the same federation over gRPC; and what its line says."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.metrics import auc_by_finding
from common.shard import open_shard
from experiments.launch.local import LocalFederation
from experiments.paper.cells import Cell, TrialLine
from experiments.paper.data import make_synthetic
from experiments.paper.scales import SCALES
from experiments.paper.trial import endpoint, run_trial
from server.run.records import read_rounds

SCALE = SCALES["tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "data"
    make_synthetic(SCALE, 40, folder)
    return folder


def cell(**changes: object) -> Cell:
    fields = {
        "scale": "tiny", "first_model": "random", "split": "spread", "mode": "finetune",
        "seed": 3, "lr": 0.05, "rounds": 2,
    }  # fmt: skip
    return Cell.model_validate({**fields, **changes})


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_trial_gives_the_model_of_the_same_run_over_grpc(
    tmp_path: Path, data: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    monkeypatch.setattr("shutil.rmtree", lambda run: models.append(read_rounds(run)))
    run_trial(cell(mode=mode), "random", data, tmp_path / "results", tmp_path / "work")
    shards = sorted((data / "spread").glob("hospital-*"))
    options = {
        "init": "random", "run": tmp_path / "run", "rounds": 2, "min-clients": 3, "quorum": 3,
        "mode": mode, "lr": 0.05, "batch-size": SCALE.batch_size, "seed": 3,
        "architecture": SCALE.architecture, "image-size": SCALE.image_size,
    }  # fmt: skip
    with LocalFederation(tmp_path / "logs") as federation:
        federation.start_server([t for k, v in options.items() for t in (f"--{k}", str(v))])
        for shard in shards:
            federation.start_client(shard)
        assert set(federation.wait(120).values()) == {0}
    over_grpc = [record.model_sha256 for record in read_rounds(tmp_path / "run")]
    assert [record.model_sha256 for record in models[0]] == over_grpc


def test_a_line_has_the_scores_of_the_final_model(tmp_path: Path, data: Path) -> None:
    line = run_trial(cell(), "random", data, tmp_path / "results", tmp_path / "work")
    (text,) = (tmp_path / "results" / "trials.jsonl").read_text().splitlines()
    assert TrialLine.model_validate(json.loads(text)) == line
    scores = np.load(tmp_path / "results" / "scores" / f"{line.cell.name}.npy")
    test = open_shard(data / "test")
    assert (scores.dtype, scores.shape) == (np.float16, (len(test), 14))
    for finding, auc in auc_by_finding(test.labelled(), scores).items():
        assert auc == pytest.approx(line.test_auc_by_finding[finding], abs=0.01)
    assert [entry.round for entry in line.rounds] == [0, 1, 2]
    assert line.rounds[-1].test_auc == endpoint(line.test_auc_by_finding, test)
    assert line.hospitals_lost == []
    assert not list((tmp_path / "work").iterdir()), "the run's folder is removed"


@pytest.mark.parametrize(("hospitals", "count"), [("union", 1), (1, 1), ("all", 3)])
def test_the_bounds_train_one_hospital_alone(
    tmp_path: Path, data: Path, hospitals: object, count: int
) -> None:
    line = run_trial(
        cell(hospitals=hospitals, rounds=1), "random", data, tmp_path / "r", tmp_path / "w"
    )
    one_way = line.rounds[1].bytes / (2 * count)
    assert 50_000 < one_way < 200_000


def test_the_endpoint_leaves_out_findings_with_few_positive_films(data: Path) -> None:
    test = open_shard(data / "test")
    positives = test.labelled().sum(axis=0)
    by_finding = {
        finding: 0.9 if count >= 20 else 0.1
        for finding, count in zip(SCALE_FINDINGS, positives, strict=True)
    }
    assert positives.min() < 20 <= positives.max()
    assert endpoint(by_finding, test) == pytest.approx(0.9)


SCALE_FINDINGS = list(auc_by_finding(np.ones((1, 14), np.uint8), np.ones((1, 14))))
