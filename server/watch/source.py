"""Where the run comes from that is watched: its folder, or the server's metrics address."""

from collections.abc import Callable
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from pydantic import ValidationError

from common.errors import BadInput
from common.net import split_address
from server.run.snapshot import Snapshot, snapshot_of

PATH = "/run.json"

SECONDS = 5.0
"""How long the server may take to answer."""

LARGEST = 1 << 26
"""Bytes of an answer; a thousand rounds of a hundred hospitals are far below."""

Source = Callable[[], Snapshot]
"""Returns the run as it is now."""


class Unreachable(BadInput):
    """The server does not answer; it may do so later."""


def folder_source(run: Path) -> Source:
    """Return what reads a run's folder."""
    return lambda: snapshot_of(run)


def server_source(address: str) -> Source:
    """Return what asks a server.

    Args:
        address: HOST:PORT of its ``--metrics``.
    """
    host, _ = split_address(address)
    # Not through a proxy to this machine itself.
    opener = build_opener(ProxyHandler({})) if _is_here(host) else build_opener()

    def take() -> Snapshot:
        try:
            with opener.open(f"http://{address}{PATH}", timeout=SECONDS) as answer:
                content = answer.read(LARGEST)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise Unreachable(
                f"{address}: {words}; is it the --metrics address of a flower-server that runs?"
            ) from None
        try:
            return Snapshot.model_validate_json(content)
        except ValidationError:
            raise BadInput(
                f"{address}: what it answers is no run that this version knows; is it the "
                "--metrics address of a flower-server of the same version?"
            ) from None

    return take


def _is_here(host: str) -> bool:
    try:
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost"
