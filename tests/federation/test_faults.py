"""Faults of a hospital; what each must end in stands beside it."""

import json
import signal
from pathlib import Path

import pytest

from tests.support.faults import (
    IMPATIENT,
    FaultyFederation,
    fails_to_train,
    trains_after,
    trains_slowly,
)
from tests.support.federations import events_of, in_round, last_noted, lines_of, log_of, start
from tests.support.waiting import wait_until

AT_ONCE = ["--slots", "3"]
"""No hospital waits for another that has yet to train."""


@pytest.mark.fault(
    "a client is killed in mid-round and started again",
    "it is missing in that round and takes part in a later one",
)
def test_a_client_that_is_killed_comes_back(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["hospital-00"] = trains_slowly(1)
    federation.preludes["hospital-01"] = trains_slowly(600, "number == 2")
    start(federation, run, shards, rounds=12, quorum=2)
    wait_until(lambda: in_round(federation, "hospital-01", 2))
    federation.clients["hospital-01"].kill()
    federation.clients["hospital-01"].wait()
    del federation.preludes["hospital-01"]
    federation.start_client(shards[1])
    assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert lines[1]["missing"] == ["hospital-01"]
    assert len(lines[-1]["hospitals"]) == 3


@pytest.mark.fault(
    "a client is stopped (SIGSTOP) in mid-round",
    "it is left out at the deadline, or once keepalive fails, and takes part again when it goes on",
)
def test_a_client_that_is_stopped_holds_nobody_up_for_long(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["server"] = IMPATIENT
    federation.preludes["hospital-00"] = trains_slowly(1)
    start(federation, run, shards, rounds=14, quorum=2)
    wait_until((run / "rounds.jsonl").exists)
    federation.clients["hospital-01"].send_signal(signal.SIGSTOP)
    wait_until(lambda: any(line["missing"] for line in lines_of(run)))
    federation.clients["hospital-01"].send_signal(signal.SIGCONT)
    assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert {"hospital-01"} == {name for line in lines for name in line["missing"]}
    assert max(line["seconds"]["total"] for line in lines) < 15
    assert len(lines[-1]["hospitals"]) == 3


@pytest.mark.fault(
    "a hospital takes longer than the round may",
    "it is left out and named, gives its work up, and is asked again in the next round",
)
def test_a_late_hospital_is_left_out(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    events = str(run / "events.jsonl")
    federation.preludes["hospital-01"] = trains_after(
        f"'\"lost\"' in open({events!r}).read()", "number == 1"
    )
    start(federation, run, [], rounds=4, quorum=2, min_clients=3, **{"round-timeout": 8})
    for shard in shards:
        federation.start_client(shard, AT_ONCE)
    assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert lines[0]["missing"] == ["hospital-01"]
    assert 7 < lines[0]["seconds"]["total"] < 14
    assert [len(line["hospitals"]) for line in lines] == [2, 3, 3, 3]
    lost = [event for event in events_of(run) if event["event"] == "lost"]
    assert lost[0]["site"] == "hospital-01"


@pytest.mark.fault(
    "a hospital's GPU, or its driver, never returns",
    "the round goes on without it; its client writes that it failed and ends with exit code 1 for "
    "whatever restarts it, and takes part again",
)
@pytest.mark.slow
def test_a_client_that_is_stuck_ends(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    soon = "import client.stuck\nclient.stuck.GRACE_SECONDS = 1.0\n"
    federation.preludes["hospital-00"] = trains_slowly(1)
    federation.preludes["hospital-01"] = soon + trains_slowly(600, "number == 1")
    start(federation, run, [], rounds=20, quorum=2, min_clients=3, **{"round-timeout": 8})
    for shard in shards:
        own = ["--state", str(state)] if shard.name == "hospital-01" else []
        federation.start_client(shard, [*AT_ONCE, *own])
    assert federation.clients["hospital-01"].wait(60) == 1
    assert "round 1: stuck; the process ends" in log_of(federation, "hospital-01")
    status = json.loads((state / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", "stuck in round 1")
    assert last_noted(state) == "failed"
    federation.start_client(shards[1])
    assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert lines[0]["missing"] == ["hospital-01"]
    assert len(lines[-1]["hospitals"]) == 3


@pytest.mark.fault(
    "training raises at a hospital",
    "the round goes on without it; after three in a row it is excluded (exit code 4); "
    "the exception's text stays at the hospital, in its log",
)
def test_a_hospital_whose_training_fails_is_excluded_in_the_end(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["hospital-01"] = fails_to_train()
    start(federation, run, shards, rounds=5, quorum=2)
    codes = federation.wait(120)
    assert codes == {"server": 0, "hospital-00": 0, "hospital-01": 4, "hospital-02": 0}
    assert [list(line["rejected"]) for line in lines_of(run)] == [
        *([["hospital-01"]] * 3),
        *([[]] * 2),
    ]
    assert "RuntimeError" in lines_of(run)[0]["rejected"]["hospital-01"]
    log = log_of(federation, "hospital-01")
    assert "round 1: the reply was rejected: failed at the hospital (RuntimeError)" in log
    assert "is excluded from this run" in log
    everything = "".join(file.read_text() for file in run.glob("*.json*"))
    assert "RuntimeError: film 17 is empty" in log
    assert "film 17" not in log_of(federation, "server") + everything


@pytest.mark.fault(
    "local training takes many times longer than keepalive waits",
    "the connection stays, and the reply counts",
)
def test_a_long_epoch_does_not_cost_the_stream(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["server"] = IMPATIENT
    for shard in shards[:2]:
        federation.preludes[shard.name] = IMPATIENT + trains_slowly(12)
    start(federation, run, shards[:2], rounds=1, quorum=1)
    assert set(federation.wait(120).values()) == {0}
    assert len(lines_of(run)[0]["hospitals"]) == 2
    kinds = [event["event"] for event in events_of(run)]
    assert kinds.count("joined") == 2
    assert "lost" not in kinds


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.fault(
    "local training takes more than ten minutes, with keepalive as it is",
    "the connection stays, and the reply counts",
)
def test_an_epoch_of_ten_minutes_does_not_cost_the_stream(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["hospital-00"] = trains_slowly(620)
    start(federation, run, shards[:1], rounds=1, quorum=1, **{"round-timeout": 800})
    assert set(federation.wait(800).values()) == {0}
    assert lines_of(run)[0]["seconds"]["total"] > 620
    assert len(lines_of(run)[0]["hospitals"]) == 1
    assert [event["event"] for event in events_of(run)].count("joined") == 1
