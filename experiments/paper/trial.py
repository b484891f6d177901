"""One trial: a federation, by the server's own rounds, to one line of results."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from common.bootstrap import LEAST_POSITIVES
from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.evaluation import predict
from common.findings import count_by_finding
from common.metrics import auc_by_finding
from common.model import build_model, choose_device, fastest_precision, load_state
from common.runtime.cpu import cpu_model
from common.runtime.files import append_json, sha256_of, write_json, write_whole
from common.runtime.status import read_status
from common.scores import AucByFinding, mean_auc
from common.shard import Shard, open_shard
from experiments.paper.cells import Cell, Entry, Environment, RoundLine, TrialLine
from experiments.paper.federation import run_in_process, run_over_grpc, states_of
from experiments.paper.methods import options_of
from experiments.paper.scales import SCALES, Scale
from experiments.paper.starts import data_sha256
from server.cli import ServerSettings
from server.run.events import InitialModel, Unusual, read_events
from server.run.left_out import left_out
from server.run.records import RoundRecord, RunStatus, read_rounds

UNKNOWN = "unknown"
"""Commit, where there is no git, or a trial began before it was noted."""

LINE = "line.json"
"""In the run's folder of a trial that is done, until :func:`keep_line`."""


def run_trial(
    cell: Cell, init: str, data: Path, results: Path, work: Path, *, real: bool = False
) -> TrialLine:
    """Run a trial, or go on with it; write its scores, and its line in the run's folder.

    Args:
        cell: What to run.
        init: The first model, as ``--init`` takes it.
        data: The shards; see :mod:`experiments.paper.data`.
        results: Gets ``scores/``.
        work: Has the run's folder.
        real: Over gRPC, with a process for the server and for each hospital.

    Raises:
        BadInput: A file cannot be used.
        FedCXRError: A process failed.
    """
    first_model = sha256_of(Path(init)) if Path(init).is_file() else None
    scale = SCALES[cell.scale]
    run = work / cell.name
    settings = _settings(cell, scale, init, data, run)
    test = open_shard(data / "test")
    begun = _begin(run, data_sha256(data, cell.split))
    (run_over_grpc if real else run_in_process)(settings, shards_of(cell, data))
    logits = _final_logits(run, scale, test)
    line = _line(cell, run, test, begun.environments).model_copy(
        update={
            "first_model_sha256": first_model,
            "data_sha256": begun.data_sha256,
            "test_auc_by_finding": auc_by_finding(test.labelled(), logits),
        }
    )
    scores = results / "scores" / f"{cell.name}.npy"
    scores.parent.mkdir(parents=True, exist_ok=True)
    write_whole(scores, lambda file: np.save(file, logits.astype(np.float16)))
    write_json(run / LINE, line.model_dump(mode="json"))
    return line


def keep_line(cell: Cell, results: Path, work: Path) -> None:
    """Append the line of a trial that is done to ``trials.jsonl``, and remove the run's folders.

    By the grid's process alone: appending from several machines is not safe on all file systems.
    """
    run = work / cell.name
    append_json(results / "trials.jsonl", json.loads((run / LINE).read_text()))
    shutil.rmtree(run)
    shutil.rmtree(states_of(run), ignore_errors=True)
    begun_of(run).unlink(missing_ok=True)


class Begun(Entry):
    """What a trial that is not done began with, and where it has run so far."""

    data_sha256: str | None = Field(description="None: not noted then")
    environments: list[Environment]


def begun_of(run: Path) -> Path:
    """Return the file of :class:`Begun`, beside the run's folder."""
    return run.with_name(f"{run.name}.begun.json")


def _begin(run: Path, data: str) -> Begun:
    """Note where a trial begins or goes on, and with which films.

    Raises:
        BadInput: It goes on with others.
    """
    file, here = begun_of(run), environment()
    if not run.exists():
        begun = Begun(data_sha256=data, environments=[])
    elif file.exists():
        begun = Begun.model_validate_json(file.read_text())
    else:
        begun = Begun(data_sha256=None, environments=[here.model_copy(update={"commit": UNKNOWN})])
    if begun.data_sha256 not in (None, data):
        raise BadInput(f"{run}: began with other films; remove it and {file.name}")
    if here not in begun.environments:
        begun = begun.model_copy(update={"environments": [*begun.environments, here]})
    run.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, begun.model_dump(mode="json"))
    return begun


