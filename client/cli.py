"""``flower-client``: a hospital takes part in a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.cli import Settings, leave, parse, run_command
from common.memory import keep_freed_memory
from common.net import Address, SiteName, read_tls


class ClientSettings(Settings):
    """Train on this hospital's shard whenever the server asks, and return weights."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_CLIENT_", cli_prog_name="flower-client")

    server: Address = Field(description="the server, HOST:PORT")
    data: Path = Field(description="this hospital's shard")
    name: SiteName = Field("", description="of this hospital; default: the shard's folder name")
    tls: Path | None = Field(None, description="folder with ca.crt, to check the server against")
    insecure: bool = Field(False, description="connect without encryption")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores")
    slots: int = Field(1, ge=1, description="clients of this machine that may compute at once")
    slots_dir: Path | None = Field(None, description="folder through which they take turns")
    patience: float = Field(
        300, gt=0, description="seconds for which the server may be out of reach"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_after_shard(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("name") and values.get("data"):
            values["name"] = Path(values["data"]).resolve().name
        return values

    @model_validator(mode="after")
    def _one_way_to_connect(self) -> "ClientSettings":
        if (self.tls is None) != self.insecure:
            raise ValueError("give either --tls DIR or --insecure")
        return self


def _take_part(arguments: Sequence[str]) -> None:
    settings = parse(ClientSettings, arguments)
    root_certificate = read_tls(settings.tls, "ca.crt")[0] if settings.tls else None

    import torch

    from client.flower import take_part
    from client.hospital import Hospital
    from common.data.shard import open_shard
    from common.logs import log_to_stderr
    from common.model import choose_device

    log_to_stderr(settings.debug)
    keep_freed_memory()
    shard = open_shard(settings.data)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    hospital = Hospital(settings.name, shard, device, settings.slots, settings.slots_dir)
    take_part(hospital, settings.server, root_certificate, settings.patience)


def main() -> None:
    """Run ``flower-client`` and exit with its code."""
    leave(run_command("flower-client", _take_part))
