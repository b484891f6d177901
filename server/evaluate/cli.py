"""``flower-evaluate``: scores given models at all hospitals, without training."""

import logging
import secrets
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput
from common.net import LONGEST_SECONDS
from common.runtime.cli import leave, parse, run_command, version_line
from common.runtime.files import remedy
from common.runtime.guard import Guard
from common.runtime.memory import keep_one_arena
from server.options import ServingSettings
from server.run.run_config import is_evaluation
from server.strategies.settings import StrategySettings

if TYPE_CHECKING:
    from server.evaluate.models import Model
    from server.rounds.plan import Plan
    from server.run.folder import RunFolder

log = logging.getLogger(__name__)


class EvaluateSettings(ServingSettings):
    """Let hospitals score models on the films that they keep for validation; nothing is trained."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_EVALUATE_", cli_prog_name="flower-evaluate"
    )

    models: CliPositionalArg[list[Path]] = Field(
        min_length=1,
        description="checkpoints, or folders of runs; differences are to the first one",
    )
    run: Path = Field(description="new folder for config, scores, events and status")
    out: Path | None = Field(None, description="file for the table, .csv or .json")
    min_clients: int = Field(10, ge=1, description="hospitals to wait for before the first model")
    round_timeout: float = Field(
        3600, gt=0, le=LONGEST_SECONDS, description="seconds that scoring a model may take"
    )
    head: Literal["keep"] | None = Field(
        None, description="keep: a file's 14 outputs are these findings, though it does not say so"
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="by which hospitals choose the films; default: that of the models' run, which "
        "has kept them from training",
    )
    resume: bool = Field(
        False, description="go on with the evaluation in --run; begin if there is none"
    )

    @field_validator("out")
    @classmethod
    def _a_format(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix not in (".csv", ".json"):
            raise ValueError("the name must end with .csv or .json")
        return out


def _evaluate(arguments: Sequence[str]) -> None:
    settings = parse(EvaluateSettings, arguments)
    guard = Guard()

    from common.protocol import Greeting
    from common.runtime.logs import log_to_file, log_to_stderr
    from server.evaluate.models import read_models, seed_for
    from server.evaluate.scoring import TRAINING, Scoring
    from server.members.admission import Admission
    from server.members.roster import Roster
    from server.rounds.plan import Plan
    from server.run.events import AuditEvent
    from server.run.records import RunStatus
    from server.serving import RESTART_SECONDS, certificates, terminal_status, tester_of
    from server.transport.port import check_free
    from server.transport.service import listening

    log_to_stderr(settings.debug, settings.log_format)
    keep_one_arena()
    tls, sites = certificates(settings)
    check_free(settings.listen)
    models = read_models(settings.models, settings.architecture, settings.head)
    seed = seed_for(models, settings.seed)
    tester, size = tester_of(settings, TRAINING.mode)
    folder, resumed = open_folder(settings, models, seed, size)
    plan = Plan(
        run=folder.config["run_id"],
        architecture=settings.architecture,
        training=TRAINING,
        rounds=len(models),
        min_clients=settings.min_clients,
        quorum=settings.quorum,
        attempts=settings.attempts,
        strategy=StrategySettings(),
        norm_limit=0,
        round_timeout=settings.round_timeout,
        seed=seed,
    )
    greeting = Greeting(run=plan.run, version=version("fedcxr"), seed=seed, training=TRAINING)
    roster = Roster(Admission(greeting, size, folder, sites, settings.max_examples), folder)
    scoring = Scoring(plan, roster, folder, models, tester)
    guard.last_words = lambda stopped: folder.status.end(
        RunStatus(state="stopped", reason=str(stopped), rounds=plan.rounds)
    )
    over = f"{plan.rounds} models are scored"
    if folder.is_finished(plan.rounds):
        log.info("all %d models are scored already", plan.rounds)
        _show(settings, plan, folder)
        roster.say_farewell(over)  # before it listens, or one could still join
        with listening(roster, settings.listen, tls):
            roster.say_farewell(over, scoring.asked, RESTART_SECONDS)
        return
    with terminal_status(folder, plan.rounds):
        folder.status.write(RunStatus(state="running", rounds=plan.rounds))
        log_to_file(folder.path / "server.log")
        log.info("%s: run %s in %s", version_line("flower-evaluate"), plan.run, folder.path)
        began: Literal["started", "resumed"] = "resumed" if resumed else "started"
        folder.log.record(AuditEvent(event=began, details={"run": plan.run}))
        with listening(roster, settings.listen, tls):
            scoring.run()
            ended = RunStatus(state="finished", round=plan.rounds, rounds=plan.rounds)
            folder.status.end(ended)
            folder.log.record(AuditEvent(event="finished", details={"rounds": plan.rounds}))
            try:
                _show(settings, plan, folder)
            finally:
                roster.say_farewell(over, scoring.asked)


def open_folder(
    settings: EvaluateSettings, models: "Sequence[Model]", seed: int, size: int
) -> "tuple[RunFolder, bool]":
    """Return the folder, and whether the evaluation in it goes on.

    Raises:
        BadInput: It has something else, or what it was started with differs.
    """
    from server.run.config import hashes_of
    from server.run.folder import RunFolder

    versions = {name: version(name) for name in ("fedcxr", "flwr", "numpy", "torch")}
    config = settings.model_dump(mode="json", exclude={"debug", "log_format"})
    config |= {"run_id": secrets.token_hex(6), "image_size": size, "seed": seed}
    config |= {"versions": versions, "test_sha256": hashes_of("", settings.test)["test_sha256"]}
    config |= {"models": [{"file": str(model.file), "sha256": model.sha256} for model in models]}
    if not settings.resume or RunFolder.is_new(settings.run):
        return RunFolder.create(settings.run, config), False
    if not is_evaluation(settings.run):
        raise BadInput(f"{settings.run}: has no evaluation; give another --run")
    folder = RunFolder.reopen(settings.run, config)
    old, new = ([each["sha256"] for each in of["models"]] for of in (folder.config, config))
    if old != new:
        files = ", ".join(each["file"] for each in folder.config["models"])
        raise BadInput(
            f"{settings.run}: was started with other models ({files}); give the same in the same "
            "order, or another --run"
        )
    return folder, True


def _show(settings: EvaluateSettings, plan: "Plan", folder: "RunFolder") -> None:
    """Print the table, and write it where it is wanted."""
    from server.evaluate.records import read_scored
    from server.evaluate.table import table_of, text_of, write_table

    table = table_of(folder.path, plan.run, plan.seed, read_scored(folder.path))
    for path in (folder.path / "table.json", settings.out):
        if path is None:
            continue
        try:
            write_table(path, table)
        except OSError as error:
            how = "give --out another file" if path == settings.out else remedy(error)
            raise BadInput(f"{path}: cannot be written: {error.strerror}; {how}") from None
    for line in text_of(table, shutil.get_terminal_size().columns):
        print(line)


def main() -> None:
    """Run ``flower-evaluate`` and exit with its code."""
    leave(run_command("flower-evaluate", _evaluate))
