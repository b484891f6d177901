"""Who may take part: real processes, and hospitals that do not keep to the rules."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from client.kit import read_kit
from client.state import ClientState
from client.transport.connection import take_part
from client.transport.messages import MessageHandler
from common.envelope import Envelope
from common.errors import Refused
from experiments.launch.local import LocalFederation
from server.members.sites import read_sites, write_sites
from server.provision.federation import add, renew, revoke
from tests.support.commands import assert_one_line, run
from tests.support.faults import FaultyFederation, trains_slowly
from tests.support.federations import lines_of, log_of, options, status_of
from tests.support.hospitals import hospital_of
from tests.support.provisioned import provision
from tests.support.waiting import wait_until

NAMES = ["hospital-00", "hospital-01", "hospital-02"]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    kits = provision(tmp_path / "kits", NAMES)
    with FaultyFederation(tmp_path / "logs", tls=kits) as federation:
        yield federation


LOOKS_SOON = "import client.transport.connection as c\nc.BETWEEN_RUNS = 0.3\n"
"""A prelude: the client looks for the next run more often."""


def kit_of(tmp_path: Path, name: str = "hospital-00") -> Path:
    return tmp_path / "kits" / "sites" / name


def client(federation: LocalFederation, kit: Path, shard: Path, *more: object) -> list[object]:
    return ["--server", federation.address, "--tls", kit, "--data", shard, "--patience", 60, *more]


def audit_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def hashes_of(log: list[dict[str, Any]], event: str) -> list[str]:
    return [line["sha256"] for line in log if line["event"] == event and line["sha256"]]


def test_who_is_on_the_list_takes_part_and_both_audit_logs_agree(
    tmp_path: Path, federation: LocalFederation, shards: list[Path]
) -> None:
    federation.start_server(options(tmp_path / "run", 3, quorum=1))
    for shard in shards:
        federation.start_client(shard, ["--state", str(tmp_path / "state" / shard.name)])
    assert set(federation.wait(120).values()) == {0}
    server = audit_of(tmp_path / "run")
    for name in NAMES:
        mine = audit_of(tmp_path / "state" / name)
        status = json.loads((tmp_path / "state" / name / "status.json").read_text())
        assert status["state"] == "finished"
        at_server = [line for line in server if line.get("site") == name]
        for there, here in (("sent", "received"), ("received", "sent")):
            hashes = hashes_of(mine, here)
            assert hashes == hashes_of(at_server, there)
            assert len(hashes) >= 2
    files = [tmp_path / "run", *(tmp_path / "state" / name for name in NAMES)]
    verified = run("flower-audit", "verify", *(folder / "audit.jsonl" for folder in files))
    assert verified.returncode == 0, verified.stderr


@pytest.mark.fault(
    "a site that is not on the list, or says that it is another one",
    "refused with exit code 4 and an audit line, before any model is sent",
)
def test_unknown_sites_and_other_names_are_refused_before_any_model(
    tmp_path: Path,
    federation: LocalFederation,
    shards: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    federation.start_server(options(folder, 3))
    wait_until(lambda: "listening" in log_of(federation, "server"))
    listed = read_sites(tmp_path / "kits" / "server" / "sites.json")
    add(tmp_path / "kits", "hospital-77", datetime.now(UTC))
    write_sites(tmp_path / "kits" / "server" / "sites.json", listed)  # its kit is all that it has
    unknown = run("flower-client", *client(federation, kit_of(tmp_path, "hospital-77"), shards[0]))
    assert_one_line(unknown, 4, "hospital-77 is not on the list")
    # A hospital's own client does not let it: one certificate, and another hospital's name.
    kit = kit_of(tmp_path)
    other = run("flower-client", *client(federation, kit, shards[0], "--name", "hospital-01"))
    assert_one_line(other, 2, "is the kit of hospital-00, not of hospital-01")
    monkeypatch.setattr(
        "client.transport.connection.read_kit", lambda folder, now, _name: read_kit(folder, now)
    )
    handler = Watching(hospital_of(shards[1]), ClientState(None))
    with pytest.raises(Refused, match="its certificate is not that of hospital-01"):
        take_part(handler, federation.address, kit, 60)
    assert set(handler.seen) == {"get_properties_ins"}
    refused = [line["site"] for line in audit_of(folder) if line["event"] == "refused"]
    assert refused == ["hospital-77", "hospital-01"]


class Watching(MessageHandler):
    """Keeps what kinds of messages the server sends."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[str | None] = []

    def answer(self, received: Envelope[ServerMessage], *arguments: Any) -> Envelope[ClientMessage]:
        self.seen.append(received.message.WhichOneof("msg"))
        return super().answer(received, *arguments)


