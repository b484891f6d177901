"""``flower-client --check`` against a real server, and against what is in its way."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.check import _clock
from common.protocol import Greeting
from experiments.launch.local import LocalFederation, free_port
from server.provision.federation import renew, revoke
from tests.support.commands import assert_one_line, run
from tests.support.federations import events_of, log_of, options
from tests.support.provisioned import provision
from tests.support.shards import make_shard
from tests.support.waiting import wait_until


def look(server: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run("flower-client", "check", "--server", server, *arguments)


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Return what was found, and how it was judged, by what was looked at."""
    lines = [re.fullmatch(r"(ok|FAIL) +(.{12}) (.*)", line) for line in result.stdout.splitlines()]
    return {found[2].strip(): (found[1], found[3]) for found in lines if found}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return provision(tmp_path / "keys", ["site"])


@pytest.fixture
def server(tmp_path: Path, keys: Path) -> Iterator[str]:
    with LocalFederation(tmp_path / "logs", tls=keys) as federation:
        federation.start_server(options(tmp_path / "run", 1))
        wait_until(lambda: "listening" in log_of(federation, "server"))
        yield federation.address


def test_all_is_well_and_nobody_has_joined(tmp_path: Path, keys: Path, server: str) -> None:
    shard, kit = make_shard(tmp_path / "site").path, keys / "sites" / "site"
    result = look(server, "--data", shard, "--tls", kit)
    assert result.returncode == 0, result.stdout + result.stderr
    found = findings(result)
    assert {judged for judged, _ in found.values()} == {"ok"}
    assert list(found) == [
        *("shard", "memory", "certificate", "proxy", "name", "port", "server", "clock", "training")
    ]
    assert found["shard"][1] == "40 films of 40 pixels"
    assert found["proxy"][1] == "none"
    assert re.fullmatch("greets site, run [0-9a-f]+, fedcxr .*", found["server"][1])
    assert re.match("38 films to train on, 2 to validate, on cpu", found["training"][1])
    events = events_of(tmp_path / "run") if (tmp_path / "run" / "events.jsonl").exists() else []
    assert not [event for event in events if event["event"] == "joined"]
    log = (tmp_path / "logs" / "server.log").read_text()
    assert re.search(r"site checks its connection \(fedcxr .*\); it does not join", log)
    assert "connection was closed" not in log


def test_what_the_server_would_refuse_is_told(tmp_path: Path, keys: Path, server: str) -> None:
    kit = keys / "sites" / "site"
    wide = make_shard(tmp_path / "wide" / "site", size=48).path
    result = look(server, "--data", wide, "--tls", kit)
    assert_one_line(result, 2, "1 of these are in the way")
    assert findings(result)["image size"] == (
        "FAIL",
        "this run's are 40 pixels wide; make the shard again with --size 40",
    )
    shard = make_shard(tmp_path / "site").path
    old = (kit / "site.pem").read_bytes()
    renew(keys, "site", datetime.now(UTC))
    new = (kit / "site.pem").read_bytes()
    (kit / "site.pem").write_bytes(old)
    judged, text = findings(look(server, "--data", shard, "--tls", kit))["server"]
    assert judged == "FAIL"
    assert "the list has another certificate for site" in text
    (kit / "site.pem").write_bytes(new)
    revoke(keys, "site", datetime.now(UTC))
    judged, text = findings(look(server, "--data", shard, "--tls", kit))["server"]
    assert judged == "FAIL"
    assert "site was revoked on" in text


def test_what_is_in_the_way_is_told_from_here_outwards(tmp_path: Path, keys: Path) -> None:
    shard, kit = make_shard(tmp_path / "site").path, keys / "sites" / "site"
    nobody = f"127.0.0.1:{free_port()}"
    found = findings(look(nobody, "--data", shard, "--tls", kit))
    assert found["port"][0] == "FAIL"
    assert "Connection refused; does the server run" in found["port"][1]
    assert "server" not in found
    found = findings(look("server.invalid:1", "--data", shard, "--insecure"))
    assert found["name"][0] == "FAIL"
    result = look(nobody, "--data", tmp_path / "nowhere", "--tls", kit)
    assert findings(result)["shard"][0] == "FAIL"
    assert_one_line(result, 2, "2 of these are in the way")
    (kit / "site.pem").chmod(0o644)
    found = findings(look(nobody, "--data", shard, "--tls", kit))
    assert found["certificate"][0] == "FAIL"
    assert "chmod 600" in found["certificate"][1]
    assert "port" not in found


@pytest.mark.parametrize(
    ("seconds", "good", "text"),
    [(0, True, "0 s"), (90, False, "90 s behind"), (-600, False, "ahead")],
)
def test_a_clock_that_is_off_is_told(seconds: int, good: bool, text: str) -> None:
    time = datetime.now(UTC) + timedelta(seconds=seconds)
    finding = _clock(Greeting(run="r", seed=0, time=time))
    assert finding.good == good
    assert text in finding.text
