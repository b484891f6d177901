"""A hospital's kit: a folder with all that it needs to take part, but the client and the films."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field

from common.runtime.files import write_whole
from server.provision.certificates import write_certificate, write_key

KEY, README = "site.pem", "README.md"
SAME_FOR_ALL = ("docker-compose.yml", "policy.json")
FILLED_IN = (".env", "client.env")


class Deployment(BaseModel):
    """What is the same for all hospitals of a federation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(description="of the server, HOST:PORT")
    image: str = Field(description="of the client, with its tag")
    image_id: str | None = Field(description="by which the image is known, sha256:...")
    image_size: int = Field(description="pixels of the run's films")


class SiteIdentity(NamedTuple):
    """What a hospital is known by: its key, and the CA's certificate for it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_kit(
    folder: Path,
    name: str,
    deployment: Deployment,
    authority: x509.Certificate,
    identity: SiteIdentity,
) -> None:
    """Write a kit.

    Args:
        folder: Is there and empty.
        name: The hospital's.
        deployment: What the kit says of server and image.
        authority: The CA's certificate, by which the hospital knows the server.
        identity: The hospital's.

    Raises:
        OSError: A file cannot be written.
    """
    folder.chmod(0o755)  # whatever the umask, as the files in it
    write_certificate(folder / "ca.crt", authority)
    for file in SAME_FOR_ALL:
        _write(folder / file, _template(file))
    for file in FILLED_IN:
        _write(folder / file, _filled_in(file, name, deployment))
    renew_kit(folder, name, deployment, identity)


def renew_kit(folder: Path, name: str, deployment: Deployment, identity: SiteIdentity) -> None:
    """Write a new key with its certificate, and the page that says when it expires.

    See :func:`write_kit`.

    Raises:
        OSError: A file cannot be written.
    """
    expires = f"{identity.certificate.not_valid_after_utc:%Y-%m-%d}"
    _write(folder / README, _filled_in(README, name, deployment, expires=expires))
    write_key(folder / KEY, identity.key, identity.certificate)


def _filled_in(file: str, name: str, deployment: Deployment, **more: str) -> str:
    id_says = "of this version"
    if deployment.image_id is not None:
        id_says = f"with the ID `{deployment.image_id}`"
    return Template(_template(file)).substitute(
        name=name,
        server=deployment.address,
        image=deployment.image,
        id_says=id_says,
        size=deployment.image_size,
        project=re.sub("[^a-z0-9_-]", "-", name.lower()),  # as Compose wants it
        **more,
    )


def _template(name: str) -> str:
    return (files("server.provision") / "kit" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
    path.chmod(0o644)