def shards_of(cell: Cell, data: Path) -> list[Path]:
    """Return the shards that train in a cell."""
    if cell.hospitals == "union":
        return [data / "union"]
    shards = sorted((data / cell.split).glob("hospital-*"))
    return shards if cell.hospitals == "all" else [shards[cell.hospitals]]


def endpoint(by_finding: AucByFinding, test: Shard) -> float | None:
    """Return the mean AUC over the findings with enough positive test films."""
    positives = count_by_finding(test.labelled() == 1)
    return mean_auc(
        {
            finding: auc
            for finding, auc in by_finding.items()
            if positives[finding] >= LEAST_POSITIVES
        }
    )


def _settings(cell: Cell, scale: Scale, init: str, data: Path, run: Path) -> ServerSettings:
    count = len(shards_of(cell, data))
    return ServerSettings(
        init=init,
        # Pretraining keeps the head of its own seed: this one follows from the trial's.
        head="replace" if Path(init).is_file() else None,
        run=run,
        resume=True,
        rounds=cell.rounds,
        min_clients=count,
        quorum=count if count > 1 else 1,
        mode=cell.mode,
        lr=cell.lr,
        batch_size=scale.batch_size,
        label_fraction=cell.label_fraction,
        seed=cell.seed,
        architecture=scale.architecture,
        test=data / "test",
        insecure=True,
        round_timeout=1e6,
        wire=cell.wire,
        **options_of(cell),
    )


def _line(cell: Cell, run: Path, test: Shard, environments: Sequence[Environment]) -> TrialLine:
    rounds, events = read_rounds(run), read_events(run, damaged_too=True)
    validation = read_status(run, RunStatus).validation
    first = next(event for event in events if isinstance(event, InitialModel))
    lines = [
        RoundLine(
            round=0,
            validation_auc=None,
            test_auc=endpoint(first.test.auc_by_finding, test),
            loss=None,
            bytes=0,
            seconds=0.0,
        )
    ]
    lines += [_round_line(record, test) for record in rounds]
    return TrialLine(
        cell=cell,
        rounds=lines,
        validation_auc=validation and validation.auc,
        test_auc_by_finding={},
        first_model_sha256=None,
        model_sha256=rounds[-1].model_sha256,
        hospitals_lost=sorted(left_out(rounds, events)),
        hospitals_unusual=sorted({e.site for e in events if isinstance(e, Unusual)}),
        seconds=sum(at.seconds for at in lines),
        environment=environments[0],
        went_on_in=list(environments[1:]),
    )


def _round_line(record: RoundRecord, test: Shard) -> RoundLine:
    assert record.test is not None  # noqa: S101 - the run has a test shard
    sizes = [hospital.bytes for hospital in record.hospitals.values()]
    return RoundLine(
        round=record.round,
        validation_auc=record.auc,
        test_auc=endpoint(record.test.auc_by_finding, test),
        loss=record.loss,
        bytes=sum(size.received + size.sent for size in sizes),
        seconds=record.seconds.total,
    )


def _final_logits(run: Path, scale: Scale, test: Shard) -> npt.NDArray[np.float32]:
    state, _ = read_checkpoint(run / "final.pt", scale.architecture, 0)
    device = choose_device("auto")
    model = build_model(scale.architecture).to(device)
    load_state(model, state)
    return predict(model, test, np.arange(len(test)), device).float().cpu().numpy()


def environment() -> Environment:
    """Return where and with what this process runs."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - whatever git there is
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Environment(
        commit=commit.stdout.strip() or UNKNOWN,
        torch=torch.__version__,
        cpu=cpu_model(),
        gpu=gpu,
        precision=fastest_precision(choose_device("auto")),
        threads=torch.get_num_threads(),
    )
