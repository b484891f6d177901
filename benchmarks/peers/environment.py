"""A throwaway environment for a peer, which sees what is installed here and has its own pins."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]

PINS = Path(__file__).with_name("pins.txt")
"""Versions of what the peers need and this project does not."""


class NotInstalled(Exception):  # noqa: N818 - a finding, not a fault
    """A peer cannot be installed; the message says why."""


def make(folder: Path, own: list[str], shared: list[str]) -> Path:
    """Return the Python of a new environment.

    Args:
        folder: For the environment.
        own: Requirements that it gets itself, even those that are here, for their commands.
        shared: Requirements of which it gets only what is not here.

    Raises:
        NotInstalled: pip could not install it.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    here = folder / "lib" / version / "site-packages" / "here.pth"
    here.write_text(sysconfig.get_path("purelib") + "\n")
    if own:
        _pip(python, "--no-deps", "--ignore-installed", *own)
    _pip(python, "--constraint", str(PINS), *shared)
    return python


def _pip(python: Path, *arguments: str) -> None:
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled((done.stderr.strip().splitlines() or ["pip failed"])[-1])
