"""The ten hospitals of ``docker compose up`` on a real engine, disturbed on the way."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
from docker.models.containers import Container

from common.audit import verify
from common.checkpoint import read_checkpoint
from experiments.compose.containers import containers_of
from experiments.compose.simulation import NAMES, OWNER
from tests.support.commands import run
from tests.support.federations import lines_of, status_of
from tests.support.prometheus import MONITORING, PROMETHEUS, needs_prometheus
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PROJECT = f"fedcxr-test-{os.getpid()}"
SETTINGS = {
    "ROUNDS": 2,
    "SYNTHETIC_IMAGES": 24,
    "PRETRAIN_EPOCHS": 1,
    "PRETRAIN_BATCH_SIZE": 32,
    "PRETRAIN_QUEUE": 64,
}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("docker")]


def compose(
    folder: Path,
    *arguments: str,
    project: str = PROJECT,
    files: tuple[str, ...] = ("docker-compose.yml",),
) -> list[str]:
    named = [word for file in files for word in ("--file", str(ROOT / file))]
    named += ["--project-directory", str(folder), "--project-name", project]
    return ["docker", "compose", *named, *arguments]


STAND_IN = f"""
services:
  prometheus:
    image: fedcxr-server
    pull_policy: never
    user: "65534"
    entrypoint: [prometheus]
    command: [--config.file=/etc/prometheus/prometheus.yml, --storage.tsdb.path=/tmp/data]
    healthcheck: {{disable: true}}
    volumes: ["{PROMETHEUS}:/usr/bin/prometheus:ro"]
"""
"""This machine's Prometheus in the place of its image, which is not pulled here."""

WITH_MONITORING = ("--profile", "monitoring")


def start_prometheus(folder: Path) -> None:
    shutil.copytree(MONITORING, folder / "server" / "monitoring")
    (folder / "stand-in.yml").write_text(STAND_IN)
    files = ("docker-compose.yml", str(folder / "stand-in.yml"))
    up = (*WITH_MONITORING, "up", "--no-build", "--detach", "prometheus")
    subprocess.run(compose(folder, *up, files=files), check=True)


def can_reach(container: Container, address: str) -> bool:
    host, _, port = address.partition(":")
    code = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
    return container.exec_run(["python", "-c", code]).exit_code == 0


