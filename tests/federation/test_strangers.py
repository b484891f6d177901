"""Strangers at the port, and hospitals that flood it; what each must end in stands beside it."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from flwr.proto.transport_pb2 import ClientMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from client.kit import read_kit
from common.net import MESSAGE_BYTES
from tests.support.faults import (
    FaultyFederation,
    trains_after,
    trains_slowly,
)
from tests.support.federations import lines_of, log_of, options, start
from tests.support.provisioned import provision
from tests.support.waiting import wait_until

LARGE = [("grpc.max_send_message_length", -1)]


def too_large() -> ClientMessage:
    message = ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes())
    message.get_properties_res.properties["x"].string = "x" * (MESSAGE_BYTES + 1)
    return message


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    kits = provision(tmp_path / "kits", ["hospital-00", "hospital-01", "hospital-02", "rogue"])
    with FaultyFederation(tmp_path / "logs", tls=kits) as federation:
        yield federation


def rogue_channel(federation: FaultyFederation, kits: Path) -> grpc.Channel:
    """Return a channel of a hospital on the list that does not keep to the protocol."""
    kit = read_kit(kits / "sites" / "rogue", datetime.now(UTC))
    return grpc.secure_channel(federation.address, kit.credentials(), LARGE)


def flood(channel: grpc.Channel, sent: list[int]) -> None:
    """Send large messages that nobody asked for, as fast as they go."""
    message = ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes())
    message.get_properties_res.properties["x"].string = "x" * (8 << 20)

    def messages() -> Iterator[ClientMessage]:
        for _ in range(200):
            sent.append(1)
            yield message

    try:
        for _ in FlowerServiceStub(channel).Join(messages()):
            pass
    except grpc.RpcError:
        return


@pytest.mark.fault(
    "a stranger sends garbage to the port, or a hospital on the list floods it",
    "its connection is closed; the round goes on, and memory does not grow",
)
def test_garbage_at_the_port_does_no_harm(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, done = tmp_path / "run", tmp_path / "done"
    federation.preludes["hospital-00"] = trains_after(
        f"os.path.exists({str(done)!r})", "number == 2"
    )
    start(federation, run, shards, rounds=3, quorum=1)
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
    with rogue_channel(federation, tmp_path / "kits") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            list(FlowerServiceStub(channel).Join(iter([too_large()])))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    sent: list[int] = []
    before = memory_of(federation.server.pid)
    with ExitStack() as stack:
        channels = [
            stack.enter_context(rogue_channel(federation, tmp_path / "kits")) for _ in range(4)
        ]
        threads = [threading.Thread(target=flood, args=(channel, sent)) for channel in channels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert memory_of(federation.server.pid) < before + (300 << 20)  # of 6.4 GB that were offered
    assert len(sent) < 100
    done.touch()
    assert set(federation.wait(120).values()) == {0}
    assert all(len(line["hospitals"]) == 3 for line in lines_of(run))
    assert "no hello" in log_of(federation, "server")


@pytest.mark.fault(
    "a hospital on the list connects and says nothing", "its connection is closed after a while"
)
def test_a_silent_hospital_is_sent_away(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["server"] = (
        "import server.transport.connection as connection\nconnection.GREETING_SECONDS = 1.0\n"
    )
    federation.start_server(options(tmp_path / "run", 1, rounds=1))
    wait_until(lambda: "listening" in log_of(federation, "server"))
    silence: SimpleQueue[None] = SimpleQueue()
    with rogue_channel(federation, tmp_path / "kits") as channel:
        silent = [FlowerServiceStub(channel).Join(iter(silence.get, None)) for _ in range(6)]
        for call in silent:
            with suppress(grpc.RpcError):
                assert len(list(call)) == 1  # a greeting
            silence.put(None)
    wait_until(lambda: log_of(federation, "server").count("no hello") == 6)
    federation.start_client(shards[0])
    assert set(federation.wait(60).values()) == {0}


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
