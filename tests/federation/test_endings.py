"""Full disks, and processes that are told to end; what each must end in stands beside it."""

import json
import os
import signal
from pathlib import Path

import pytest

from common.audit import verify
from common.checkpoint import read_checkpoint
from tests.support.disks import needs_root, small_disk
from tests.support.faults import (
    STUCK,
    FaultyFederation,
    hangs,
    trains_slowly,
)
from tests.support.federations import (
    SEED,
    in_round,
    last_noted,
    lines_of,
    log_of,
    options,
    start,
    status_of,
)
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.states import same_bits
from tests.support.waiting import wait_until


@pytest.mark.fault(
    "the server's disk fills up",
    "it stops with exit code 2 and what to do; the last round is whole, and --resume goes on",
)
@needs_root
def test_a_full_disk_stops_the_server_cleanly(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = disk.path / "run"
        federation.preludes["hospital-00"] = trains_slowly(1)
        start(federation, run, shards, rounds=6, quorum=1)
        rounds = run / "rounds.jsonl"
        wait_until(lambda: rounds.exists() and rounds.stat().st_size > 0)
        disk.fill()
        assert federation.server is not None
        assert federation.server.wait(60) == 2
        complaint = "No space left on device; make room and go on with --resume"
        assert log_of(federation, "server").count(complaint) == 1
        assert status_of(run)["state"] == "failed"
        done = len(lines_of(run))
        read_checkpoint(run / "checkpoints" / f"round-{done:04d}.pt", "densenet-tiny", 0)
        again = [*options(run, 3, rounds=6, quorum=1), "--resume"]
        disk.fill()
        federation.start_server(again)
        assert federation.server.wait(60) == 2
        assert log_of(federation, "server").count(complaint) == 2
        assert status_of(run)["state"] == "failed"
        disk.make_room()
        federation.start_server(again)
        assert set(federation.wait(60).values()) == {0}
        state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
        assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=6), shards, None))


@needs_root
@pytest.mark.fault(
    "the disk is full when a run is begun",
    "the server ends with exit code 2 and what to do; once there is room, it begins",
)
def test_a_run_is_not_begun_on_a_full_disk(tmp_path: Path, federation: FaultyFederation) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = disk.path / "run"
        for room in (0, 4096, 16384):  # for nothing, for config.json, but not for the reserve
            disk.fill()
            os.truncate(disk.path / "others", (disk.path / "others").stat().st_size - room)
            federation.start_server([*options(run, 1), "--resume"])
            assert federation.server is not None
            assert federation.server.wait(60) == 2
        last = log_of(federation, "server").splitlines()
        assert sum("No space left on device; make room" in line for line in last) == 3
        assert status_of(run)["state"] == "failed"
        disk.make_room()
        federation.start_server([*options(run, 1), "--resume"])
        wait_until(lambda: status_of(run)["state"] == "waiting")


@needs_root
@pytest.mark.fault(
    "the disk with a client's --state fills up",
    "the client ends with exit code 2, what to do, and a status; the audit log stays whole",
)
def test_a_full_disk_stops_a_client_cleanly(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        state = disk.path / "state"
        for shard in shards:
            federation.preludes[shard.name] = trains_slowly(1)
        federation.start_server(options(tmp_path / "run", 2, rounds=15, quorum=0.5))
        federation.start_client(shards[1])
        federation.start_client(shards[0], ["--state", str(state)])
        wait_until(lambda: in_round(federation, "hospital-00", 1))
        disk.fill()
        assert federation.clients["hospital-00"].wait(60) == 2
        complaint = (
            f"{state}: No space left on device; make room, or give --state another folder, with "
            "all that is in this one"
        )
        assert log_of(federation, "hospital-00").endswith(f"error: {complaint}\n")
        status = json.loads((state / "status.json").read_text())
        assert (status["state"], status["reason"]) == ("failed", complaint)
        verify(state / "audit.jsonl")
        disk.make_room()
        federation.start_client(shards[0], ["--state", str(state)])
        assert set(federation.wait(60).values()) == {0}
        assert json.loads((state / "status.json").read_text())["state"] == "finished"
        verify(state / "audit.jsonl")


@pytest.mark.fault(
    "SIGTERM in mid-round, at a client and at the server",
    "both end within 10 s with exit code 143 and write that they were stopped",
)
def test_sigterm_in_mid_round_ends_both_sides_with_a_status(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    federation.preludes["hospital-00"] = trains_slowly(600)
    federation.start_server(options(run, 1))
    federation.start_client(shards[0], ["--state", str(state)])
    wait_until(lambda: in_round(federation, "hospital-00", 1))
    assert json.loads((state / "status.json").read_text())["state"] == "working"
    assert federation.server is not None
    for process in (federation.clients["hospital-00"], federation.server):
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    assert json.loads((state / "status.json").read_text())["state"] == "stopped"
    assert (status_of(run)["state"], status_of(run)["rounds"]) == ("stopped", 2)


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.fault(
    "SIGTERM while the client, or the server, is in a call of a driver's that never returns",
    "it ends within 10 s with exit code 143 and writes that it was stopped",
)
def test_sigterm_ends_a_process_that_is_stuck_in_a_call(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path], side: str
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    if side == "client":
        federation.preludes["hospital-00"] = hangs("client.computing:train")
    else:
        federation.preludes["server"] = hangs("server.rounds.closing:Closing._score_final")
    federation.start_server(options(run, 1, rounds=1, quorum=1))
    federation.start_client(shards[0], ["--state", str(state)])
    name = "hospital-00" if side == "client" else side
    wait_until(lambda: STUCK in log_of(federation, name))
    process = federation.server if side == "server" else federation.clients["hospital-00"]
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    if side == "server":
        assert status_of(run)["state"] == "stopped"
        return
    status = json.loads((state / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("stopped", "SIGTERM")
    assert last_noted(state) == "stopped"