@pytest.mark.fault(
    "a site is revoked in mid-run",
    "it is dismissed with exit code 4, without a restart; the others go on",
)
def test_a_site_that_is_revoked_has_to_go_and_the_others_stay(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    folder = tmp_path / "run"
    federation.start_server(options(folder, 3, rounds=12, quorum=0.6))
    federation.preludes["hospital-00"] = trains_slowly(0.5)
    for shard in shards:
        federation.start_client(shard)
    wait_until((folder / "rounds.jsonl").exists)
    revoke(tmp_path / "kits", "hospital-01", datetime.now(UTC))
    assert federation.clients["hospital-01"].wait(60) == 4
    done = len(lines_of(folder))
    codes = federation.wait(120)
    assert codes == {"server": 0, "hospital-00": 0, "hospital-01": 4, "hospital-02": 0}
    assert "hospital-01 was revoked" in log_of(federation, "hospital-01")
    assert done < 12
    assert list(lines_of(folder)[-1]["hospitals"]) == ["hospital-00", "hospital-02"]


@pytest.mark.fault(
    "a site's certificate is renewed in mid-run",
    "the client with the old one is dismissed with exit code 4, the one with the new one gets in",
)
def test_a_renewed_certificate_ends_the_session_of_the_old_one(
    tmp_path: Path, federation: LocalFederation, shards: list[Path]
) -> None:
    folder = tmp_path / "run"
    federation.start_server(options(folder, 2))
    federation.start_client(shards[0])
    wait_until(lambda: "hospital-00 joined" in log_of(federation, "server"))
    old = federation.clients["hospital-00"]
    renew(tmp_path / "kits", "hospital-00", datetime.now(UTC))
    federation.start_client(shards[0])
    assert old.wait(60) == 4
    federation.start_client(shards[1])
    codes = federation.wait(60)
    assert codes == {"server": 0, "hospital-00": 0, "hospital-01": 0}
    assert all(len(line["hospitals"]) == 2 for line in lines_of(folder))


def test_a_key_that_others_may_read_is_not_used(
    tmp_path: Path, federation: LocalFederation, shards: list[Path]
) -> None:
    kit = kit_of(tmp_path)
    (kit / "site.pem").chmod(0o644)
    result = run("flower-client", *client(federation, kit, shards[0]))
    assert_one_line(result, 2, "site.pem", "chmod 600")


def test_a_client_that_stays_takes_part_in_run_after_run_within_its_policy(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["hospital-00"] = LOOKS_SOON
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"max_local_epochs": 1}))
    state = tmp_path / "state"
    stays = ["--stay", "--policy", str(policy), "--state", str(state), "--patience", "1"]
    federation.start_client(shards[0], stays)
    for number in range(2):
        federation.start_server(options(tmp_path / f"run-{number}", 1, rounds=1))
        assert federation.server is not None
        assert federation.server.wait(60) == 0
    federation.start_server(
        options(tmp_path / "greedy", 1, rounds=1, attempts=1, **{"local-epochs": 2})
    )
    assert federation.server is not None
    assert federation.server.wait(60) == 3
    events = (tmp_path / "greedy" / "events.jsonl").read_text()
    assert "against the site's policy: 2 local epochs are more than the 1 allowed here" in events
    client = federation.clients["hospital-00"]
    assert client.poll() is None
    client.terminate()
    assert client.wait(10) == 143
    assert [line["event"] for line in audit_of(state)].count("hello") >= 3
    log = log_of(federation, "hospital-00")
    assert log.count("the run is over; waiting for the next one") >= 2
    between = log.partition("the run is over; waiting")[2].partition("asks to join")[0]
    assert "out of reach" not in between
    assert json.loads((state / "status.json").read_text())["state"] == "stopped"


def test_a_run_that_is_over_is_served_again_without_a_trace(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    """As where Docker starts the server of a run again that is done."""
    federation.preludes["hospital-00"] = LOOKS_SOON
    run, state = tmp_path / "run", tmp_path / "state"
    federation.start_client(shards[0], ["--stay", "--state", str(state)])
    given = options(run, 1, rounds=1)
    federation.start_server(given)
    assert federation.server is not None
    assert federation.server.wait(60) == 0
    page = state / "models" / json.loads((run / "config.json").read_text())["run_id"]
    wait_until((page / "report.html").exists)
    before = (page / "report.html").stat().st_mtime_ns, (run / "events.jsonl").read_text()
    log = log_of(federation, "hospital-00")
    federation.start_server([*given, "--resume"])
    assert federation.server.wait(60) == 0
    told = log.count("the run is over: ") + 1
    wait_until(lambda: log_of(federation, "hospital-00").count("the run is over: ") >= told)
    wait_until(lambda: status_of(state)["state"] == "waiting")
    assert before == ((page / "report.html").stat().st_mtime_ns, (run / "events.jsonl").read_text())


@pytest.mark.fault(
    "a site's certificate has expired",
    "the client says so with exit code 2, and does not connect",
)
def test_an_expired_certificate_is_told_by_the_client_itself(
    tmp_path: Path, federation: LocalFederation, shards: list[Path]
) -> None:
    renew(tmp_path / "kits", "hospital-00", datetime.now(UTC) - timedelta(days=91))
    result = run("flower-client", *client(federation, kit_of(tmp_path), shards[0]))
    assert_one_line(result, 2, "site.pem: its certificate expired on", "operator")
