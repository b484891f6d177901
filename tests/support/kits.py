"""A hospital's kit, unpacked on this machine as its administrator would."""

import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.compose.simulation import OWNER


def write_films(folder: Path, count: int) -> None:
    """Write films and their ``labels.csv``."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Patient ID"]
    for number in range(count):
        pixels = rng.integers(0, 256, (80, 80), np.uint8)
        Image.fromarray(pixels).save(folder / f"IM{number:04d}.png")
        lines.append(f"IM{number:04d}.png,{'Effusion' if number % 3 else 'No Finding'},{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


class UnpackedKit:
    """A kit whose ``.env`` names films and an empty folder for the shard, which are made here.

    Args:
        folder: The kit.
        home: New folder for ``films`` and ``data``.
        project: Name of the Compose project.
    """

    def __init__(self, folder: Path, home: Path, project: str, films: int = 40) -> None:
        self.folder, self.data, self.project = folder, home / "data", project
        self.data.mkdir(parents=True)
        write_films(home / "films", films)
        settings = (folder / ".env").read_text()
        for line, here in {
            "FILMS=/srv/films": f"FILMS={home / 'films'}",
            "DATA=/srv/fedcxr": f"DATA={self.data}",
        }.items():
            assert line in settings
            settings = settings.replace(line, here)
        (folder / ".env").write_text(settings)

    def own(self) -> None:
        """Give the kit and the shard's folder to the container's user."""
        for path in (self.data, *self.folder.iterdir()):
            os.chown(path, OWNER, OWNER)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``docker compose`` in the kit's folder."""
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0 or not check, (arguments, done.stdout, done.stderr)
        return done
