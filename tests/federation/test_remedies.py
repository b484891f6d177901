"""Remedies that need hospitals and a server, followed as they are printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import assert_one_line, run
from tests.support.faults import FaultyFederation, fails_to_train
from tests.support.federations import events_of, last_noted, log_of, options, status_of
from tests.support.provisioned import provision
from tests.support.waiting import wait_until


def ended(federation: FaultyFederation) -> tuple[int, str]:
    """Wait for the server; return its exit code and its log."""
    assert federation.server is not None
    code = federation.server.wait(60)
    return code, log_of(federation, "server")


def test_a_run_without_enough_hospitals_goes_on_with_fewer_or_with_more(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run_folder = tmp_path / "run"
    too_few = options(run_folder, 2, rounds=1, quorum=1, round_timeout=1)
    federation.start_server(too_few)
    code, said = ended(federation)
    assert code == 3
    remedy = "start more clients, or lower --min-clients or --quorum, and go on with --resume"
    assert f"{remedy}\n" in said
    fewer = options(run_folder, 1, rounds=1, quorum=1, round_timeout=60)
    federation.start_server([*fewer, "--resume"])
    federation.start_client(shards[0])
    assert set(federation.wait(60).values()) == {0}
    more = options(run_folder, 2, rounds=2, quorum=1, round_timeout=60)
    federation.start_server([*more, "--resume"])
    for shard in shards[:2]:
        federation.start_client(shard)
    assert set(federation.wait(60).values()) == {0}
    assert status_of(run_folder)["state"] == "finished"


def test_a_run_with_too_few_good_replies_goes_on_where_the_fault_is_mended(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["hospital-00"] = fails_to_train()
    again = options(tmp_path / "run", 1, rounds=1, quorum=1, attempts=1)
    federation.start_server(again)
    wait_until(lambda: "listening" in log_of(federation, "server"))
    federation.start_client(shards[0], ["--patience", "1"])
    code, said = ended(federation)
    assert code == 3
    events = tmp_path / "run" / "events.jsonl"
    assert f"see rejected and lost in {events}; --resume goes on\n" in said
    assert '"rejected"' in events.read_text()
    federation.clients["hospital-00"].wait(60)
    federation.preludes.clear()
    federation.start_server([*again, "--resume"])
    federation.start_client(shards[0])
    assert set(federation.wait(60).values()) == {0}


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[FaultyFederation]:
    kits = provision(tmp_path / "kits", ["hospital-00"])
    with FaultyFederation(tmp_path / "logs", tls=kits) as federation:
        yield federation


def joined(federation: FaultyFederation, name: str) -> bool:
    return f"{name} joined" in log_of(federation, "server")


def second(federation: FaultyFederation, shard: Path, *more: object) -> list[object]:
    return ["--server", federation.address, "--data", shard, "--patience", 60, *more]


def test_a_second_hospital_of_one_name_joins_under_another(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.start_server(options(tmp_path / "run", 2, rounds=1, quorum=1))
    federation.start_client(shards[0])
    wait_until(lambda: joined(federation, "hospital-00"))
    same = [*second(federation, shards[0]), "--insecure"]
    assert_one_line(run("flower-client", *same), 4, "is connected already; use --name")
    refused = events_of(tmp_path / "run")[-1]
    assert (refused["event"], refused["site"]) == ("refused", "hospital-00")
    other = run("flower-client", *same, "--name", "hospital-77")
    assert other.returncode == 0, other.stderr
    assert set(federation.wait(60).values()) == {0}


@pytest.mark.fault(
    "a second process with a site's certificate",
    "refused with exit code 4 and an audit line; the first one stays",
)
def test_a_second_process_of_one_kit_joins_when_the_first_has_ended(
    tmp_path: Path, certified: FaultyFederation, shards: list[Path]
) -> None:
    certified.start_server(options(tmp_path / "run", 1, rounds=1, quorum=1, **{"min-clients": 2}))
    certified.start_client(shards[0])
    wait_until(lambda: joined(certified, "hospital-00"))
    kit = tmp_path / "kits" / "sites" / "hospital-00"
    same = [*second(certified, shards[0]), "--tls", kit]
    assert_one_line(run("flower-client", *same), 4, "end it; no two may use one kit")
    assert last_noted(tmp_path / "run") == "refused"
    certified.clients["hospital-00"].terminate()
    assert certified.clients["hospital-00"].wait(30) == 143
    certified.start_client(shards[0])
    wait_until(lambda: log_of(certified, "server").count("hospital-00 joined") == 2)
