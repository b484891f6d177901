"""``python -m client.health``: whether this container's client is connected, for containers.

It takes the client's own variable ``FLOWER_CLIENT_STATE``. Prints how the client stands; exit code
0, or 1 if it is not connected, is stuck, or has lost its GPU. Nothing large is imported: ten
clients may share two cores, and each is asked twice a minute.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from client.state import ClientStatus
from common.errors import BadInput
from common.runtime.status import read_status


class Unhealthy(Exception):  # noqa: N818 - a finding, not a fault
    """Says what is wrong."""


def standing(folder: Path, now: datetime) -> str:
    """Return what a client is doing, from its ``status.json``.

    Args:
        folder: The client's ``--state``.
        now: The time, with its zone.

    Raises:
        Unhealthy: It is not connected, is at work long after the round's end, or has lost its GPU.
    """
    try:
        status = read_status(folder, ClientStatus)
    except BadInput:
        raise Unhealthy("no status yet") from None
    if status.state not in ("connected", "working", "waiting"):
        raise Unhealthy(f"{status.state}: {status.reason}" if status.reason else status.state)
    if status.state == "working" and status.until is not None and now > status.until:
        raise Unhealthy(f"stuck in round {status.round}")
    if status.device is not None and status.device.startswith("cuda"):
        _look_at_gpu()
    if status.state == "waiting":
        return "the run is over, waiting for the next one"
    standing = f"{status.state}, on {status.device}"
    if status.round is None:
        return standing
    share = f", {status.phase} {status.share:.0%}" if status.share is not None else ""
    return f"{standing}, round {status.round}{share}"


def _look_at_gpu() -> None:
    """See whether the driver still reaches a GPU; a container can lose it while it runs.

    Raises:
        Unhealthy: It shows none, or one that it cannot reach any more.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        raise Unhealthy(f"no GPU is visible any more ({error})") from None
    if not count:
        raise Unhealthy("no GPU is visible any more")


def main() -> None:
    """Print how the client stands and exit."""
    try:
        print(standing(Path(os.environ.get("FLOWER_CLIENT_STATE", "")), datetime.now(UTC)))
    except Unhealthy as finding:
        sys.exit(str(finding))


if __name__ == "__main__":
    main()
