"""Faults of the network between hosts; what each must end in stands beside it."""

from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint
from tests.support.faults import (
    IMPATIENT,
    FaultyFederation,
    trains_slowly,
)
from tests.support.federations import SEED, lines_of, log_of, options, start
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.hosts import Hosts, needs_hosts, needs_tap
from tests.support.states import same_bits
from tests.support.waiting import wait_until


@needs_hosts
@pytest.mark.fault(
    "a hospital's line is cut and mended, with no end told (half-open connection)",
    "keepalive finds it on both sides; the hospital comes back by itself and takes part",
)
@pytest.mark.long
def test_a_cut_line_heals(tmp_path: Path, shards: list[Path]) -> None:
    run = tmp_path / "run"
    with Hosts(4) as hosts, FaultyFederation(tmp_path / "logs", hosts=hosts) as federation:
        for name in ("server", *(shard.name for shard in shards)):
            federation.preludes[name] = IMPATIENT + trains_slowly(0.5)
        start(federation, run, shards, rounds=25, quorum=2)
        wait_until((run / "rounds.jsonl").exists)
        federation.hosts["hospital-01"].cut()
        wait_until(lambda: "hospital-01 left" in log_of(federation, "server"))
        wait_until(lambda: "out of reach" in log_of(federation, "hospital-01"))
        federation.hosts["hospital-01"].heal()
        assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert any(line["missing"] == ["hospital-01"] for line in lines)
    assert len(lines[-1]["hospitals"]) == 3
    assert max(line["seconds"]["total"] for line in lines) < 15


@needs_hosts
@pytest.mark.fault(
    "the server's machine vanishes, and the run goes on at another address of the same name",
    "clients look the name up anew and go on; the result is that of an undisturbed run",
)
def test_a_server_that_moves_is_found(tmp_path: Path, shards: list[Path]) -> None:
    run = tmp_path / "run"
    start_options = options(run, 2, rounds=6, quorum=1)
    with Hosts(4) as hosts, FaultyFederation(tmp_path / "logs", hosts=hosts) as federation:
        first, second = hosts[0], hosts[3]
        names = tmp_path / "hosts"
        names.write_text(f"{first.address} server.test\n")
        for host in hosts[1:3]:
            host.know(names)
        for name in ("server", *(shard.name for shard in shards)):
            federation.preludes[name] = IMPATIENT + trains_slowly(0.5)
        listen, federation.address = federation.address, "server.test:8080"
        federation.start_server([*start_options, "--listen", listen])
        for shard in shards[:2]:
            federation.start_client(shard)
        wait_until((run / "rounds.jsonl").exists)
        first.cut()
        assert federation.server is not None
        federation.server.kill()
        federation.server.wait()
        names.write_text(f"{second.address} server.test\n")
        federation.hosts["server"] = second
        moved = ["--listen", f"{second.address}:8080", "--resume"]
        federation.start_server([*start_options, *moved])
        assert set(federation.wait(120).values()) == {0}
    state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=6), shards[:2], None))


@needs_hosts
@needs_tap
@pytest.mark.fault(
    "every line delays packets by 100 ms and loses 5 %",
    "the run takes longer and ends as on a good line",
)
def test_a_bad_line_only_takes_longer(tmp_path: Path, shards: list[Path]) -> None:
    run = tmp_path / "run"
    with Hosts(3) as hosts, FaultyFederation(tmp_path / "logs", hosts=hosts) as federation:
        for host in hosts:
            host.spoil(delay=0.1, loss=0.05)
        start(federation, run, shards[:2], rounds=2, quorum=1)
        assert set(federation.wait(120).values()) == {0}
        lines = [host.line for host in hosts if host.line is not None]
        assert all(line.carried and line.lost for line in lines)
    state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED), shards[:2], None))
