"""Health checks of both sides, as the images call them."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import server.health
from client.health import Unhealthy, standing
from server.run.folder import RunFolder
from server.run.records import RunStatus
from tests.support.faults import FaultyFederation, trains_slowly
from tests.support.federations import log_of, options
from tests.support.provisioned import provision
from tests.support.shards import make_shard
from tests.support.waiting import wait_until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKING = {
    "state": "working",
    "device": "cpu",
    "round": 3,
    "until": (NOW + timedelta(minutes=1)).isoformat(),
}


def check(module: str, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    return subprocess.run(
        [sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False
    )


def look(folder: Path, status: dict[str, Any], now: datetime = NOW) -> str:
    (folder / "status.json").write_text(json.dumps(status))
    return standing(folder, now)


def test_a_client_is_healthy_while_it_is_connected(tmp_path: Path) -> None:
    assert look(tmp_path, {"state": "connected", "device": "cpu"}) == "connected, on cpu"
    assert look(tmp_path, WORKING) == "working, on cpu, round 3"
    halfway = {**WORKING, "phase": "training", "share": 0.5}
    assert look(tmp_path, halfway) == "working, on cpu, round 3, training 50%"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"state": "connecting", "device": "cpu"}, "connecting"),
        ({"state": "refused", "device": "cpu", "reason": "revoked"}, "refused: revoked"),
        ({**WORKING, "until": (NOW - timedelta(seconds=1)).isoformat()}, "stuck in round 3"),
        ({**WORKING, "device": "cuda:0"}, "no GPU is visible any more"),
    ],
)
def test_a_client_that_is_away_stuck_or_without_its_gpu_is_not(
    tmp_path: Path, status: dict[str, Any], why: str
) -> None:
    # The last case is this machine without a GPU: what a container sees that has lost its own.
    if status["device"] == "cuda:0" and Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unhealthy, match=why):
        look(tmp_path, status)


DRIVER = """
int nvmlInitWithFlags(unsigned flags) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { return HANDLE; }
"""
"""What the check asks of NVIDIA's management library, under its own names (NVML API Reference)."""
LOST = 15


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for a stand-in of the driver")
@pytest.mark.parametrize(
    ("init", "count", "handle", "says"),
    [
        (0, 1, 0, None),
        (0, 0, 0, "no GPU is visible any more"),
        (0, 1, LOST, "no GPU is visible any more (GPU is lost)"),
        (999, 1, 0, "no GPU is visible any more (Unknown Error)"),
    ],
)
def test_a_client_with_a_gpu_is_healthy_while_the_driver_reaches_it(
    tmp_path: Path, init: int, count: int, handle: int, says: str | None
) -> None:
    (tmp_path / "status.json").write_text('{"state": "connected", "device": "cuda:0"}')
    library = tmp_path / "libnvidia-ml.so.1"
    answers = [
        f"-D{name}={value}"
        for name, value in {"INIT": init, "COUNT": count, "HANDLE": handle}.items()
    ]
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", *answers, "-o", library, "-"],
        input=DRIVER,
        text=True,
        check=True,
    )
    result = check("client.health", FLOWER_CLIENT_STATE=tmp_path, LD_LIBRARY_PATH=tmp_path)
    if says is None:
        assert (result.returncode, result.stdout) == (0, "connected, on cuda:0\n")
    else:
        assert (result.returncode, result.stderr) == (1, f"{says}\n")


@pytest.mark.parametrize("begun", [True, False])
def test_a_server_that_waits_for_hospitals_is_not_called_healthy(
    tmp_path: Path, begun: bool
) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    done = {"round": 3} if begun else {}
    status = {"state": "waiting", "rounds": 9, "hospitals": 1, "needed": 2, **done}
    folder.status.write(RunStatus.model_validate(status))
    if begun:
        with pytest.raises(server.health.Unhealthy, match="waiting for hospitals: 1 of 2"):
            server.health.standing(folder.path)
    else:  # as long as no round is open, waiting is all that it has to do
        assert server.health.standing(folder.path).startswith("waiting for hospitals: 1 of 2")
    folder.log.close()
    with pytest.raises(server.health.Unhealthy, match="stopped: waiting when its process was"):
        server.health.standing(folder.path)


def test_before_there_is_a_status_a_client_is_not_healthy(tmp_path: Path) -> None:
    result = check("client.health", FLOWER_CLIENT_STATE=tmp_path)
    assert (result.returncode, result.stderr) == (1, "no status yet\n")


@pytest.mark.parametrize("side", ["client", "server"])
def test_asking_after_health_does_not_load_torch(side: str) -> None:
    asked = f"import sys, {side}.health; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


@pytest.mark.parametrize("encrypted", [True, False])
def test_both_sides_of_a_federation_are_healthy_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    for scheme in ("http", "https"):  # the way out of this machine, not the way within it
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    keys = provision(tmp_path / "keys", ["site"]) if encrypted else None
    shard = make_shard(tmp_path / "site").path
    state, run = tmp_path / "state", tmp_path / "run"
    side = {"FLOWER_SERVER_TLS": keys / "server"} if keys else {"FLOWER_SERVER_INSECURE": "true"}
    with FaultyFederation(tmp_path / "logs", tls=keys) as federation:
        variables = {
            **side,
            "FLOWER_SERVER_LISTEN": federation.address,
            "FLOWER_SERVER_RUN": run,
            "FLOWER_SERVER_INIT": "random",
        }
        if encrypted:
            gone = check("server.health", **{**variables, "FLOWER_SERVER_TLS": tmp_path})
            assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
            assert "ca.crt: cannot be read" in gone.stderr
        away = check("server.health", **variables)
        assert (away.returncode, away.stderr) == (1, "it does not answer\n")
        federation.start_server(options(run, 1, rounds=100_000))
        wait_until(lambda: "listening" in log_of(federation, "server"))
        federation.preludes["site"] = trains_slowly(0.5)  # or rounds take all the CPU
        federation.start_client(shard, ["--state", str(state)])
        wait_until((run / "rounds.jsonl").exists)
        here = check("server.health", **variables)
        assert here.returncode == 0, here.stderr
        assert here.stdout.startswith("round ")
        client = check("client.health", FLOWER_CLIENT_STATE=state)
        assert client.returncode == 0, client.stderr
        assert client.stdout.partition(",")[0] in ("connected", "working")
        assert federation.server is not None
        federation.server.kill()
        wait_until(lambda: check("client.health", FLOWER_CLIENT_STATE=state).returncode == 1)
