"""``flower-server``: runs the rounds of a federation."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from common.errors import BadInput, FedCXRError, NoQuorum, first_problem
from common.net import LONGEST_SECONDS, Address
from common.options import Architecture, HeadChoice, StrategyName, Training
from common.runtime.cli import Settings, Stopped, leave, parse, run_command, version_line
from common.runtime.guard import Guard
from common.runtime.memory import keep_one_arena
from common.shard import SMALLEST
from server.run.config import Changing

if TYPE_CHECKING:
    from common.protocol import RunResult
    from server.rounds.plan import Plan
    from server.rounds.testing import Tester
    from server.run.folder import RunFolder
    from server.run.records import RunStatus

log = logging.getLogger(__name__)

PAPER_IMAGE_SIZE = 256

RESTART_SECONDS = 180.0
"""How long a server whose run is done already waits for the hospitals, which may all be starting on
one machine."""


class ServerSettings(Settings, Training):
    """Ask hospitals to train, average what they return, keep every round."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_SERVER_", cli_prog_name="flower-server")

    init: str = Field(description="the first model: random, imagenet or a checkpoint")
    head: HeadChoice | None = Field(
        None,
        description="keep or replace the head of a checkpoint; default: keep it if its findings "
        "are known to be these, and stop if 14 of them may be others",
    )
    run: Path = Field(description="new folder for config, rounds, models and status")
    rounds: int = Field(50, ge=1, description="how many rounds")
    min_clients: int = Field(10, ge=1, description="hospitals to wait for before the first round")
    quorum: float | None = Field(
        None,
        gt=0,
        description="good replies that a round needs to count: up to 1 a share of --min-clients, "
        "above it a number; default: 0.8, and from three hospitals on at most all but one",
    )
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
    attempts: int = Field(3, ge=1, description="how often a round without a quorum is tried")
    round_timeout: float = Field(
        3600, gt=0, le=LONGEST_SECONDS, description="seconds that a round may take"
    )
    strategy: StrategyName = Field(
        "fedavg",
        description="how replies are combined; all but fedavg withstand a few that are poisoned",
    )
    norm_limit: float = Field(
        0,
        ge=0,
        description="reject updates that move this many times as fast as is usual; 0: warn of "
        "those that move 10 times as fast, and reject none",
    )
    max_examples: int = Field(
        1_000_000,
        ge=1,
        le=2**24,
        description="turn away a hospital that announces more images; bounds its weight",
    )
    seed: int = Field(0, ge=0, description="decides every random draw of the run")
    architecture: Architecture = Field("densenet121", description="densenet-tiny is for tests")
    image_size: int | None = Field(
        None,
        ge=SMALLEST,
        description=f"pixels of the shards' images; default: those of --test, or "
        f"{PAPER_IMAGE_SIZE}",
    )
    test: Path | None = Field(None, description="labelled shard to score every new model on")
    listen: Address = Field("0.0.0.0:8080", description="HOST:PORT")
    tls: Path | None = Field(
        None,
        description="folder with ca.crt, server.crt, server.key and sites.json, made by "
        "flower-provision",
    )
    insecure: bool = Field(
        False, description="serve without encryption; any client may take part, by any name"
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
    device: str = Field("auto", description="for --test: auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores")

    @property
    def training(self) -> Training:
        """What the hospitals train, and how."""
        return Training.model_validate(self.model_dump(include=set(Training.model_fields)))

    @property
    def shares_model(self) -> bool:
        """Whether hospitals are given the model; default: those on a list are."""
        return self.tls is not None if self.share_model is None else self.share_model

    @model_validator(mode="after")
    def _one_way_to_serve(self) -> "ServerSettings":
        if (self.tls is None) != self.insecure:
            raise ValueError("give either --tls DIR or --insecure")
        if self.change and not self.resume:
            raise ValueError("--change is for --resume: give the option itself to a new run")
        try:
            Training.model_validate({**self.training.model_dump(), **self.change})
        except ValidationError as error:
            raise ValueError(f"--change: {first_problem(error)}") from None
        if (
            self.quorum is not None
            and self.quorum > 1
            and (self.quorum % 1 or self.quorum > self.min_clients)
        ):
            raise ValueError(
                f"--quorum {self.quorum:g} is neither a share up to 1 nor a whole number up to "
                f"--min-clients {self.min_clients}"
            )
        return self


def _serve(arguments: Sequence[str]) -> None:
    settings = parse(ServerSettings, arguments)
    guard = Guard()

    from common.protocol import Greeting
    from common.runtime.logs import log_to_file, log_to_stderr
    from server.members.admission import Admission
    from server.members.roster import Roster
    from server.members.sites import SiteList
    from server.rounds.loop import Rounds
    from server.run.records import AuditEvent, RunStatus, read_run_status
    from server.run.start import start_run
    from server.transport.port import check_free
    from server.transport.service import listening
    from server.transport.tls import ServerTLS

    log_to_stderr(settings.debug)
    if settings.insecure:
        log.warning("--insecure: nothing is encrypted, and any client may take part")
    keep_one_arena()
    tls = sites = None
    if settings.tls is not None:
        tls, sites = ServerTLS(settings.tls), SiteList(settings.tls / "sites.json")
        for notice in sites.expiring(datetime.now(UTC)):
            log.warning("%s", notice)
    check_free(settings.listen)
    tester, size = _tester(settings)
    start = start_run(settings, size)
    folder, plan = start.folder, start.plan
    greeting = Greeting(
        run=plan.run, version=version("fedcxr"), seed=plan.seed, training=plan.training
    )
    admission = Admission(greeting, size, folder, sites, settings.max_examples)
    roster = Roster(admission, folder)
    if folder.is_finished(plan.rounds):
        status = read_run_status(folder.path)
        done = len(folder.rounds())
        why = f": {status.reason}; --early-stop 0 and other --rounds go on" if status.reason else ""
        log.info("all %d rounds of this run are done already%s", done, why)
        with listening(roster, settings.listen, tls):
            results = _results(plan, folder, status)
            over = f"{done} rounds are done"
            roster.say_farewell(over, folder.hospitals(), RESTART_SECONDS, results)
        return
    rounds = Rounds(plan, roster, folder, start.state, start.provenance, tester, start.strategy)
    guard.last_words = lambda stopped: folder.status.end(
        RunStatus(state="stopped", reason=str(stopped), rounds=plan.rounds)
    )
    with _terminal_status(folder, plan.rounds):
        done = len(folder.rounds())
        folder.status.write(RunStatus(state="running", round=done, rounds=plan.rounds))
        log_to_file(folder.path / "server.log")
        log.info("%s: run %s in %s", version_line("flower-server"), plan.run, folder.path)
        began: Literal["started", "resumed"] = "resumed" if start.resumed else "started"
        folder.log.record(AuditEvent(event=began, details={"run": plan.run}))
        with listening(roster, settings.listen, tls):
            result = rounds.run()
            ended = RunStatus(state="finished", **dict(result))
            folder.status.end(ended)
            folder.log.record(AuditEvent(event="finished", details={"rounds": result.round}))
            _write_report(folder.path)
            over = f"{result.round} rounds are done"
            roster.say_farewell(over, rounds.asked, results=_results(plan, folder, ended))


def _results(
    plan: "Plan", folder: "RunFolder", ended: "RunStatus"
) -> "Callable[[str], RunResult | None]":
    """Return what a hospital is told of a run that is done, by its name."""
    from server.rounds.sharing import result_for

    def result(name: str) -> "RunResult | None":
        return result_for(name, folder.rounds(), ended) if plan.share_model else None

    return result


def _tester(settings: ServerSettings) -> "tuple[Tester | None, int]":
    """Return what scores the models, if anything does, and the size of the run's images.

    Raises:
        BadInput: The test shard cannot be used, or has images of another size.
    """
    from server.rounds.testing import Tester

    if settings.test is None:
        return None, settings.image_size or PAPER_IMAGE_SIZE
    tester = Tester(settings.test, settings.architecture, settings.device, settings.threads)
    size = settings.image_size or tester.image_size
    if tester.image_size != size:
        raise BadInput(
            f"{settings.test}: its images are {tester.image_size} pixels wide, but --image-size "
            f"is {size}; make the shard again or leave the option out"
        )
    return tester, size


def _write_report(run: Path) -> None:
    """Write the page on a run that is done; the run has not failed if that cannot be done."""
    from server.run.report import write_report

    try:
        write_report(run, run / "report.html")
    except Exception as error:  # noqa: BLE001 - the run is done, whatever the page is about
        reason = error if isinstance(error, FedCXRError) else type(error).__name__
        log.warning("no report: %s", reason)


@contextmanager
def _terminal_status(folder: "RunFolder", rounds: int) -> Iterator[None]:
    """Write how the run ended, should it not end well.

    Raises:
        BadInput: A file of the run cannot be written.
    """
    from server.run.folder import unwritable
    from server.run.records import RunState, RunStatus

    def end(state: RunState, reason: str) -> None:
        folder.status.end(RunStatus(state=state, reason=reason, rounds=rounds))

    try:
        yield
    except Stopped as stopped:
        end("stopped", str(stopped))
        raise
    except NoQuorum as error:
        end("no quorum", str(error))
        raise
    except OSError as error:
        fault = unwritable(folder.path, error)
        end("failed", str(fault))
        raise fault from error
    except BaseException as error:
        end("failed", str(error) if isinstance(error, FedCXRError) else type(error).__name__)
        raise


def main() -> None:
    """Run ``flower-server`` and exit with its code."""
    leave(run_command("flower-server", _serve))
