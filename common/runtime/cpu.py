"""The machine's CPU."""

import platform
from contextlib import suppress
from pathlib import Path


def cpu_model(root: Path = Path("/")) -> str:
    """Return the CPU's model, or its architecture where that is not known.

    Args:
        root: Of the file system.
    """
    with suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
