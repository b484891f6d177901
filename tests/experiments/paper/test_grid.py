"""The grid on this machine: kill -9, resume, failures, the choice of rates."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from common.errors import BadInput
from common.options import Mode
from common.runtime.cli import parse
from common.runtime.files import append_json, sha256_of
from experiments.launch.processes import Process
from experiments.paper import plan
from experiments.paper.cells import FirstModel, Table
from experiments.paper.cli import ReportSettings
from experiments.paper.data import SPLITS
from experiments.paper.grid import MADE, Grid, chosen_rates, read_failed, read_trials, reason_of
from experiments.paper.plan import jobs_here
from experiments.paper.scales import SCALES, Rates, cells_of
from experiments.paper.worker import Task
from experiments.paper.workers import LocalWorkers
from server.rounds.checks import DIVERGED
from tests.support.shards import make_shard
from tests.support.trials import line
from tests.support.waiting import wait_until

CLI = "from experiments.paper.cli import main; main()"


def start(root: Path, *names: str) -> Process:
    arguments = ["run", *names, "--scale", "tiny", "--root", str(root / "root")]
    log = root / "log"
    return Process(CLI, [*arguments, "--results", str(root / "results")], {}, (log, log))


def report(root: Path) -> None:
    folders = ["--root", str(root / "root"), "--results", str(root / "results")]
    log = root / "log"
    process = Process(CLI, ["report", "--scale", "tiny", *folders], {}, (log, log))
    assert process.wait(120) == 0, log.read_text()


def test_a_grid_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    trials = tmp_path / "results" / "trials.jsonl"
    first = start(tmp_path, "table2")
    wait_until(lambda: trials.exists() and len(trials.read_text().splitlines()) >= 2, 120)
    os.kill(first.pid, signal.SIGSTOP)  # so that it starts no further worker
    processes = descendants(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 30)
    kept = trials.read_text()
    again = start(tmp_path, "table2", "figure6")
    assert again.wait(300) == 0, (tmp_path / "log").read_text()
    assert trials.read_text().startswith(kept)
    lines = read_trials(tmp_path / "results")
    cells = [line.cell for line in lines]
    assert len(set(cells)) == len(cells), "no trial is run twice"
    assert set(cells) == set(
        cells_of(SCALES["tiny"], "table2", chosen_rates(SCALES["tiny"], lines))
    )
    starts = {line.cell.first_model: line.first_model_sha256 for line in lines}
    assert starts["random"] is None
    assert starts["rotation"] == sha256_of(tmp_path / "root" / "models" / "rotation.pt")
    assert (tmp_path / "results" / "pretraining" / "rotation.jsonl").exists()
    before = trials.read_text()
    assert start(tmp_path, "table2").wait(60) == 0
    assert trials.read_text() == before
    report(tmp_path)
    page = (tmp_path / "results" / "report.html").read_text()
    assert "Random, BatchNorm of films" in page
    assert "MoCo-v2 is above ImageNet" in page
    assert "| Rotation |" in (tmp_path / "results" / "report.md").read_text()
    rate = {line.cell.lr for line in lines if line.cell.first_model == "rotation"}.pop()
    others = [line for line in lines if (line.cell.first_model, line.cell.lr) != ("rotation", rate)]
    trials.write_text("".join(line.model_dump_json() + "\n" for line in others))
    report(tmp_path)
    text = (tmp_path / "results" / "report.md").read_text()
    assert "| Rotation | not run" in text, "not all its rates were tried"
    assert "not all learning rates of its first model are tried yet" in text


def test_fewer_labels_and_bounds_from_trials_to_the_report(tmp_path: Path) -> None:
    """With 1 % of the labels a hospital of this scale has one film, and that trial fails."""
    assert start(tmp_path, "table3", "bounds", "--first-models", "random").wait(300) == 1
    assert "1 tasks failed: spread-finetune-random-f0.01" in (tmp_path / "log").read_text()
    report(tmp_path)
    text = (tmp_path / "results" / "report.md").read_text()
    rows = [line.split("|")[1:] for line in text.splitlines() if line.startswith("|")]
    fewer = next(row for row in rows if [cell.strip() for cell in row[1:3]] == ["100%", "50%"])
    assert [cell.strip() for cell in fewer[3:]] == ["25%", "10%", "5%", ""]
    assert "a batch would be a single image" in text
    names = [row[0].strip() for row in rows]
    alone = [f"Hospital {i} alone" for i in range(3)]
    assert [name for name in names if name in ("Federation", "Union of all films", *alone)] == [
        "Federation",
        "Union of all films",
        *alone,
    ]


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, file.read_text().split())
    return children + [found for child in children for found in descendants(child)]


@pytest.mark.long
def test_a_grid_over_grpc_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    options = ("--real", "--jobs", "1", "--first-models", "random")
    grid = start(tmp_path, "table1", *options)
    work = tmp_path / "root" / "work"
    wait_until(lambda: any(work.glob("*/config.json")), 120)
    # The grid, two servers of forks, the worker, the federation's server and three clients.
    wait_until(lambda: len(descendants(grid.pid)) >= 7, 30)
    processes = descendants(grid.pid)
    os.kill(grid.pid, signal.SIGKILL)
    grid.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 30)
    assert start(tmp_path, "table1", *options).wait(120) == 0, (tmp_path / "log").read_text()
    (line,) = read_trials(tmp_path / "results")
    assert line.hospitals_lost == []


def test_a_broken_first_model_costs_its_own_trials_alone(tmp_path: Path) -> None:
    models = tmp_path / "root" / "models"
    models.mkdir(parents=True)
    (models / "rotation.pt").write_bytes(b"noise")
    assert start(tmp_path, "table1").wait(300) == 1
    lines = read_trials(tmp_path / "results")
    assert {line.cell.first_model for line in lines} == {"random"}
    text = (tmp_path / "log").read_text()
    assert "1 tasks failed" in text
    assert "rotation.pt: cut, damaged or no checkpoint" in text.splitlines()[-1]


def test_a_task_that_was_killed_is_not_said_to_have_failed_by_its_last_words(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_text("round 3 of 10\nsomething is wrong\n\n")
    assert reason_of(1, log) == "something is wrong"
    assert reason_of(-9, log) == "killed by SIGKILL, perhaps for want of memory: lower --jobs"
    assert reason_of(-15, log) == "killed by SIGTERM"
    log.write_text("")
    assert reason_of(2, log) == "exit code 2"


def test_a_rate_is_chosen_once_all_are_tried_on_the_first_seed() -> None:
    scale = SCALES["tiny"]
    slow, fast = cells_of(scale, "table2", {})[:2]
    lines = [line(slow, 0.6, test=0.9), line(fast, 0.7, test=0.1)]
    assert chosen_rates(scale, lines[:1]) == {}
    assert chosen_rates(scale, lines) == {("finetune", "random"): 0.1}
    later = line(slow.model_copy(update={"seed": 1}), 0.9, test=0.9)
    assert chosen_rates(scale, [*lines, later]) == {("finetune", "random"): 0.1}


def test_a_rate_at_which_training_fails_is_passed_over() -> None:
    scale = SCALES["tiny"]
    slow, fast = cells_of(scale, "table2", {})[:2]
    assert chosen_rates(scale, [line(slow, 0.6, test=0.9)], [fast.name]) == {
        ("finetune", "random"): 0.05
    }
    assert chosen_rates(scale, [], [slow.name, fast.name]) == {}


class Failing:
    """Workers whose tasks fail once they are looked at, with a reason."""

    jobs, threads = 4, 1

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.now = self.most = 0

    def start(self, _task: Task, log: Path) -> "Failing":
        self.now += 1
        self.most = max(self.most, self.now)
        log.write_text(self.reason)
        return self

    def poll(self) -> int:
        self.now -= 1
        return 2

    def terminate(self) -> None:
        """It has ended."""

    wait = terminate


@pytest.mark.parametrize(
    ("reason", "further"),
    [
        (f"round 1: {DIVERGED} 0.1 at 3 of 3 hospitals", {(1, 0.05)}),
        ("round 1: fewer than 3 good replies in 3 attempts", {(1, 0.05)}),  # it diverges at one
        ("round 1: --strategy fedavg made a model that cannot be used: nan", {(1, 0.05)}),
        ("the disk is full", set()),
    ],
)
def test_a_grid_goes_on_without_a_rate_at_which_training_diverges(
    tmp_path: Path, reason: str, further: set[tuple[int, float]]
) -> None:
    """A trial that failed otherwise may come to more at its rate: the choice waits for it."""
    grid = Grid(SCALES["smoke"], ["table2"], tmp_path, tmp_path, Failing(reason), ["random"])
    slow, fast = grid.cells([])
    append_json(tmp_path / "trials.jsonl", line(slow, 0.6, test=0.6).model_dump(mode="json"))
    for _ in range(2):
        grid.run()
    (found,) = [each for each in read_failed(tmp_path) if each.cell == fast]
    assert found.reason == reason
    cells = grid.cells(read_trials(tmp_path))
    assert {(cell.seed, cell.lr) for cell in cells} == {(0, 0.05), (0, 0.1)} | further


@pytest.mark.parametrize(
    ("reason", "failed"),
    [("--init imagenet: https://... cannot be downloaded", False), ("the training diverged", True)],
)
def test_only_weights_that_are_not_here_excuse_imagenet(
    tmp_path: Path, reason: str, failed: bool
) -> None:
    grid = Grid(SCALES["smoke"], ["table2"], tmp_path, tmp_path, Failing(reason), ["imagenet"])
    grid.run()
    assert bool(grid.failed) == failed


@pytest.mark.parametrize(("gpu", "at_once"), [(False, 4), (True, 1)])
def test_a_gpu_holds_one_pretraining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, at_once: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    workers = Failing("too little memory")
    Grid(SCALES["small"], ["table2"], tmp_path, tmp_path, workers, MADE).run()
    assert workers.most == at_once


def test_each_scale_has_a_folder_of_its_own(tmp_path: Path) -> None:
    small = parse(ReportSettings, ["--scale", "small"])
    assert small.root_folder == Path("runs/paper/small")
    assert small.results_folder == Path("runs/paper/small/results")
    given = parse(ReportSettings, ["--root", "a", "--results", "b"])
    assert (given.root_folder, given.results_folder) == (Path("a"), Path("b"))
    films = make_shard(tmp_path / "root" / "data" / "test", images=4, size=80)
    assert films.manifest.size != SCALES["tiny"].image_size
    for split in (*SPLITS, "public", "union"):
        (tmp_path / "root" / "data" / split).mkdir()
    assert start(tmp_path, "table1").wait(60) == 2
    assert "give each scale a --root of its own" in (tmp_path / "log").read_text()


def test_cells_are_named_by_all_that_decides_them() -> None:
    scale = SCALES["small"]
    chosen: dict[tuple[Mode, FirstModel], float] = {
        (mode, model): 0.05 for mode in scale.lrs for model in scale.table2
    }
    tables: tuple[Table, ...] = ("table1", "table2", "table3", "bounds")
    cells = {cell for table in tables for cell in cells_of(scale, table, chosen)}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text('{"cell": 1}\n')
    with pytest.raises(BadInput, match=r"trials\.jsonl, line 1: .*restore it"):
        read_trials(tmp_path)
    grid = Grid(SCALES["tiny"], ["table1"], tmp_path / "root", tmp_path, LocalWorkers(1, 1))
    with pytest.raises(BadInput, match="line 1"):
        grid.run()
    (tmp_path / "trials.jsonl").unlink()
    (tmp_path / "failed.jsonl").write_text('{"cell": {"sc')  # cut off by a kill
    Grid(SCALES["tiny"], ["table1"], tmp_path / "root", tmp_path, LocalWorkers(1, 1))
    assert read_failed(tmp_path) == []


@pytest.mark.parametrize(
    ("cores", "free", "gpu", "jobs"),
    [(4, 100, None, 4), (4, 6, None, 2), (2, 0.1, None, 1), (4, 100, 6, 3), (4, 6, 80, 2)],
)
def test_no_more_trials_run_at_once_than_memory_holds(
    monkeypatch: pytest.MonkeyPatch, cores: int, free: float, gpu: float | None, jobs: int
) -> None:
    if gpu is not None:
        memory_of_it = int(gpu * 1e9)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (memory_of_it, memory_of_it))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(plan, "free_memory", lambda: int(free * 1e9))
    assert jobs_here(SCALES["small"]) == jobs


def test_fewer_seeds_are_the_first_ones() -> None:
    scale = SCALES["small"]
    rates: Rates = {("finetune", "random"): 0.05, ("finetune", "simclr"): 0.02}
    found = {count: cells_of(scale.first_seeds(count), "table2", rates) for count in (0, 1, 2, 9)}
    assert found[0] == found[9] == cells_of(scale, "table2", rates)
    for count in (1, 2):
        assert found[count] == [cell for cell in found[0] if cell.seed < count]
