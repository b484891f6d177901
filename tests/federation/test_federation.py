import json
import signal
from pathlib import Path

import numpy as np

from common.checkpoint import read_checkpoint
from experiments.launch.local import LocalFederation
from tests.support.federations import SEED, lines_of, log_of, options, status_of
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.shards import make_hospitals, make_shard
from tests.support.states import same_bits
from tests.support.waiting import wait_until


def test_three_hospitals_end_with_the_exact_weighted_mean(
    tmp_path: Path, federation: LocalFederation
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    test = make_shard(tmp_path / "data" / "test", images=60, seed=9)
    run = tmp_path / "run"
    federation.start_server(options(run, 3, test=test.path, name="Pilot"))
    for shard in shards:
        federation.start_client(shard)
    assert federation.wait(120) == dict.fromkeys(
        ["server", "hospital-00", "hospital-01", "hospital-02"], 0
    )

    state, provenance = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED), shards, None))
    assert provenance is not None
    assert provenance.round == 2
    assert provenance.settings is not None
    assert provenance.settings["image_size"] == test.manifest.size
    assert {file.name for file in run.iterdir()} == {
        *("config.json", "rounds.jsonl", "events.jsonl", "audit.jsonl", "checkpoints"),
        *("best.pt", "final.pt", "status.json", "live.json", "server.log", "report.html"),
        "histograms",
    }
    assert status_of(run)["state"] == "finished"
    config = json.loads((run / "config.json").read_text())
    assert (config["rounds"], config["seed"], config["mode"]) == (2, SEED, "finetune")
    assert (config["name"], config["origin"]["method"]) == ("Pilot", "random")
    assert config["test_positives"] == test.manifest.counts
    assert "<h1>Run Pilot</h1>" in (run / "report.html").read_text()
    for line in lines_of(run):
        assert list(line["hospitals"]) == ["hospital-00", "hospital-01", "hospital-02"]
        assert line["rejected"] == {}
        assert line["missing"] == []
        assert 0 <= line["test"]["auc"] <= 1
        assert len(line["test"]["auc_by_finding"]) == 14
    log = log_of(federation, "server")
    assert f"run {config['run_id']} (Pilot) in " in log
    assert "--insecure: nothing is encrypted, and any client may take part" in log
    told = "--insecure: nothing is encrypted, and the server is not checked"
    assert told in log_of(federation, "hospital-00")
    assert "round 2 of 2: 3 of 3 hospitals" in log
    assert "Traceback" not in log
    assert "train-" not in log


def test_a_hospital_that_dies_does_not_end_the_run(
    tmp_path: Path, federation: LocalFederation
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    run = tmp_path / "run"
    federation.start_server(options(run, 3, rounds=10, quorum=0.6))
    for shard in shards:
        federation.start_client(shard)
    wait_until((run / "rounds.jsonl").exists)
    federation.clients["hospital-01"].kill()
    codes = federation.wait(120)
    assert codes.pop("hospital-01") == -signal.SIGKILL
    assert set(codes.values()) == {0}
    last = lines_of(run)[-1]
    assert last["round"] == 10
    assert list(last["hospitals"]) == ["hospital-00", "hospital-02"]
    assert last["missing"] == ["hospital-01"]
    assert status_of(run)["state"] == "finished"


def test_a_client_may_come_before_the_server(tmp_path: Path, federation: LocalFederation) -> None:
    shard = make_shard(tmp_path / "data" / "hospital-00")
    federation.start_client(shard.path)
    wait_until(lambda: "out of reach" in log_of(federation, "hospital-00"))
    federation.start_server(options(tmp_path / "run", 1, rounds=1))
    assert set(federation.wait(120).values()) == {0}


def test_signals_end_both_sides_cleanly(tmp_path: Path, federation: LocalFederation) -> None:
    shards = make_hospitals(tmp_path / "data", 2)
    run = tmp_path / "run"
    federation.start_server(options(run, 2, rounds=10_000))
    for shard in shards:
        federation.start_client(shard)
    wait_until((run / "rounds.jsonl").exists)
    assert status_of(run)["state"] == "running"
    assert federation.server is not None
    federation.server.send_signal(signal.SIGTERM)
    assert federation.server.wait(30) == 143
    stopped = {"state": "stopped", "time": "", "reason": "SIGTERM", "rounds": 10_000}
    assert status_of(run) | {"time": ""} == stopped
    federation.clients["hospital-00"].send_signal(signal.SIGTERM)
    federation.clients["hospital-01"].send_signal(signal.SIGINT)
    codes = federation.wait(30)
    assert (codes["hospital-00"], codes["hospital-01"]) == (143, 130)
    for name in ("server", "hospital-00", "hospital-01"):
        assert "Traceback" not in log_of(federation, name)
    # Whatever round was the last, its checkpoint is whole.
    last = max((run / "checkpoints").iterdir())
    state, _ = read_checkpoint(last, "densenet-tiny", 0)
    assert all(np.isfinite(array).all() for array in state.values())


def test_the_last_round_of_one_run_starts_another(
    tmp_path: Path, federation: LocalFederation
) -> None:
    shard = make_shard(tmp_path / "data" / "hospital-00")
    federation.start_server(options(tmp_path / "first", 1, rounds=1))
    federation.start_client(shard.path)
    assert set(federation.wait(120).values()) == {0}
    initial = tmp_path / "first" / "final.pt"
    with LocalFederation(tmp_path / "more-logs") as second:
        second.start_server(options(tmp_path / "second", 1, rounds=1, init=initial))
        second.start_client(shard.path)
        assert set(second.wait(120).values()) == {0}
    assert (
        lines_of(tmp_path / "first")[0]["model_sha256"]
        != lines_of(tmp_path / "second")[0]["model_sha256"]
    )
    _, provenance = read_checkpoint(tmp_path / "second" / "final.pt", "densenet-tiny", 0)
    assert provenance is not None
    assert provenance.init == "final.pt"
