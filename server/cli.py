"""``flower-server``: runs the rounds of a federation."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from common.errors import FedCXRError, first_problem
from common.message import Printable
from common.net import Address
from common.options import HeadChoice, Training
from common.runtime.cli import leave, parse, run_command, version_line
from common.runtime.guard import Guard
from common.runtime.memory import keep_one_arena
from common.track.options import TRACK_HELP, Track, check_usable
from server.options import ServingSettings
from server.rounds.participation import Participation, check_participation
from server.rounds.plan import quorum_of
from server.rounds.schedule import ScheduleSettings
from server.run.config import Changing
from server.run.options import RunOptions
from server.secure.options import SecureOptions, check_secure
from server.strategies.settings import StrategySettings, check_combination

if TYPE_CHECKING:
    from common.protocol import RunResult
    from server.metrics.port import MetricsPort
    from server.rounds.plan import Plan
    from server.run.folder import RunFolder
    from server.run.records import RunStatus

log = logging.getLogger(__name__)

RunName = Annotated[Printable, Field(min_length=1, max_length=80)]


class ServerSettings(ServingSettings, RunOptions):
    """Ask hospitals to train, average what they return, keep every round."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_SERVER_", cli_prog_name="flower-server")

    init: str = Field(description="the first model: random, imagenet or a checkpoint")
    head: HeadChoice | None = Field(
        None,
        description="keep or replace the head of a checkpoint; default: keep it if its findings "
        "are known to be these, and stop if 14 of them may be others",
    )
    run: Path = Field(description="new folder for config, rounds, models and status")
    name: RunName | None = Field(
        None, description="the run's, for people: in the log and on the report"
    )
    rounds: int = Field(50, ge=1, description="how many rounds")
    early_stop: int = Field(
        0,
        ge=0,
        description="end the run after so many rounds in a row whose models did not gain; 0: never",
    )
    min_gain: float = Field(
        0.001,
        gt=0,
        le=1,
        description="for --early-stop: least gain over the best validation AUC before",
    )
    canary: bool = Field(
        False,
        description="before the first round, let each hospital train on a few batches; end with "
        "exit code 3 if fewer than the quorum are fine",
    )
    norm_limit: float = Field(
        0,
        ge=0,
        description="reject updates that move this many times as fast as is usual; 0: warn of "
        "those that move 10 times as fast, and reject none",
    )
    seed: int = Field(0, ge=0, description="decides every random draw of the run")
    metrics: Address | None = Field(
        None,
        description="HOST:PORT of a port of its own for Prometheus and flower-watch; whoever "
        "reaches it sees each hospital's numbers",
    )
    share_model: bool | None = Field(
        None,
        description="give the hospitals the final and the best model at the end, and tell each how "
        "it compares with the mean of three or more; default: with --tls",
    )
    resume: bool = Field(
        False,
        description="go on with the run in --run after its last round; begin if there is none",
    )
    change: dict[Changing, float] = Field(
        {},
        description="with --resume: lr=0.001 and the like, for the rounds that are left; recorded "
        "in the run",
    )
    track: Track = Field([], description=TRACK_HELP)

    @field_validator("strategy_args")
    @classmethod
    def _read_values(cls, values: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Read what is JSON, such as a number; all else is text."""
        return {name: _read(value) for name, value in values.items()}

    @property
    def training(self) -> Training:
        """What the hospitals train, and how."""
        return Training.model_validate(self.model_dump(include=set(Training.model_fields)))

    @property
    def combining(self) -> StrategySettings:
        """What the server does with updates."""
        return StrategySettings.model_validate(
            self.model_dump(include=set(StrategySettings.model_fields))
        )

    @property
    def secure(self) -> SecureOptions:
        """How updates are hidden."""
        return SecureOptions.model_validate(
            self.model_dump(include=set(SecureOptions.model_fields))
        )

    @property
    def participation(self) -> Participation:
        """Who is in a round."""
        return Participation.model_validate(
            self.model_dump(include=set(Participation.model_fields))
        )

    @property
    def rates(self) -> ScheduleSettings:
        """How the hospitals' learning rate goes."""
        return ScheduleSettings.model_validate(
            self.model_dump(include=set(ScheduleSettings.model_fields))
        )

    @property
    def shares_model(self) -> bool:
        """Whether hospitals are given the model; default: those on a list are."""
        return self.tls is not None if self.share_model is None else self.share_model

    @model_validator(mode="after")
    def _changes_fit(self) -> "ServerSettings":
        if self.change and not self.resume:
            raise ValueError("--change is for --resume: give the option itself to a new run")
        try:
            Training.model_validate({**self.training.model_dump(), **self.change})
        except ValidationError as error:
            raise ValueError(f"--change: {first_problem(error)}") from None
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "ServerSettings":
        check_combination(self.combining, self.training)
        needed = quorum_of(self.quorum, self.min_clients, self.fraction)
        check_participation(
            self.participation, self.combining, self.training, self.min_clients, needed
        )
        check_secure(
            self.secure,
            self.combining,
            self.training,
            self.participation,
            needed,
            self.norm_limit,
            self.canary,
        )
        if self.dp == "site" and self.norm_limit:
            raise ValueError(
                "--norm-limit does not fit --dp site: who is in the mean would depend on all "
                "updates without noise, and each is shortened to --dp-clip already; leave it out"
            )
        self.rates.check_rounds(self.rounds)
        if not self.training.one_model and self.ema:
            raise ValueError(
                f"--ema averages one model, and with --shared {self.shared} each hospital has its "
                "own; leave --ema out"
            )
        if not self.training.one_model and self.test is not None:
            raise ValueError(
                f"--test scores one model, and with --shared {self.shared} each hospital has its "
                "own; leave --test out: the hospitals' validation scores theirs"
            )
        return self


def _read(value: JsonValue) -> JsonValue:
    try:
        return cast(JsonValue, json.loads(value)) if isinstance(value, str) else value
    except ValueError:
        return value


def _serve(arguments: Sequence[str]) -> None:
    settings = parse(ServerSettings, arguments)
    check_usable(settings.track)
    guard = Guard()

    from common.protocol import Greeting
    from common.runtime.logs import log_to_file, log_to_stderr
    from server.members.admission import Admission
    from server.members.roster import Roster
    from server.metrics.port import MetricsPort
    from server.run.events import AuditEvent
    from server.run.records import RunStatus, read_run_status
    from server.run.start import start_run
    from server.run.tracking import tracking
    from server.serving import RESTART_SECONDS, certificates, terminal_status, tester_of
    from server.transport.port import check_free
    from server.transport.service import listening

    log_to_stderr(settings.debug, settings.log_format)
    keep_one_arena()
    tls, sites = certificates(settings)
    port = MetricsPort(settings.metrics) if settings.metrics is not None else None
    check_free(settings.listen)
    tester, size = tester_of(settings, settings.mode)
    start = start_run(settings, size)
    folder, plan = start.folder, start.plan
    greeting = Greeting(
        run=plan.run,
        version=version("fedcxr"),
        seed=plan.seed,
        training=plan.training,
        secure=settings.secure_aggregation,
    )
    admission = Admission(greeting, size, folder, sites, settings.max_examples)
    roster = Roster(admission, folder)
    if folder.is_finished(plan.rounds):
        status = read_run_status(folder.path)
        done = len(folder.rounds())
        why = f": {status.reason}; --early-stop 0 and other --rounds go on" if status.reason else ""
        log.info("all %d rounds of this run are done already%s", done, why)
        over, results = f"{done} rounds are done", _results(plan, folder, status)
        roster.say_farewell(over, results=results)  # before it listens, or one could still join
        with (
            tracking(settings.track, plan, folder) as told,
            listening(roster, settings.listen, tls),
            _telling(port, folder),
        ):
            told.finish(status)
            roster.say_farewell(over, folder.hospitals(), RESTART_SECONDS, results)
        return
    rounds = start.rounds(roster, tester)
    guard.last_words = lambda stopped: folder.status.end(
        RunStatus(state="stopped", reason=str(stopped), rounds=plan.rounds)
    )
    with terminal_status(folder, plan.rounds):
        done = len(folder.rounds())
        folder.status.write(RunStatus(state="running", round=done, rounds=plan.rounds))
        log_to_file(folder.path / "server.log")
        called = f"{plan.run} ({name})" if (name := folder.config.get("name")) else plan.run
        log.info("%s: run %s in %s", version_line("flower-server"), called, folder.path)
        began: Literal["started", "resumed"] = "resumed" if start.resumed else "started"
        folder.log.record(AuditEvent(event=began, details={"run": plan.run}))
        with (
            tracking(settings.track, plan, folder) as told,
            listening(roster, settings.listen, tls),
            _telling(port, folder),
        ):
            result = rounds.run()
            ended = RunStatus(state="finished", **dict(result))
            folder.status.end(ended)
            folder.log.record(AuditEvent(event="finished", details={"rounds": result.round}))
            told.finish(ended)
            _write_report(folder.path)
            over = f"{result.round} rounds are done"
            roster.say_farewell(over, rounds.expected, results=_results(plan, folder, ended))


@contextmanager
def _telling(port: "MetricsPort | None", folder: "RunFolder") -> Iterator[None]:
    """Tell how the run stands for the length of the block, if there is a port for it."""
    from server.metrics.families import RunCollector
    from server.run.snapshot import snapshot_of

    if port is None:
        yield
        return

    def run() -> str:
        return snapshot_of(folder.path, folder.live.current()).model_dump_json()

    with port.serving(RunCollector(folder), run):
        yield


def _results(
    plan: "Plan", folder: "RunFolder", ended: "RunStatus"
) -> "Callable[[str], RunResult | None]":
    """Return what a hospital is told of a run that is done, by its name."""
    from server.rounds.sharing import result_for

    def result(name: str) -> "RunResult | None":
        return result_for(name, folder.rounds(), ended) if plan.share_model else None

    return result


def _write_report(run: Path) -> None:
    """Write the page on a run that is done; the run has not failed if that cannot be done."""
    from server.report.cli import write_report

    try:
        write_report([run], run / "report.html")
    except Exception as error:  # noqa: BLE001 - the run is done, whatever the page is about
        reason = error if isinstance(error, FedCXRError) else type(error).__name__
        log.warning("no report: %s", reason)


def main() -> None:
    """Run ``flower-server`` and exit with its code."""
    leave(run_command("flower-server", _serve))
