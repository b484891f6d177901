"""``flower-server``: runs the rounds of a federation."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.cli import Settings, Stopped, leave, parse, run_command
from common.data.shard import SMALLEST
from common.errors import BadInput, FedCXRError, NoQuorum
from common.memory import keep_freed_memory
from common.net import Address, read_tls

if TYPE_CHECKING:
    from server.run_folder import RunFolder

PAPER_IMAGE_SIZE = 256


class ServerSettings(Settings):
    """Ask hospitals to train, average what they return, keep every round."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_SERVER_", cli_prog_name="flower-server")

    init: str = Field(description="the first model: random, imagenet or a checkpoint")
    run: Path = Field(description="new folder for config, rounds, models and status")
    rounds: int = Field(50, ge=1, description="how many rounds")
    min_clients: int = Field(10, ge=1, description="hospitals to wait for before the first round")
    quorum: float = Field(
        0.8, gt=0, le=1, description="share of --min-clients that a round needs to count"
    )
    round_timeout: float = Field(3600, gt=0, description="seconds that a round may take")
    mode: Literal["finetune", "linear"] = Field(
        "finetune", description="train all weights, or the head on a frozen backbone"
    )
    strategy: Literal["fedavg"] = Field("fedavg", description="how replies are combined")
    lr: float = Field(0.001, gt=0, description="learning rate of the hospitals' SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the hospitals' SGD")
    batch_size: int = Field(64, ge=1, description="images a step")
    local_epochs: int = Field(1, ge=1, description="epochs over its shard that a hospital trains")
    label_fraction: float = Field(
        1.0, gt=0, le=1, description="share of its labels that a hospital may use"
    )
    seed: int = Field(0, ge=0, description="decides every random draw of the run")
    architecture: Literal["densenet121", "densenet-tiny"] = Field(
        "densenet121", description="densenet-tiny is for tests"
    )
    image_size: int | None = Field(
        None,
        ge=SMALLEST,
        description=f"pixels of the shards' images; default: those of --test, or "
        f"{PAPER_IMAGE_SIZE}",
    )
    test: Path | None = Field(None, description="labelled shard to score every new model on")
    listen: Address = Field("0.0.0.0:8080", description="HOST:PORT")
    tls: Path | None = Field(None, description="folder with ca.crt, server.crt and server.key")
    insecure: bool = Field(False, description="serve without encryption")
    device: str = Field("auto", description="for --test: auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores")

    @model_validator(mode="after")
    def _one_way_to_serve(self) -> "ServerSettings":
        if (self.tls is None) != self.insecure:
            raise ValueError("give either --tls DIR or --insecure")
        return self


def _serve(arguments: Sequence[str]) -> None:
    settings = parse(ServerSettings, arguments)
    certificates = None
    if settings.tls is not None:
        ca, certificate, key = read_tls(settings.tls, "ca.crt", "server.crt", "server.key")
        certificates = (ca, certificate, key)

    from common.checkpoint import Provenance
    from common.initial import initial_state
    from common.logs import log_to_stderr
    from common.protocol import Greeting
    from server.flower import FlowerSites, check_free, serve
    from server.rounds import Plan, Rounds
    from server.run_folder import RunFolder
    from server.testing import Tester

    log_to_stderr(settings.debug)
    keep_freed_memory()
    check_free(settings.listen)
    tester = None
    if settings.test is not None:
        tester = Tester(settings.test, settings.architecture, settings.device, settings.threads)
    size = settings.image_size or (tester.image_size if tester else PAPER_IMAGE_SIZE)
    if tester is not None and tester.image_size != size:
        raise BadInput(
            f"{settings.test}: its images are {tester.image_size} pixels wide, but --image-size "
            f"is {size}; make the shard anew or leave the option out"
        )
    state, origin = initial_state(settings.init, settings.architecture, settings.seed)
    run = secrets.token_hex(6)
    plan = Plan(
        run=run,
        **settings.model_dump(include=set(Plan.__dataclass_fields__) - {"run"}),
    )
    versions = {name: version(name) for name in ("fedcxr", "flwr", "numpy", "torch")}
    config = {"run_id": run, "image_size": size, "versions": versions}
    folder = RunFolder(settings.run, settings.model_dump(mode="json", exclude={"debug"}) | config)
    sites = FlowerSites(Greeting(run=run, seed=settings.seed), size, folder)
    init = Path(settings.init).name
    provenance = Provenance(method="fedavg", run=run, init=init, start=origin, seed=settings.seed)
    rounds = Rounds(plan, sites, folder, state, provenance, tester)

    def work() -> None:
        result = rounds.run()
        folder.write_status("finished", **result)
        sites.say_farewell(f"{plan.rounds} rounds are done")

    folder.write_status("running", round=0, rounds=plan.rounds)
    with _terminal_status(folder):
        serve(sites, settings.listen, certificates, work)


@contextmanager
def _terminal_status(folder: "RunFolder") -> Iterator[None]:
    """Write how the run ended, should it not end well."""
    try:
        yield
    except Stopped as stopped:
        folder.write_status("stopped", reason=str(stopped))
        raise
    except NoQuorum as error:
        folder.write_status("no quorum", reason=str(error))
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, FedCXRError) else type(error).__name__
        folder.write_status("failed", reason=reason)
        raise


def main() -> None:
    """Run ``flower-server`` and exit with its code."""
    leave(run_command("flower-server", _serve))
