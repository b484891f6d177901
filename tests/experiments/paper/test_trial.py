"""A trial in one process against the same federation over gRPC; and what its line says."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import read_checkpoint
from common.errors import BadInput, FedCXRError
from common.findings import FINDINGS
from common.metrics import auc_by_finding
from common.model import build_model, state_of
from common.scores import AucByFinding
from common.shard import open_shard
from common.wire import pack
from experiments.launch.local import LocalFederation
from experiments.paper import trial
from experiments.paper.assemble import _counts
from experiments.paper.cells import Cell, TrialLine
from experiments.paper.data import make_synthetic
from experiments.paper.federation import run_in_process
from experiments.paper.first_models import checkpoint_of
from experiments.paper.scales import SCALES
from experiments.paper.trial import _settings, endpoint, keep_line, run_trial
from server.cli import ServerSettings
from server.run.records import read_rounds
from server.run.start import start_run
from tests.support.shards import make_shard
from tests.support.trials import HERE

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


def without_seconds(line: TrialLine) -> TrialLine:
    """Return a line without what two runs of a trial may differ in: seconds, and the commit."""
    rounds = [entry.model_copy(update={"seconds": 0.0}) for entry in line.rounds]
    here = line.environment.model_copy(update={"commit": ""})
    return line.model_copy(update={"rounds": rounds, "seconds": 0.0, "environment": here})


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_trial_gives_the_model_of_the_same_run_over_grpc(
    tmp_path: Path, data: Path, mode: str
) -> None:
    line = run_trial(cell(mode=mode), "random", data, tmp_path / "results", tmp_path / "work")
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
    assert line.model_sha256 == read_rounds(tmp_path / "run")[-1].model_sha256


@pytest.mark.parametrize(
    ("model", "changes"),
    [("random", {"method": "scaffold"}), ("rotation", {"hospitals": "union", "wire": "topk"})],
)
def test_a_trial_over_grpc_gives_the_same_line_and_its_bytes_are_those_that_travelled(
    tmp_path: Path, data: Path, pretrained: Path, model: str, changes: dict[str, str]
) -> None:
    tried, lines = cell(first_model=model, **changes), []
    init = "random" if model == "random" else str(pretrained)
    for way, real in (("here", False), ("grpc", True)):
        lines.append(run_trial(tried, init, data, tmp_path / way, tmp_path / way, real=real))
        config = json.loads((tmp_path / way / tried.name / "config.json").read_text())
        assert config["head"] == (None if model == "random" else "replace")
    here, grpc = (without_seconds(line) for line in lines)
    assert here == grpc
    logged = {0: 0, 1: 0, 2: 0}  # by the hospitals
    for log in (tmp_path / "grpc").glob("*.states/*/audit.jsonl"):
        for entry in map(json.loads, log.read_text().splitlines()):
            if entry["event"] in ("received", "sent") and entry["identity"]["round"] in logged:
                logged[entry["identity"]["round"]] += entry["bytes"]
    assert {at.round: at.bytes for at in here.rounds} == logged
    first, second = (at.bytes for at in here.rounds[1:])
    assert second == first if here.cell.wire == "fp32" else second < first / 2


@pytest.fixture(scope="module")
def pretrained(data: Path) -> Path:
    folder = data.parent
    return Path(checkpoint_of("rotation", SCALE, data, folder, folder / "curves", 1))


def test_all_first_models_have_the_head_of_the_trials_seed(data: Path, pretrained: Path) -> None:
    own, _ = read_checkpoint(pretrained, SCALE.architecture, 0)
    for seed in (0, 1):
        chosen = cell(first_model="rotation", seed=seed)
        settings = _settings(chosen, SCALE, str(pretrained), data, data.parent / f"run-{seed}")
        state = start_run(settings, SCALE.image_size).state
        random = state_of(build_model(SCALE.architecture, seed))
        for name in random:
            like = random if name.startswith("classifier.") else own
            assert (state[name] == like[name]).all(), name
        changed = {name for name in own if (state[name] != own[name]).any()}
        assert changed == ({"classifier.weight"} if seed else set()), "as seed 0 began before"


def test_a_trial_over_grpc_tells_which_process_failed(tmp_path: Path, data: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"noise")
    init = str(tmp_path / "noise.pt")
    with pytest.raises(FedCXRError, match=r"server ended with exit code 2: .*noise\.pt"):
        run_trial(cell(), init, data, tmp_path / "results", tmp_path / "work", real=True)


def test_a_line_has_the_scores_of_the_final_model(tmp_path: Path, data: Path) -> None:
    line = run_trial(cell(), "random", data, tmp_path / "results", tmp_path / "work")
    keep_line(line.cell, tmp_path / "results", tmp_path / "work")
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


def test_a_line_tells_the_code_that_the_trial_began_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = ["before"]

    def run(settings: ServerSettings, shards: Sequence[Path]) -> None:
        if len(commits) < 3:
            commits.append("after")
            settings.run.mkdir(parents=True, exist_ok=True)
            raise KeyboardInterrupt
        run_in_process(settings, shards)

    monkeypatch.setattr(
        trial, "environment", lambda: HERE.model_copy(update={"commit": commits[-1]})
    )
    monkeypatch.setattr(trial, "run_in_process", run)
    given = cell(rounds=1), "random", data, tmp_path / "results", tmp_path / "work"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_trial(*given)
    line = run_trial(*given)
    assert line.environment.commit == "before"
    assert [each.commit for each in line.went_on_in] == ["after"]
    assert line.seconds == sum(at.seconds for at in line.rounds)


def test_a_trial_does_not_go_on_with_other_films(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(settings: ServerSettings, _shards: Sequence[Path]) -> None:
        settings.run.mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "run_in_process", stop)
    given = cell(rounds=1), "random", data, tmp_path / "results", tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        run_trial(*given)
    monkeypatch.setattr(trial, "data_sha256", lambda _data, _split: "1" * 64)
    with pytest.raises(BadInput, match=r"began with other films; remove it and .*begun\.json"):
        run_trial(*given)


@pytest.mark.parametrize(("hospitals", "count"), [("union", 1), (1, 1), ("all", 3)])
def test_the_bounds_train_one_hospital_alone(
    tmp_path: Path, data: Path, hospitals: object, count: int
) -> None:
    line = run_trial(
        cell(hospitals=hospitals, rounds=1), "random", data, tmp_path / "r", tmp_path / "w"
    )
    one_way = len(pack(state_of(build_model(SCALE.architecture))))
    assert line.rounds[1].bytes == 2 * count * one_way


def test_the_endpoint_leaves_out_findings_with_few_positive_films(data: Path) -> None:
    test = open_shard(data / "test")
    positives = test.labelled().sum(axis=0)
    by_finding: AucByFinding = {
        finding: 0.9 if count >= 20 else 0.1
        for finding, count in zip(FINDINGS, positives, strict=True)
    }
    assert positives.min() < 20 <= positives.max()
    assert endpoint(by_finding, test) == pytest.approx(0.9)


def test_an_unknown_film_is_not_positive(tmp_path: Path) -> None:
    test = make_shard(tmp_path / "a", images=200, unknown=0.75)
    positives = [int((column == 1).sum()) for column in test.labelled().T]
    assert min(positives) < 20
    counting = {
        finding: 0.9 if count >= 20 else 0.1
        for finding, count in zip(FINDINGS, positives, strict=True)
    }
    found = endpoint({**counting}, test)
    assert found == (pytest.approx(0.9) if max(positives) >= 20 else None)
    counts = _counts(test)
    assert list(counts.positives.values()) == positives
    assert counts.without == sum((row == 0).all() for row in test.labelled())
