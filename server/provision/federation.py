"""The folder from which a federation is provisioned: its CA, its server, its hospitals' kits.

::

    DIR/provision.json                            what `new` was told
    DIR/ca/{ca.crt, ca.key}
    DIR/server/{ca.crt, server.crt, server.key, sites.json}
    DIR/sites/NAME/                               a kit, see server/provision/kits.py

``sites.json`` decides which hospitals may take part: a kit counts once its certificate is listed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.certificates import fingerprint_of, read_certificate
from common.errors import BadInput, first_problem
from common.runtime.files import locked, write_json
from common.runtime.folders import whole_folder
from server.members.sites import Site, read_sites, write_sites
from server.provision.certificates import (
    LONGEST,
    Authority,
    Host,
    issue_server,
    issue_site,
    new_authority,
    new_key,
    read_authority,
    write_certificate,
    write_key,
)
from server.provision.kits import KEY, README, Deployment, SiteIdentity, renew_kit, write_kit

CONFIG = "provision.json"
CA, SERVER, SITES, KITS = "ca", "server", "server/sites.json", "sites"


class Config(BaseModel):
    """The content of ``provision.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    hosts: list[Host] = Field(min_length=1, description="names and addresses of the server")
    port: int = Field(ge=1, lt=2**16)
    days: int = Field(ge=1, le=LONGEST, description="for which certificates are valid")
    image: str = Field(f"fedcxr-client:{metadata.version('fedcxr')}", description="of the client")
    image_id: str | None = Field(None, description="by which the image is known")
    image_size: int = Field(256, description="pixels of the run's films")

    @property
    def deployment(self) -> Deployment:
        """What the kits say."""
        fields = self.model_dump(include={"image", "image_id", "image_size"})
        return Deployment(address=self.address, **fields)

    @property
    def address(self) -> str:
        """What hospitals connect to: the first of the names, with the port."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def read_config(path: Path) -> Config:
    """Read what a folder was made with.

    Raises:
        BadInput: It is no folder of ``flower-provision new``.
    """
    file = path / CONFIG
    try:
        return Config.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BadInput(
            f"{file}: cannot be read: {error.strerror}; name a folder of flower-provision new"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{file}: {first_problem(error)}; restore it from a copy") from None


def new(path: Path, config: Config, names: Sequence[str], now: datetime) -> None:
    """Make a federation's folder, readable by its owner alone, whole or not at all.

    Args:
        path: The new folder.
        config: Server and validity.
        names: The hospitals'.
        now: The time, in UTC.

    Raises:
        BadInput: ``path`` is taken or cannot be written.
    """
    authority = new_authority(now, config.days)
    key = new_key()
    certificate = issue_server(authority, key.public_key(), config.hosts, now, config.days)
    sites = {}
    with _writing(path), whole_folder(path) as folder:
        folder.chmod(0o700)
        write_json(folder / CONFIG, config.model_dump())
        for side in (CA, SERVER):
            (folder / side).mkdir()
            (folder / side).chmod(0o755)  # whatever the umask, as the certificates in it
            write_certificate(folder / side / "ca.crt", authority.certificate)
        write_key(folder / CA / "ca.key", authority.key)
        write_certificate(folder / SERVER / "server.crt", certificate)
        write_key(folder / SERVER / "server.key", key)
        for name in names:
            kit = folder / KITS / name
            kit.mkdir(parents=True)
            identity, sites[name] = _new_site(authority, name, now, config.days)
            write_kit(kit, name, config.deployment, authority.certificate, identity)
        write_sites(folder / SITES, sites)


def add(path: Path, name: str, now: datetime) -> Site:
    """Put a hospital on the list and write its kit.

    Raises:
        BadInput: It is on the list, or its kit is there; the CA has expired; or a file cannot be
            read or written.
    """
    with _changing(path) as config:
        sites = read_sites(path / SITES)
        if name in sites:
            raise BadInput(
                f"{name}: is on the list already; flower-provision renew gives it a new certificate"
            )
        authority = read_authority(path / CA)
        identity, site = _new_site(authority, name, now, config.days)
        _add_kit(path, config, name, authority, identity, {**sites, name: site})
    return site


def renew(path: Path, name: str, now: datetime) -> Site:
    """Give a hospital a new key and certificate; its old one, or a revocation, is void.

    Of its kit, ``site.pem`` and ``README.md`` change. Where the kit is gone, it is written again.

    Raises:
        BadInput: It is not on the list, the CA has expired, or a file cannot be read or written.
    """
    with _changing(path) as config:
        sites = read_sites(path / SITES)
        added = _listed(sites, name, path).added
        authority = read_authority(path / CA)
        identity, site = _new_site(authority, name, now, config.days, added)
        sites = {**sites, name: site}
        kit = path / KITS / name
        if kit.exists():
            with TemporaryDirectory(dir=kit, prefix=".new.") as folder:
                renew_kit(Path(folder), name, config.deployment, identity)
                write_sites(path / SITES, sites)
                for file in (KEY, README):
                    (Path(folder) / file).replace(kit / file)
        else:
            _add_kit(path, config, name, authority, identity, sites)
    return site


def revoke(path: Path, name: str, now: datetime) -> Site:
    """Shut a hospital out, until it is renewed; one that is revoked stays as it is.

    Raises:
        BadInput: It is not on the list, or a file cannot be read or written.
    """
    with _changing(path):
        sites = read_sites(path / SITES)
        site = _listed(sites, name, path)
        if site.revoked is None:
            site = site.model_copy(update={"revoked": now})
            write_sites(path / SITES, {**sites, name: site})
    return site


def renew_server(path: Path, now: datetime) -> x509.Certificate:
    """Write a new certificate for the server, under the same CA and for the same key.

    The key stays, so that one file changes, and at once.

    Raises:
        BadInput: The CA has expired, or a file cannot be read or written.
    """
    with _changing(path) as config:
        file = path / SERVER / "server.crt"
        public = read_certificate(file).public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise BadInput(f"{file}: not the certificate of an EC key; restore it from a copy")
        authority = read_authority(path / CA)
        certificate = issue_server(authority, public, config.hosts, now, config.days)
        write_certificate(file, certificate)
    return certificate


def _new_site(
    authority: Authority, name: str, now: datetime, days: int, added: datetime | None = None
) -> tuple[SiteIdentity, Site]:
    key = new_key()
    certificate = issue_site(authority, key.public_key(), name, now, days)
    site = Site(
        certificate=fingerprint_of(certificate),
        added=added or now,
        expires=certificate.not_valid_after_utc,
    )
    return SiteIdentity(key, certificate), site


def _add_kit(
    path: Path,
    config: Config,
    name: str,
    authority: Authority,
    identity: SiteIdentity,
    sites: dict[str, Site],
) -> None:
    """Write a whole kit and the list with its hospital, or neither."""
    with whole_folder(path / KITS / name) as kit:
        write_kit(kit, name, config.deployment, authority.certificate, identity)
        write_sites(path / SITES, sites)


def _listed(sites: dict[str, Site], name: str, path: Path) -> Site:
    if name not in sites:
        raise BadInput(
            f"{name}: not on the list {path / SITES}; it has {', '.join(sites) or 'no hospital'}"
        )
    return sites[name]


@contextmanager
def _changing(path: Path) -> Iterator[Config]:
    """Be the only process that changes a federation's folder."""
    config = read_config(path)
    with _writing(path), locked(path, path):
        yield config


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{error.filename or path}: cannot be written: {error.strerror}") from None
