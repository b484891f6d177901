"""Who gets past the handshake, and who is told why not."""

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from flwr.proto.transport_pb2_grpc import FlowerServiceStub
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from common.errors import BadInput
from common.protocol import Greeting
from experiments.launch.local import free_port
from server.members import refusals
from server.members.admission import Admission
from server.members.roster import Roster
from server.members.sites import SiteList
from server.provision.federation import renew, renew_server, revoke
from server.run.folder import RunFolder
from server.transport import service as flower
from server.transport.service import listening
from server.transport.tls import ServerTLS
from tests.support.messages import HELLO
from tests.support.provisioned import provision
from tests.support.rosters import events_of, hello_of, roster_in
from tests.support.waiting import wait_until


def channel_with(ca: Path, identity: Path | None, address: str) -> grpc.Channel:
    """Return a channel that shows a kit's certificate, or none."""
    pem = identity.read_bytes() if identity else None
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(ca.read_bytes(), pem, pem),
        [("grpc.ssl_target_name_override", "localhost")],
    )


def greeted(channel: grpc.Channel) -> bool:
    """Return whether a new stream gets a greeting."""
    answers: SimpleQueue[None] = SimpleQueue()
    call = FlowerServiceStub(channel).Join(iter(answers.get, None), timeout=10)
    try:
        return next(call, None) is not None
    except grpc.RpcError:
        return False
    finally:
        answers.put(None)
        call.cancel()


@pytest.mark.fault(
    "a stranger without a certificate of the federation, with garbage instead of TLS, or with a "
    "certificate of another federation",
    "it does not get past the handshake, and can call nothing",
)
def test_strangers_do_not_get_past_the_handshake(tmp_path: Path) -> None:
    ours, others = (provision(tmp_path / name, ["a"]) for name in ("ours", "others"))
    address = f"127.0.0.1:{free_port()}"
    ca = ours / "ca" / "ca.crt"
    with listening(roster_in(tmp_path), address, ServerTLS(ours / "server")):
        for identity in (None, others / "sites" / "a" / "site.pem"):
            with channel_with(ca, identity, address) as channel:
                assert not greeted(channel)
                with pytest.raises(grpc.RpcError):
                    HealthStub(channel).Check(HealthCheckRequest(), timeout=10)  # type: ignore[attr-defined]
        with grpc.insecure_channel(address) as channel:
            assert not greeted(channel)
        with channel_with(ca, ours / "sites" / "a" / "site.pem", address) as channel:
            assert greeted(channel)


def test_a_renewed_certificate_of_the_server_counts_without_a_restart(tmp_path: Path) -> None:
    kits = provision(tmp_path / "kits", ["a"])
    address = f"127.0.0.1:{free_port()}"
    ca, identity = kits / "ca" / "ca.crt", kits / "sites" / "a" / "site.pem"

    def shown() -> str:
        host, _, port = address.partition(":")
        return ssl.get_server_certificate((host, int(port)), timeout=10)

    with listening(roster_in(tmp_path), address, ServerTLS(kits / "server")):
        first = shown()
        assert first == (kits / "server" / "server.crt").read_text()
        (kits / "server" / "server.crt").write_text("noise")
        assert shown() == first
        (kits / "server" / "server.crt").write_text(first)
        renew_server(kits, datetime.now(UTC))
        assert shown() == (kits / "server" / "server.crt").read_text() != first
        with channel_with(ca, identity, address) as channel:
            assert greeted(channel)


