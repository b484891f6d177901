"""The grid on a Ray cluster of two nodes on this machine."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.launch.processes import Process
from experiments.paper.cells import Cell
from experiments.paper.grid import read_trials
from tests.support.waiting import wait_until

CLI = "from experiments.paper.cli import main; main()"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes, with one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        reason = "Ray is not installed; pip install 'fedcxr[ray]'"
        utilities = pytest.importorskip("ray.cluster_utils", reason=reason)
        made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@pytest.fixture
def address(cluster: Any) -> str:
    return str(cluster.address)


def start(root: Path, results: str, *options: str) -> Process:
    log = root / f"{results}.log"
    folders = ["--root", str(root / "root"), "--results", str(root / results)]
    return Process(CLI, ["run", "table1", "--scale", "tiny", *folders, *options], {}, (log, log))


def run(root: Path, results: str, *options: str) -> None:
    assert start(root, results, *options).wait(200) == 0, (root / f"{results}.log").read_text()


def lines(results: Path) -> dict[Cell, dict[str, Any]]:
    """Return the trials' lines without seconds and environment."""
    found = {}
    for line in read_trials(results):
        content = json.loads(line.model_dump_json(exclude={"seconds", "environment"}))
        for entry in content["rounds"]:
            del entry["seconds"]
        found[line.cell] = content
    return found


@pytest.mark.slow
def test_ray_and_this_machine_give_the_same_lines(tmp_path: Path, address: str) -> None:
    run(tmp_path, "here", "--jobs", "2")
    run(tmp_path, "there", "--ray", address)
    assert lines(tmp_path / "here") == lines(tmp_path / "there") != {}
    for scores in (tmp_path / "here" / "scores").iterdir():
        other = tmp_path / "there" / "scores" / scores.name
        assert other.read_bytes() == scores.read_bytes()


@pytest.mark.slow
def test_a_grid_on_ray_goes_on_after_a_kill(tmp_path: Path, address: str) -> None:
    trials = tmp_path / "there" / "trials.jsonl"
    first = start(tmp_path, "there", "--ray", address)
    wait_until(lambda: trials.exists() and bool(trials.read_text()), 120)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = trials.read_text()
    time.sleep(5)  # until Ray has ended the tasks of a grid that is gone
    run(tmp_path, "there", "--ray", address)
    assert trials.read_text().startswith(kept)
    done = read_trials(tmp_path / "there")
    assert len({line.cell for line in done}) == len(done) > len(kept.splitlines())


@pytest.mark.slow
def test_a_task_that_no_machine_can_take_is_refused(tmp_path: Path, address: str) -> None:
    assert start(tmp_path, "there", "--ray", address, "--threads", "9").wait(100) == 2
    text = (tmp_path / "there.log").read_text()
    assert "no machine of the cluster has 9 CPUs and 0 GPUs; give less with --threads" in text


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, address: str) -> None:
    del address  # skips without Ray
    assert start(tmp_path, "there", "--ray", "nowhere").wait(100) == 2
    text = (tmp_path / "there.log").read_text()
    assert "--ray nowhere: no Ray cluster there; start one with 'ray start --head'" in text


@pytest.mark.slow
def test_the_tasks_of_a_machine_that_is_lost_are_done_by_another(
    tmp_path: Path, cluster: Any
) -> None:
    node = cluster.add_node(num_cpus=2)
    grid = start(tmp_path, "there", "--ray", cluster.address, "--threads", "2")
    log = tmp_path / "root" / "work" / "pretrain-rotation.log"
    wait_until(lambda: log.exists() and bool(log.read_text()), 120)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    assert grid.wait(200) == 0, (tmp_path / "there.log").read_text()
    assert len(read_trials(tmp_path / "there")) == 2


def test_without_ray_there_is_a_remedy(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['ray'] = None; " + CLI
    arguments = ["run", "table1", "--scale", "tiny", "--root", str(tmp_path), "--ray", "auto"]
    log = tmp_path / "log"
    assert Process(hidden, arguments, {}, (log, log)).wait(60) == 2
    assert log.read_text().splitlines()[-1] == (
        "flower-experiments: error: --ray: Ray is not installed; pip install 'fedcxr[ray]'"
    )