class Simulation(NamedTuple):
    """A federation that has run to its end while it was disturbed."""

    folder: Path
    code: int
    log: str
    killed: list[str]
    containers: dict[str, Container]
    reached: list[bool]

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "first"


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    folder = tmp_path_factory.mktemp("simulation")
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in SETTINGS.items()))
    subprocess.run(["docker", "compose", "build"], cwd=ROOT, check=True)
    engine = docker.from_env()
    run_folder = folder / "runs" / "first"
    killed = ["hospital-03", "server"]
    try:
        if PROMETHEUS is not None:
            start_prometheus(folder)
        with (folder / "up.log").open("wb") as log:
            up = subprocess.Popen(
                compose(folder, "up", "--no-build", "--no-color"), stdout=log, stderr=log
            )
            try:
                wait_until((folder / "runs/sites/hospital-05/status.json").exists, 600)
                containers = containers_of(engine, PROJECT)
                hospital = containers["hospital-05"]
                wait_until(lambda: can_reach(hospital, "server:8080"), 120)
                reached = [can_reach(hospital, port) for port in ("server:9464", "metrics:9464")]
                wait_until((run_folder / "rounds.jsonl").exists, 600)
                for name in killed:
                    containers[name].kill()
                assert len(lines_of(run_folder)) == 1
                for name in killed:
                    containers[name].start()
                code = up.wait(600)
            finally:
                up.kill()
        log_text = (folder / "up.log").read_text(errors="replace")
        yield Simulation(folder, code, log_text, killed, containers_of(engine, PROJECT), reached)
    finally:
        down = compose(folder, *WITH_MONITORING, "down", "--volumes")
        subprocess.run(down, check=True, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_it_ends_well_although_a_hospital_and_the_server_were_killed(
    simulation: Simulation,
) -> None:
    assert simulation.code == 0, simulation.log[-3000:]
    for name, container in simulation.containers.items():
        assert container.attrs["State"]["ExitCode"] == 0, (name, simulation.log[-3000:])
    lines = lines_of(simulation.run)
    assert [line["round"] for line in lines] == [1, 2]
    assert all(len(line["hospitals"]) >= 8 for line in lines)
    events = (simulation.run / "events.jsonl").read_text()
    assert '"resumed"' in events
    assert status_of(simulation.run)["state"] == "finished"
    _, provenance = read_checkpoint(simulation.run / "final.pt", "densenet121", 0)
    assert provenance is not None
    assert provenance.start is not None
    assert provenance.start.method == "mocov2"
    verify(simulation.run / "audit.jsonl")


def test_model_report_and_logs_are_on_the_host(simulation: Simulation) -> None:
    assert "Hospital by hospital" in (simulation.run / "report.html").read_text()
    assert "round 2 of 2" in (simulation.run / "server.log").read_text()
    for name in NAMES:
        state = simulation.folder / "runs" / "sites" / name
        assert "the run is over" in (state / "client.log").read_text()
        assert json.loads((state / "status.json").read_text())["state"] == "finished"
        verify(state / "audit.jsonl")


def test_nobody_is_more_than_it_must_be(simulation: Simulation) -> None:
    for name, container in simulation.containers.items():
        host: dict[str, Any] = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        if name not in ("folders", "prometheus"):
            assert container.attrs["Config"]["User"] == str(OWNER), name
            assert not host["CapAdd"], name
    for name in ("federation", "monitoring"):
        network = docker.from_env().networks.get(f"{PROJECT}_{name}")
        assert network.attrs["Internal"], name


ASK = """
import json, sys, urllib.parse, urllib.request
query = urllib.parse.urlencode({"query": sys.argv[1]})
with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}") as answer:
    print(json.dumps([each["value"][1] for each in json.load(answer)["data"]["result"]]))
"""


@needs_prometheus
@pytest.mark.parametrize(
    ("query", "least"),
    [
        ("max_over_time(fedcxr_completed_rounds_total[1h])", 1),
        ("count(last_over_time(fedcxr_hospital_examples[1h]))", 8),
        ("count(count_over_time(fedcxr_phase_start_timestamp_seconds[1h]))", 1),
    ],
)
def test_prometheus_has_seen_the_run(simulation: Simulation, query: str, least: int) -> None:
    asked = simulation.containers["prometheus"].exec_run(["python", "-c", ASK, query])
    assert asked.exit_code == 0, asked.output
    (value,) = json.loads(bytes(asked.output))  # type: ignore[arg-type]
    assert float(value) >= least


def test_a_hospital_reaches_the_server_and_not_its_metrics(simulation: Simulation) -> None:
    assert simulation.reached == [False, False]


PROBE = """
import json, os, pathlib, socket
def shards(): return sorted(str(p.parent) for p in pathlib.Path('/').rglob('images.npy'))
def capabilities():
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith('CapEff')]
def can(action):
    try: action()
    except OSError: return False
    return True
print(json.dumps({
    'uid': os.getuid(), 'shards': shards(), 'capabilities': capabilities(),
    'writes to': [f for f in ('/shard', '/kit', '/opt', '/state')
                  if can(lambda: open(f + '/x', 'w'))],
    'reaches out': can(lambda: socket.create_connection(('1.1.1.1', 53), 3)),
}))
"""


def test_from_within_a_hospital_there_is_its_own_shard_and_no_way_out(
    simulation: Simulation,
) -> None:
    command = compose(
        simulation.folder, "run", "--rm", "--no-deps", "--entrypoint", "python", "hospital-04"
    )
    result = subprocess.run([*command, "-c", PROBE], check=True, capture_output=True, text=True)
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen == {
        "uid": OWNER,
        "shards": ["/shard"],
        "capabilities": ["0" * 16],
        "writes to": ["/state"],
        "reaches out": False,
    }
    own = (simulation.folder / "federation/hospitals/hospital-04/manifest.json").read_bytes()
    shown = subprocess.run(
        [*command, "-c", "print(open('/shard/manifest.json').read(), end='')"],
        check=True,
        capture_output=True,
    )
    assert own == shown.stdout


def test_the_gpu_is_reserved_for_all_who_compute(simulation: Simulation) -> None:
    project = f"{PROJECT}-gpu"
    files = ("docker-compose.yml", "docker-compose.gpu.yml")

    def gpu(*arguments: str) -> None:
        command = compose(simulation.folder, *arguments, project=project, files=files)
        subprocess.run(command, env={**os.environ, "GPU": "3", "GPU_SLOTS": "4"}, check=True)

    try:
        gpu("create", "--no-build")
        containers = containers_of(docker.from_env(), project)
    finally:
        gpu("down", "--volumes")
    for name, container in containers.items():
        requests = container.attrs["HostConfig"]["DeviceRequests"] or []
        reserved = [(r["Driver"], r["DeviceIDs"], r["Capabilities"]) for r in requests]
        computes = name in ("pretrain", "server", *NAMES)
        assert reserved == ([("nvidia", ["3"], [["gpu"]])] if computes else []), name
        shared = "FLOWER_CLIENT_SLOTS=4" in container.attrs["Config"]["Env"]
        assert shared == (name in NAMES), name


def test_a_second_up_finds_the_run_done(simulation: Simulation) -> None:
    before = (simulation.run / "rounds.jsonl").read_bytes()
    again = subprocess.run(
        compose(simulation.folder, "up", "--no-build", "--no-color"),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert "done already" in again.stderr  # where Compose shows what a container logs
    assert (simulation.run / "rounds.jsonl").read_bytes() == before


def test_the_containers_are_shown(simulation: Simulation) -> None:
    result = run("flower-containers", "status", "--project", PROJECT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["container", "state", "health", "restarts"]
    assert {line.split()[0] for line in lines[1:]} == simulation.containers.keys()


def run_step(
    simulation: Simulation, step: str, **changes: object
) -> subprocess.CompletedProcess[str]:
    """Run one of the steps once more, with other settings."""
    return subprocess.run(
        compose(simulation.folder, "run", "--rm", "--no-deps", step),
        env={**os.environ, **{name: str(value) for name, value in changes.items()}},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_other_settings_are_another_first_model_and_other_films_are_refused(
    simulation: Simulation,
) -> None:
    made = run_step(simulation, "pretrain", PRETRAIN_EPOCHS=2)
    assert made.returncode == 0, made.stderr
    listing = "import os; print(*sorted(os.listdir('/checkpoint')))"
    volume = ["run", "--rm", "--no-deps", "--entrypoint", "python", "pretrain", "-c", listing]
    listed = subprocess.run(
        compose(simulation.folder, *volume), check=True, capture_output=True, text=True
    )
    models = [name for name in listed.stdout.split() if name.endswith(".pt")]
    assert [name.partition("-batch")[0] for name in models] == ["mocov2-epochs1", "mocov2-epochs2"]
    refused = run_step(simulation, "data", SYNTHETIC_IMAGES=25)
    assert refused.returncode == 2, refused.stderr
    assert "SYNTHETIC_IMAGES is 25, but the films in HOSPITALS_DIR were made" in refused.stderr
    elsewhere = simulation.folder / "other"
    shutil.copytree(simulation.folder / "federation/hospitals/hospital-00", elsewhere)
    refused = run_step(simulation, "pretrain", PRETRAIN_DIR="./other")
    assert refused.returncode == 2, refused.stderr
    assert "was begun with other films" in refused.stderr


def test_a_run_starts_from_a_checkpoint_and_without_its_server_all_end(
    simulation: Simulation,
) -> None:
    changes = {"RUN": "second", "INIT": "/init/first/final.pt", "ROUNDS": "1000"}
    with (simulation.folder / "second.log").open("wb") as log:
        up = subprocess.Popen(
            compose(simulation.folder, "up", "--no-build", "--no-color"),
            env={**os.environ, **changes, "CLIENT_PATIENCE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            run_folder = simulation.folder / "runs" / "second"
            wait_until((run_folder / "rounds.jsonl").exists, 300)
            containers = containers_of(docker.from_env(), PROJECT)
            containers["server"].kill()
            up.wait(300)
        finally:
            up.kill()
    for name in NAMES:
        containers[name].reload()
        assert containers[name].attrs["RestartCount"] == 2, name
        assert containers[name].attrs["State"]["ExitCode"] == 2, name
    newest = max((run_folder / "checkpoints").iterdir())
    _, provenance = read_checkpoint(newest, "densenet121", 0)
    assert provenance is not None
    assert provenance.start is not None
    assert (provenance.start.method, provenance.start.run) == (
        "fedavg",
        json.loads((simulation.run / "config.json").read_text())["run_id"],
    )