@pytest.mark.fault(
    "a hospital that was revoked calls again and again, says nothing, or asks for health without "
    "end",
    "it is told so at once, unheard, and others find their places",
)
def test_a_revoked_hospital_is_told_unheard_and_holds_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "CONNECTIONS", 4)
    kits = provision(tmp_path / "kits", ["a", "b"])
    revoke(kits, "b", datetime.now(UTC))
    address = f"127.0.0.1:{free_port()}"
    folder = RunFolder.create(tmp_path / "run", {})
    sites = SiteList(kits / "server" / "sites.json")
    roster = Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, folder, sites), folder)
    ca = kits / "ca" / "ca.crt"
    silence: SimpleQueue[None] = SimpleQueue()
    with (
        listening(roster, address, ServerTLS(kits / "server")),
        channel_with(ca, kits / "sites" / "b" / "site.pem", address) as revoked,
        channel_with(ca, kits / "sites" / "a" / "site.pem", address) as good,
    ):
        for _ in range(3):
            (farewell,) = FlowerServiceStub(revoked).Join(iter(silence.get, None), timeout=20)
            text = farewell.get_properties_ins.config["message"].string
            assert "b was revoked on" in text
        check: Any = revoked.stream_unary("/grpc.health.v1.Health/Check")
        for _ in range(8):
            assert check.future(iter(silence.get, None), timeout=20).result() == b"\x08\x01"
        assert greeted(good)
        for _ in range(11):
            silence.put(None)
    assert refusals_in(folder, "events") == [("b", "b was revoked", 1)]


def refusals_in(folder: RunFolder, name: str) -> list[tuple[str, str, int]]:
    """Return whom a file says to be refused, why in three words, and how often."""
    lines = (folder.path / f"{name}.jsonl").read_text().splitlines()
    return [
        (line["site"], " ".join(line["reason"].split()[:3]), line["times"])
        for line in map(json.loads, lines)
        if line["event"] == "refused"
    ]


@pytest.mark.fault(
    "a client that is refused is started again and again",
    "log, events and audit log say so once, and again with the number of times after an hour",
)
def test_the_same_refusal_is_written_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kits = provision(tmp_path / "kits", ["b"])
    kit = kits / "sites" / "b" / "site.pem"
    address = f"127.0.0.1:{free_port()}"
    folder = RunFolder.create(tmp_path / "run", {})
    sites = SiteList(kits / "server" / "sites.json")
    roster = Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, folder, sites), folder)
    hello = hello_of(HELLO.model_copy(update={"site": "b"}))

    def come(times: int = 1) -> None:
        for _ in range(times):
            with channel_with(kits / "ca" / "ca.crt", kit, address) as channel:
                (farewell,) = FlowerServiceStub(channel).Join(iter([]), timeout=20)
                assert "refused" in farewell.get_properties_ins.config["message"].string

    with listening(roster, address, ServerTLS(kits / "server")):
        old = kit.read_bytes()
        revoke(kits, "b", datetime.now(UTC))
        come(5)
        renew(kits, "b", datetime.now(UTC))
        new = kit.read_bytes()
        kit.write_bytes(old)
        come(4)
        monkeypatch.setattr(refusals, "AGAIN_SECONDS", 0.0)
        come()
        monkeypatch.undo()
        come(2)
        kit.write_bytes(new)
        with channel_with(kits / "ca" / "ca.crt", kit, address) as channel:
            call = FlowerServiceStub(channel).Join(iter([hello]), timeout=20)
            wait_until(lambda: "joined" in events_of(folder))
            call.cancel()
        kit.write_bytes(old)
        come(2)
    other = ("b", "the list has")
    expected = [("b", "b was revoked", 1), (*other, 1), (*other, 4), (*other, 1)]
    assert refusals_in(folder, "events") == refusals_in(folder, "audit") == expected
    told = [line.split(":")[0] for line in caplog.messages if line.startswith("b ref")]
    assert told == ["b refused", "b refused", "b refused 4 times", "b refused"]


@pytest.mark.parametrize(
    ("days", "told"), [(-91, r"expired on .*renew FOLDER --server"), (91, "set the clock")]
)
def test_a_server_certificate_that_is_not_valid_is_told_at_the_start(
    tmp_path: Path, days: int, told: str
) -> None:
    kits = provision(tmp_path / "kits", ["a"])
    renew_server(kits, datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(BadInput, match=told):
        ServerTLS(kits / "server")
