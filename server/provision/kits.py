"""A hospital's kit: a folder with all that it needs to take part, but the client and the films."""

from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from common.runtime.files import write_whole
from server.provision.certificates import write_certificate, write_key

KEY, README, OPTIONS = "site.pem", "README.md", "client.env"
SAME_FOR_ALL = (".env", "docker-compose.yml", "policy.json")


class SiteIdentity(NamedTuple):
    """What a hospital is known by: its key, and the CA's certificate for it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_kit(
    folder: Path, name: str, server: str, authority: x509.Certificate, identity: SiteIdentity
) -> None:
    """Write a kit.

    Args:
        folder: Is there and empty.
        name: The hospital's.
        server: HOST:PORT.
        authority: The CA's certificate, by which the hospital knows the server.
        identity: The hospital's.

    Raises:
        OSError: A file cannot be written.
    """
    write_certificate(folder / "ca.crt", authority)
    for file in SAME_FOR_ALL:
        _write(folder / file, _template(file))
    _write(folder / OPTIONS, Template(_template(OPTIONS)).substitute(name=name, server=server))
    renew_kit(folder, name, server, identity)


def renew_kit(folder: Path, name: str, server: str, identity: SiteIdentity) -> None:
    """Write a new key with its certificate, and the page that says when it expires.

    See :func:`write_kit`.

    Raises:
        OSError: A file cannot be written.
    """
    expires = f"{identity.certificate.not_valid_after_utc:%Y-%m-%d}"
    page = Template(_template(README)).substitute(name=name, server=server, expires=expires)
    _write(folder / README, page)
    write_key(folder / KEY, identity.key, identity.certificate)


def _template(name: str) -> str:
    return (files("server.provision") / "kit" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
