"""A hospital's kit: a folder with all that it needs to take part, but the client and the films."""

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.files import write_whole
from common.keys import write_key

KEY, README = "site.key", "README.md"
COPIED, FILLED = ("docker-compose.yml", "policy.json"), ("client.env",)
"""Files of ``server/kit`` that are the same for all, and those that name hospital and server."""


def write_kit(
    folder: Path,
    name: str,
    server: str,
    root_certificate: Path,
    key: Ed25519PrivateKey,
    expires: datetime,
) -> None:
    """Write a kit.

    Args:
        folder: Is there and empty.
        name: The hospital's.
        server: HOST:PORT.
        root_certificate: ``ca.crt``, by which the hospital knows the server.
        key: The hospital's.
        expires: When the key does.

    Raises:
        OSError: A file cannot be written.
    """
    _write(folder / "ca.crt", root_certificate.read_text())
    for file in COPIED:
        _write(folder / file, _template(file))
    for file in FILLED:
        _write(folder / file, Template(_template(file)).substitute(name=name, server=server))
    renew_kit(folder, name, server, key, expires)


def renew_kit(
    folder: Path, name: str, server: str, key: Ed25519PrivateKey, expires: datetime
) -> None:
    """Write a new key and the page that says when it expires; see :func:`write_kit`.

    Raises:
        OSError: A file cannot be written.
    """
    values = {"name": name, "server": server, "expires": f"{expires:%Y-%m-%d}"}
    _write(folder / README, Template(_template(README)).substitute(values))
    write_key(folder / KEY, key)


def _template(name: str) -> str:
    return (files("server") / "kit" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
