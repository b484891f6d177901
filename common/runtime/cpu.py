"""The machine's CPU."""

import platform
from contextlib import suppress
from pathlib import Path

ARM = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")


def cpu_model(root: Path = Path("/")) -> str:
    """Return the CPU's model, or its architecture where that is not known.

    Args:
        root: Of the file system.
    """
    known: dict[str, str] = {}
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            known.setdefault(name.strip(), value.strip())
    if "model name" in known:
        return known["model name"]
    # ARM has numbers in its place.
    return " ".join([platform.machine(), *(known[name] for name in ARM if name in known)])
