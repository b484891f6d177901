"""A federation that is provisioned: a CA, a server's folder and one kit for each hospital."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from experiments.launch.local import free_port
from server.provision.federation import Config, new


def provision(path: Path, names: Sequence[str]) -> Path:
    """Write what ``flower-provision new`` writes for a server on loopback."""
    config = Config(hosts=["localhost", "127.0.0.1"], port=free_port(), days=90)
    new(path, config, names, datetime.now(UTC))
    return path
