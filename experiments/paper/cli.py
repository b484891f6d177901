"""``flower-experiments``: the paper's tables and figure, from data to a report."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput, FedCXRError
from common.runtime.cli import Command, Settings, choose_command, parse, run_command
from experiments.paper.cells import FirstModel, ScaleName, Table

if TYPE_CHECKING:
    from experiments.paper.workers import Workers

PREFIX = "FLOWER_EXPERIMENTS_"
Name = Literal["table1", "table2", "table3", "figure6", "bounds", "strategies", "wires"]
SMOKE_IMAGES = 60


class ScaleSettings(Settings):
    """What all commands take."""

    scale: ScaleName = Field("smoke", description="sizes, rates and rounds")


class TrialsSettings(ScaleSettings):
    """What the commands take that are about trials which are not done."""

    jobs: int = Field(
        0, ge=0, description="trials at once; 0: one for each core, as far as memory allows"
    )
    seeds: int = Field(0, ge=0, description="the first so many seeds alone; 0: all of the scale")


class FolderSettings(ScaleSettings):
    """What the commands take that are about results."""

    root: Path | None = Field(
        None,
        description="folder for data, first models and unfinished runs; default: runs/paper/SCALE",
    )
    results: Path | None = Field(None, description="folder for the results; default: ROOT/results")
    metadata: Path | None = Field(None, description="ChestX-ray14's Data_Entry_2017*.csv")

    @property
    def root_folder(self) -> Path:
        """``--root`` or its default, a folder for each scale."""
        return self.root or Path("runs/paper", self.scale)

    @property
    def results_folder(self) -> Path:
        """``--results`` or its default."""
        return self.results or self.root_folder / "results"


class RunSettings(TrialsSettings, FolderSettings):
    """Run the trials of some tables, and go on where they stand."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-experiments run")

    names: CliPositionalArg[list[Name]] = Field(
        description="table1, table2, table3, figure6, bounds, strategies, wires"
    )
    images: Path | None = Field(None, description="ChestX-ray14's images")
    train_list: Path | None = Field(None, description="its train_val_list.txt")
    test_list: Path | None = Field(None, description="its test_list.txt")
    chexpert: Path | None = Field(
        None,
        description="CheXpert-v1.0 or -small: its frontal films are public, and hospitals share "
        "all training patients of ChestX-ray14; default: half of these are public",
    )
    first_models: list[FirstModel] = Field(
        [], description="run the trials of these first models only; default: of all"
    )
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of each trial; 0: the cores divided by --jobs, with --ray 1",
    )
    real: bool = Field(
        False, description="run trials over gRPC, with processes; the results are the same"
    )
    ray: str | None = Field(
        None,
        description="run on a Ray cluster, HOST:PORT or auto; --jobs 0: as many trials at once as "
        "it has CPUs for",
    )
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of a GPU, with --ray; default: all of the cluster's in equal shares",
    )

    @model_validator(mode="after")
    def _options_that_go_together(self) -> Self:
        given = (self.images, self.metadata, self.train_list, self.test_list)
        if (self.scale in ("tiny", "smoke")) == (None not in given):
            raise ValueError(
                "give --images, --metadata, --train-list and --test-list for the scales small and "
                "full, and for no other"
            )
        if self.chexpert is not None and self.images is None:
            raise ValueError("--chexpert goes with ChestX-ray14's --images")
        if self.gpus_per_trial is not None and self.ray is None:
            raise ValueError("--gpus-per-trial is of use with --ray only")
        return self


