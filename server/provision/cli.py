"""``flower-provision``: certificates and kits for a federation's server and hospitals."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import CliPositionalArg, NoDecode, SettingsConfigDict

from common.certificates import read_certificate
from common.net import SiteName
from common.runtime.cli import (
    Command,
    Settings,
    check_distinct,
    choose_command,
    parse,
    run_command,
    split_commas,
)
from common.shard import SMALLEST
from server.members.sites import Site, read_sites
from server.provision.certificates import LONGEST, Host
from server.provision.federation import (
    CA,
    KITS,
    SERVER,
    SITES,
    Config,
    add,
    new,
    read_config,
    renew,
    renew_server,
    revoke,
)

PREFIX = "FLOWER_PROVISION_"


Hosts = Annotated[
    list[Host], NoDecode, BeforeValidator(split_commas), AfterValidator(check_distinct)
]
Names = Annotated[
    list[SiteName], NoDecode, BeforeValidator(split_commas), AfterValidator(check_distinct)
]


class NewSettings(Settings):
    """Make a CA, the server's certificate, and a kit for each hospital."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-provision new")

    out: Path = Field(description="new folder")
    server: Hosts = Field(
        description="DNS names and IP addresses of the server, separated by commas; hospitals "
        "connect to the first"
    )
    port: int = Field(8080, ge=1, lt=2**16, description="of the server")
    sites: int = Field(10, ge=1, le=1000, description="how many hospitals: hospital-00, ...")
    names: Names | None = Field(None, description="of the hospitals instead, with commas")
    days: int = Field(365, ge=1, le=LONGEST, description="for which certificates are valid")
    image: str = Field(
        f"fedcxr-client:{version('fedcxr')}", description="of the client, as the kits name it"
    )
    image_id: str | None = Field(
        None,
        pattern="^sha256:[0-9a-f]{64}$",
        description="of that image, for hospitals to compare: docker image inspect tells it",
    )
    image_size: int = Field(256, ge=SMALLEST, description="pixels of the run's films")

    @model_validator(mode="after")
    def _one_way_to_name(self) -> "NewSettings":
        if self.names is not None and "sites" in self.model_fields_set:
            raise ValueError("give either --sites N or --names A,B")
        return self


class SiteSettings(Settings):
    """One hospital of a federation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    folder: CliPositionalArg[Path] = Field(description="the federation's, made by new")
    name: CliPositionalArg[SiteName] = Field(description="of the hospital")


class AddSettings(SiteSettings):
    """Put a hospital on the list and write its kit."""

    model_config = SettingsConfigDict(cli_prog_name="flower-provision add")


class RevokeSettings(SiteSettings):
    """Shut a hospital out; only renew lets it in again."""

    model_config = SettingsConfigDict(cli_prog_name="flower-provision revoke")


class RenewSettings(Settings):
    """Give a hospital or the server a new certificate."""

    # `new` has an option --server of another type: here it must not be the same variable.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        cli_prog_name="flower-provision renew",
        cli_shortcuts={"server-certificate": "server"},
    )

    folder: CliPositionalArg[Path] = Field(description="the federation's, made by new")
    name: CliPositionalArg[SiteName | None] = Field(None, description="of the hospital")
    server_certificate: bool = Field(False, description="renew the server's certificate instead")

    @model_validator(mode="after")
    def _one_thing(self) -> "RenewSettings":
        if (self.name is not None) == self.server_certificate:
            raise ValueError("give either a hospital's NAME or --server")
        return self


class ShowSettings(Settings):
    """Print for how long CA, server and hospitals are valid."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_prog_name="flower-provision show")

    folder: CliPositionalArg[Path] = Field(description="the federation's, made by new")


def _new(arguments: Sequence[str], now: datetime) -> None:
    settings = parse(NewSettings, arguments)
    same = settings.model_dump(include={"port", "days", "image", "image_id", "image_size"})
    config = Config(hosts=settings.server, **same)
    names = settings.names or [f"hospital-{i:02d}" for i in range(settings.sites)]
    new(settings.out, config, names, now)
    print(f"{settings.out / SERVER}: for flower-server --tls, reached at {config.address}")
    print(f"{settings.out / KITS}: a kit for each hospital ({len(names)}); it holds a secret key")
    print(f"{settings.out / CA / 'ca.key'}: signs certificates; keep it off the network")
    end = _validity(now + timedelta(days=config.days), now)
    print(f"Each certificate {end}")


def _add(arguments: Sequence[str], now: datetime) -> None:
    settings = parse(AddSettings, arguments)
    site = add(settings.folder, settings.name, now)
    print(f"{settings.folder / KITS / settings.name}: its kit; {_state(site, now)}")


def _renew(arguments: Sequence[str], now: datetime) -> None:
    settings = parse(RenewSettings, arguments)
    if settings.name is None:
        end = renew_server(settings.folder, now).not_valid_after_utc
        print(f"{settings.folder / SERVER / 'server.crt'}: {_validity(end, now)}")
    else:
        site = renew(settings.folder, settings.name, now)
        kit = settings.folder / KITS / settings.name
        print(f"{kit / 'site.pem'}: {_state(site, now)}; the old one is void, send this one")


def _revoke(arguments: Sequence[str], now: datetime) -> None:
    settings = parse(RevokeSettings, arguments)
    site = revoke(settings.folder, settings.name, now)
    print(f"{settings.name}: {_state(site, now)}")


def _show(arguments: Sequence[str], now: datetime) -> None:
    folder = parse(ShowSettings, arguments).folder
    address = read_config(folder).address
    ca = read_certificate(folder / CA / "ca.crt").not_valid_after_utc
    server = read_certificate(folder / SERVER / "server.crt").not_valid_after_utc
    rows = [("CA", _validity(ca, now)), (f"server {address}", _validity(server, now))]
    rows += [(name, _state(site, now)) for name, site in read_sites(folder / SITES).items()]
    width = max(len(name) for name, _ in rows)
    for name, state in rows:
        print(f"{name:<{width}}  {state}")


def _state(site: Site, now: datetime) -> str:
    if site.revoked is not None:
        return f"revoked since {site.revoked:%Y-%m-%d}"
    return _validity(site.expires, now)


def _validity(end: datetime, now: datetime) -> str:
    if now >= end:
        return f"expired on {end:%Y-%m-%d}"
    days = -((now - end) // timedelta(days=1))
    return f"expires in {days} day{'s' if days > 1 else ''}, on {end:%Y-%m-%d}"


COMMANDS = {
    "new": ("make a CA, the server's certificate, and a kit for each hospital", _new),
    "add": ("put one more hospital on the list and write its kit", _add),
    "renew": ("give a hospital or the server a new certificate", _renew),
    "revoke": ("shut a hospital out", _revoke),
    "show": ("print for how long CA, server and hospitals are valid", _show),
}
"""What each command does, and its function, which takes the arguments and the time in UTC."""


def command(arguments: Sequence[str]) -> None:
    """Run one of the commands.

    Raises:
        BadInput: There is no such command, an option cannot be used, or a file.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    commands = {
        name: Command(text, partial(run, now=now)) for name, (text, run) in COMMANDS.items()
    }
    summary = "Makes certificates and kits for a federation's server and hospitals."
    choose_command("flower-provision", summary, commands, arguments)


def main() -> None:
    """Run ``flower-provision`` and exit with its code."""
    sys.exit(run_command("flower-provision", command))
