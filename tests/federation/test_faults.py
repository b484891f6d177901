"""Faults of processes, machines and networks; what each must end in stands beside it."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from common.audit import verify
from common.checkpoint import read_checkpoint
from common.net import MESSAGE_BYTES
from tests.faults import (
    IMPATIENT,
    STUCK,
    FaultyFederation,
    fails_to_train,
    hangs,
    trains_slowly,
)
from tests.federation.test_federation import (
    SEED,
    lines_of,
    log_of,
    options,
    status_of,
    wait_until,
)
from tests.helpers import make_hospitals, needs_root, same_bits, small_disk
from tests.hosts import Hosts, needs_hosts
from tests.local_sites import federate_by_hand, plan_of

SLOW_SECOND_ROUND = trains_slowly(3, "number == 2")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    with FaultyFederation(tmp_path / "logs") as federation:
        yield federation


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_hospitals(tmp_path / "data", 3)


def events_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def last_noted(state: Path) -> str:
    return str(json.loads((state / "audit.jsonl").read_text().splitlines()[-1])["event"])


def start(federation: FaultyFederation, run: Path, shards: list[Path], **changes: object) -> None:
    federation.start_server(options(run, len(shards), **changes))
    for shard in shards:
        federation.start_client(shard)


def in_round(federation: FaultyFederation, name: str, number: int) -> bool:
    return f"round {number}: " in log_of(federation, name)


@pytest.mark.fault(
    "a client is killed in mid-round and started again",
    "it is missing in that round and takes part in a later one",
)
def test_a_client_that_is_killed_comes_back(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    for shard in shards:
        federation.preludes[shard.name] = SLOW_SECOND_ROUND
    federation.preludes["hospital-00"] = trains_slowly(1)
    start(federation, run, shards, rounds=12, quorum=2)
    wait_until(lambda: in_round(federation, "hospital-01", 2))
    federation.clients["hospital-01"].kill()
    federation.clients["hospital-01"].wait()
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
    federation.preludes["hospital-01"] = trains_slowly(6, "number == 1")
    federation.preludes["hospital-00"] = trains_slowly(2)
    start(federation, run, shards, rounds=4, quorum=2, **{"round-timeout": 5})
    assert set(federation.wait(120).values()) == {0}
    lines = lines_of(run)
    assert lines[0]["missing"] == ["hospital-01"]
    assert 4 < lines[0]["seconds"]["total"] < 8
    assert [len(line["hospitals"]) for line in lines] == [2, 3, 3, 3]
    lost = [event for event in events_of(run) if event["event"] == "lost"]
    assert lost[0]["site"] == "hospital-01"


@pytest.mark.fault(
    "a hospital's GPU, or its driver, never returns",
    "the round goes on without it; its client writes that it failed and ends with exit code 1 for "
    "whatever restarts it, and takes part again",
)
def test_a_client_that_is_stuck_ends(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    soon = "import client.flower\nclient.flower.GRACE_SECONDS = 1.0\n"
    federation.preludes["hospital-00"] = trains_slowly(1)
    federation.preludes["hospital-01"] = soon + trains_slowly(600, "number == 1")
    start(federation, run, [], rounds=20, quorum=2, min_clients=3, **{"round-timeout": 5})
    for shard in shards:
        own = ["--state", str(state)] if shard.name == "hospital-01" else []
        federation.start_client(shard, own)
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
    "the exception's text stays at the hospital",
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
    assert "Jane" not in log + log_of(federation, "server") + everything


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
        wait_until((run / "rounds.jsonl").exists)
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
        assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=6), shards))


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
        wait_until(lambda: status_of(run)["state"] == "running")


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
        complaint = f"{state}: No space left on device; make room, or give --state another folder"
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
    assert status_of(run)["state"] == "stopped"


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
        federation.preludes["hospital-00"] = hangs("client.hospital:train")
    else:
        federation.preludes["server"] = hangs("server.rounds:Rounds._closing_evaluation")
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


LARGE = [("grpc.max_send_message_length", -1)]


def too_large() -> ClientMessage:
    message = ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes())
    message.get_properties_res.properties["x"].string = "x" * (MESSAGE_BYTES + 1)
    return message


def flood(address: str, sent: list[int]) -> None:
    """Send large messages that nobody asked for, as fast as they go."""
    message = ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes())
    message.get_properties_res.properties["x"].string = "x" * (8 << 20)

    def messages() -> Iterator[ClientMessage]:
        for _ in range(200):
            sent.append(1)
            yield message

    with grpc.insecure_channel(address) as channel:
        try:
            for _ in FlowerServiceStub(channel).Join(messages()):
                pass
        except grpc.RpcError:
            return


@pytest.mark.fault(
    "a peer sends garbage, or floods, at the port",
    "its connection is closed; the round goes on, and memory does not grow",
)
def test_garbage_at_the_port_does_no_harm(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["hospital-00"] = trains_slowly(1)
    start(federation, run, shards, rounds=6, quorum=1)
    wait_until((run / "rounds.jsonl").exists)
    assert federation.server is not None
    host, _, port = federation.address.partition(":")
    for garbage in (b"\x00" * 100_000, b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000), b"PRI * HT"):
        with socket.create_connection((host, int(port))) as connection:
            try:
                connection.sendall(garbage)
                connection.settimeout(2)
                connection.recv(100)
            except OSError:
                pass
    with grpc.insecure_channel(federation.address, LARGE) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            list(FlowerServiceStub(channel).Join(iter([too_large()])))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    sent: list[int] = []
    threads = [threading.Thread(target=flood, args=(federation.address, sent)) for _ in range(4)]
    before = memory_of(federation.server.pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert memory_of(federation.server.pid) < before + (300 << 20)  # of 6.4 GB that were offered
    assert len(sent) < 100
    assert set(federation.wait(120).values()) == {0}
    assert all(len(line["hospitals"]) == 3 for line in lines_of(run))
    assert "no hello" in log_of(federation, "server")


@pytest.mark.fault(
    "a peer connects and says nothing", "its connection is closed, and its place is free again"
)
def test_a_silent_peer_is_sent_away(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["server"] = (
        "import server.flower\nserver.flower.GREETING_SECONDS = 1.0\nserver.flower.STRANGERS = 2\n"
    )
    federation.start_server(options(tmp_path / "run", 1, rounds=1))
    wait_until(lambda: "listening" in log_of(federation, "server"))
    silence: SimpleQueue[None] = SimpleQueue()
    with grpc.insecure_channel(federation.address) as channel:
        silent = [FlowerServiceStub(channel).Join(iter(silence.get, None)) for _ in range(6)]
        for call in silent:
            with suppress(grpc.RpcError):
                assert len(list(call)) <= 1  # a greeting, or nothing: all places were taken
            silence.put(None)
    federation.start_client(shards[0])
    assert set(federation.wait(60).values()) == {0}
    assert log_of(federation, "server").count("no hello") >= 2


@pytest.mark.fault(
    "a stranger opens connections without end, and says nothing on them",
    "those beyond a limit are closed; the server has files left, and the run goes on",
)
def test_open_connections_do_not_end_the_run(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    federation.preludes["server"] = (
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (150, 300))\n"
    )
    federation.preludes["hospital-00"] = trains_slowly(1)
    start(federation, run, shards, rounds=4, quorum=3)
    wait_until((run / "rounds.jsonl").exists)
    host, _, port = federation.address.partition(":")
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        assert set(federation.wait(60).values()) == {0}
    assert all(len(line["hospitals"]) == 3 for line in lines_of(run))


def memory_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) * 1024


@needs_hosts
@pytest.mark.fault(
    "a hospital's line is cut and mended, with no end told (half-open connection)",
    "keepalive finds it on both sides; the hospital comes back by itself and takes part",
)
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
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=6), shards[:2]))


@needs_hosts
@pytest.mark.fault(
    "every line delays packets by 100 ms and loses 5 %",
    "the run takes longer and ends as on a good line",
)
def test_a_bad_line_only_takes_longer(tmp_path: Path, shards: list[Path]) -> None:
    run = tmp_path / "run"
    with Hosts(3) as hosts, FaultyFederation(tmp_path / "logs", hosts=hosts) as federation:
        if not all(host.spoil(delay_ms=100, loss_percent=5) for host in hosts):
            pytest.skip("this kernel has no netem")
        start(federation, run, shards[:2], rounds=2, quorum=1)
        assert set(federation.wait(120).values()) == {0}
    state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED), shards[:2]))
