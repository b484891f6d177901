"""A hospital's kit: a folder with all that it needs to take part, but the client and the films."""

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.keys import write_key
from common.runtime.files import write_whole
from server.provision.certificates import write_certificate

KEY, README, OPTIONS = "site.key", "README.md", "client.env"
SAME_FOR_ALL = (".env", "docker-compose.yml", "policy.json")


def write_kit(
    folder: Path,
    name: str,
    server: str,
    authority: x509.Certificate,
    key: Ed25519PrivateKey,
    expires: datetime,
) -> None:
    """Write a kit.

    Args:
        folder: Is there and empty.
        name: The hospital's.
        server: HOST:PORT.
        authority: The certificate by which the hospital knows the server.
        key: The hospital's.
        expires: When the key does.

    Raises:
        OSError: A file cannot be written.
    """
    write_certificate(folder / "ca.crt", authority)
    for file in SAME_FOR_ALL:
        _write(folder / file, _template(file))
    _write(folder / OPTIONS, Template(_template(OPTIONS)).substitute(name=name, server=server))
    renew_kit(folder, name, server, key, expires)


def renew_kit(
    folder: Path, name: str, server: str, key: Ed25519PrivateKey, expires: datetime
) -> None:
    """Write a new key and the page that says when it expires; see :func:`write_kit`.

    Raises:
        OSError: A file cannot be written.
    """
    page = Template(_template(README)).substitute(
        name=name, server=server, expires=f"{expires:%Y-%m-%d}"
    )
    _write(folder / README, page)
    write_key(folder / KEY, key)


def _template(name: str) -> str:
    return (files("server.provision") / "kit" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