def _run(arguments: Sequence[str]) -> None:
    settings = parse(RunSettings, arguments)

    from common.runtime.logs import log_to_stderr
    from common.shard import open_shard
    from experiments.paper.data import Sources, make_data, make_synthetic
    from experiments.paper.grid import Grid
    from experiments.paper.scales import SCALES

    log_to_stderr(settings.debug)
    workers = _workers(settings)
    scale = SCALES[settings.scale].first_seeds(settings.seeds)
    data = settings.root_folder / "data"
    if settings.images is None:
        make_synthetic(scale, SMOKE_IMAGES, data)
    elif settings.images and settings.metadata and settings.train_list and settings.test_list:
        make_data(
            scale,
            Sources(
                settings.images,
                settings.metadata,
                settings.train_list,
                settings.test_list,
                settings.chexpert,
            ),
            data,
        )
    if (size := open_shard(data / "test").manifest.size) != scale.image_size:
        raise BadInput(
            f"{data}: its films are of {size} pixels, those of --scale {scale.name} of "
            f"{scale.image_size}; give each scale a --root of its own"
        )
    grid = Grid(
        scale,
        tables_of(settings.names),
        settings.root_folder,
        settings.results_folder,
        workers,
        settings.first_models,
        settings.real,
    )
    grid.run()
    if grid.failed:
        names = "; ".join(f"{name}: {reason}" for name, reason in grid.failed.items())
        raise FedCXRError(f"{len(grid.failed)} tasks failed: {names}")


def _workers(settings: RunSettings) -> "Workers":
    """Return what starts the grid's tasks.

    Raises:
        BadInput: Ray is not installed, or its cluster cannot be used.
    """
    if settings.ray is None:
        from experiments.paper.plan import cores, jobs_here
        from experiments.paper.scales import SCALES
        from experiments.paper.workers import LocalWorkers

        jobs = settings.jobs or jobs_here(SCALES[settings.scale], settings.threads)
        return LocalWorkers(jobs, settings.threads or max(1, cores() // jobs))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # both are read when Ray is imported
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # five tries to connect take minutes
    try:
        from experiments.paper.ray_workers import RayWorkers
    except ModuleNotFoundError:
        raise BadInput("--ray: Ray is not installed; pip install 'fedcxr[ray]'") from None
    threads = settings.threads or 1
    return RayWorkers(settings.ray, settings.jobs, threads, settings.gpus_per_trial)


def tables_of(names: Sequence[Name]) -> list[Table]:
    """Return the tables whose trials the names need; figure 6 is read off those of table 2."""
    tables: list[Table] = ["table2" if name == "figure6" else name for name in names]
    return list(dict.fromkeys(tables))


class PlanSettings(TrialsSettings):
    """Print the trials of a scale, and the hours and gigabytes that they take on this machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-experiments plan")

    public: int = Field(191_027, ge=1, description="public films")
    films: int = Field(86_524, ge=1, description="films of all hospitals")
    test: int = Field(25_596, ge=1, description="test films")


def _plan(arguments: Sequence[str]) -> None:
    settings = parse(PlanSettings, arguments)

    from experiments.paper.plan import Films, jobs_here, measure, rows
    from experiments.paper.scales import SCALES

    scale = SCALES[settings.scale].first_seeds(settings.seeds)
    print(f"{scale.name}: {scale.reasons}\nEndpoint: {scale.endpoint}\n")
    films = Films(settings.public, settings.films, settings.test)
    for row in rows(scale, films, measure(scale), settings.jobs or jobs_here(scale)):
        print(row)


class ReportSettings(FolderSettings):
    """Write the report on the trials that are done: tables, figures, a verdict for each claim."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-experiments report")

    out: Path | None = Field(None, description="folder for the report; default: --results")


def _report(arguments: Sequence[str]) -> None:
    settings = parse(ReportSettings, arguments)

    from experiments.paper.assemble import report_input
    from experiments.paper.report import write_report
    from experiments.paper.scales import SCALES

    root, results = settings.root_folder, settings.results_folder
    out = settings.out or results
    write_report(report_input(SCALES[settings.scale], results, root, settings.metadata), out)
    print(f"{out / 'report.html'}: the report; report.md beside it")


COMMANDS = {
    "plan": Command("print the trials, and the hours and gigabytes that they take", _plan),
    "run": Command("run the trials of some tables", _run),
    "report": Command("write the report on the trials that are done", _report),
}


def command(arguments: Sequence[str]) -> None:
    """Run one of the commands.

    Raises:
        BadInput: There is no such command, or an option or a file cannot be used.
    """
    choose_command("flower-experiments", "Reruns the paper's experiments.", COMMANDS, arguments)


def main() -> None:
    """Run ``flower-experiments`` and exit with its code."""
    sys.exit(run_command("flower-experiments", command))


if __name__ == "__main__":
    main()
