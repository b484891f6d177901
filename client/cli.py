"""``flower-client``: a hospital takes part in a run."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.errors import FedCXRError, Refused
from common.net import SITE_NAME, Address, SiteName
from common.options import Precision
from common.runtime.cli import Settings, Stopped, leave, parse, run_command
from common.runtime.guard import Guard
from common.runtime.logs import LogFormat
from common.runtime.memory import keep_freed_memory

if TYPE_CHECKING:
    from client.state import ClientState, Standing
    from common.protocol import RunResult

log = logging.getLogger(__name__)


class ClientSettings(Settings):
    """Train on this hospital's shard whenever the server asks, and return weights."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_CLIENT_", cli_prog_name="flower-client")

    server: Address = Field(description="the server, HOST:PORT")
    data: Path = Field(description="this hospital's shard")
    name: SiteName | None = Field(
        None, description="of this hospital; default: as in its kit, or of the shard's folder"
    )
    tls: Path | None = Field(
        None, description="this hospital's kit: folder with ca.crt and site.pem"
    )
    insecure: bool = Field(False, description="connect without encryption and without certificates")
    policy: Path | None = Field(
        None, description="JSON file with what the server may ask for; default: everything"
    )
    state: Path | None = Field(
        None,
        description="folder for status.json, the log, the audit log, and models that the server "
        "shares, with a page on each run; default: none is written",
    )
    check: bool = Field(
        False,
        description="look at shard, memory, certificate, proxy, name, port, server and clock, say "
        "what is in the way, and end without joining; the word check alone does the same",
    )
    stay: bool = Field(False, description="wait for the next run when one is over")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="of the training; auto: bf16 where the device has instructions for it"
    )
    compile: bool = Field(
        False,
        description="compile the training: minutes in the first round, then faster on a GPU; needs "
        "a compiler",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores")
    log_format: LogFormat = Field(
        "text", description="text, or json: an object on each line, for machines"
    )
    slots: int = Field(1, ge=1, description="clients of this machine that may compute at once")
    slots_dir: Path | None = Field(None, description="folder through which they take turns")
    patience: float = Field(
        3600, gt=0, description="seconds for which the server may be out of reach"
    )

    @property
    def site(self) -> str:
        """The hospital's name."""
        return self.name or self.data.resolve().name

    @property
    def fixed_precision(self) -> Precision | None:
        """Of the training; None: whatever suits the device."""
        return None if self.precision == "auto" else self.precision

    @model_validator(mode="after")
    def _folder_can_give_the_name(self) -> "ClientSettings":
        if self.insecure and not re.match(SITE_NAME, self.site):
            raise ValueError(
                f"--data: the folder's name {self.site!r} cannot be a hospital's; give --name"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_connect(self) -> "ClientSettings":
        if (self.tls is None) != self.insecure:
            raise ValueError("give either --tls DIR or --insecure")
        return self


def _take_part(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["check"]:  # in a container: docker compose run client check
        arguments = ["--check", *arguments[1:]]
    settings = parse(ClientSettings, arguments)
    if settings.check:
        from client.check import check

        check(settings)
        return
    guard = Guard()
    name, notice = settings.site, None
    if settings.tls is not None:
        from client.kit import read_kit

        kit = read_kit(settings.tls, datetime.now(UTC), settings.name)
        name, notice = kit.name, kit.notice

    import torch

    from client.hospital import Hospital
    from client.kept import KeptModels
    from client.own import OwnStates
    from client.policy import read_policy
    from client.private.account import PrivacyAccount
    from client.report import write_report
    from client.secure.signer import signer_of
    from client.slots import check_slots
    from client.state import ClientState
    from client.transport.connection import take_part
    from client.transport.messages import MessageHandler
    from common.model import choose_device
    from common.runtime.logs import log_to_stderr
    from common.shard import open_for_training

    log_to_stderr(settings.debug, settings.log_format)
    if notice is not None:
        log.warning("%s", notice)
    keep_freed_memory()
    policy = read_policy(settings.policy)
    shard = open_for_training(settings.data)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    if settings.slots_dir is not None:
        check_slots(settings.slots_dir, settings.slots)
    state = ClientState(settings.state, device=str(device))
    guard.last_words = lambda stopped: state.end("stopped", reason=str(stopped))
    with _terminal_status(state):
        kept = KeptModels(state, shard.manifest.size)

        def within(name: str) -> Path | None:
            return None if settings.state is None else settings.state / name

        hospital = Hospital(
            name,
            shard,
            device,
            settings.slots,
            settings.slots_dir,
            policy,
            settings.fixed_precision,
            kept,
            OwnStates(within("own")),
            settings.compile,
            PrivacyAccount(within("privacy.json"), policy.privacy),
            lambda: signer_of(settings.tls, name),
        )
        if settings.insecure:
            log.warning("--insecure: nothing is encrypted, and the server is not checked")
        handler = MessageHandler(hospital, state)

        patience = math.inf if settings.stay else settings.patience
        told: tuple[str, RunResult | None] | None = None

        def take_part_once(between_runs: bool = False) -> None:
            nonlocal told
            take_part(handler, settings.server, settings.tls, patience, between_runs)
            result = handler.farewell.result if handler.farewell is not None else None
            if (handler.run, result) != told:  # a server that was started again says it again
                write_report(kept, name, handler.run, result)
            told = handler.run, result

        state.write_status("connecting")
        take_part_once()
        while settings.stay:
            log.info("the run is over; waiting for the next one")
            handler.rest()
            take_part_once(between_runs=True)


@contextmanager
def _terminal_status(state: "ClientState") -> Iterator[None]:
    """Write how it ended."""
    try:
        yield
    except BaseException as error:
        standing: Standing = "failed"
        if isinstance(error, Stopped):
            standing = "stopped"
        elif isinstance(error, Refused):
            standing = "refused"
        reason = str(error) if isinstance(error, FedCXRError | Stopped) else type(error).__name__
        state.end(standing, reason=reason)
        raise
    state.end("finished")


def main() -> None:
    """Run ``flower-client`` and exit with its code."""
    leave(run_command("flower-client", _take_part))
