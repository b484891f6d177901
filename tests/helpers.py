"""What several tests need: small shards, small states, the commands as processes."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from common.data.shard import Entry, Shard, create_shard, open_shard
from common.wire import State
from experiments.processes import Process

SHARED = Path(__file__).parents[1].parent / "shared" / "data"

needs_shared_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real ChestX-ray14 files are not beside this checkout"
)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


class SmallDisk:
    """A disk of its own that can be filled.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no room for another byte."""
        with (self.path / "others").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def make_room(self) -> None:
        """Undo :meth:`fill`."""
        (self.path / "others").unlink()


@contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[SmallDisk]:
    """Mount a disk of so many bytes at a new folder for the length of the block."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def make_shard(
    path: Path, images: int = 40, size: int = 40, labelled: bool = True, seed: int = 0
) -> Shard:
    """Write a shard of noise with two images a patient."""
    draws = np.random.default_rng(seed)
    labels = (draws.random((images, 14)) < 0.3).astype(np.uint8)
    with create_shard(
        path,
        entries=[Entry(f"{i:06d}.png", f"{path.name}-{i // 2}", "train") for i in range(images)],
        labels=labels if labelled else None,
        size=size,
        source="noise",
        seed=seed,
    ) as pixels:
        pixels[:] = draws.integers(0, 256, pixels.shape)
    return open_shard(path)


def make_hospitals(root: Path, count: int, images: int = 40, size: int = 40) -> list[Path]:
    """Write shards of different sizes; return their folders."""
    return [
        make_shard(root / f"hospital-{i:02d}", images + 6 * i, size, seed=i).path
        for i in range(count)
    ]


def exact_mean(states: list[tuple[State, int]]) -> State:
    """Return FedAvg computed the slow way: fractions for floats, maximum for integers."""
    total = sum(examples for _, examples in states)
    mean: State = {}
    for name, like in states[0][0].items():
        columns = zip(*(state[name].ravel().tolist() for state, _ in states), strict=True)
        if np.issubdtype(like.dtype, np.floating):
            values: list[float | int] = [
                float(
                    sum(
                        (Fraction(v) * n for v, (_, n) in zip(column, states, strict=True)),
                        Fraction(),
                    )
                )
                / total
                for column in columns
            ]
        else:
            values = [max(column) for column in columns]
        mean[name] = np.array(values, like.dtype).reshape(like.shape)
    return mean


def same_bits(one: State, other: State) -> bool:
    """Return whether two states have the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def run(
    command: str, *arguments: object, environment: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run ``flower-server``, ``flower-data`` or another of the commands as a process of its own."""
    module = {
        "flower-audit": "common.audit_cli",
        "flower-containers": "experiments.containers",
        "flower-data": "common.data.cli",
        "flower-provision": "server.provision_cli",
        "flower-report": "server.report",
    }.get(command, f"{command.removeprefix('flower-')}.cli")
    given = [str(argument) for argument in arguments]
    with TemporaryDirectory() as folder:
        outputs = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Process(f"from {module} import main; main()", given, environment or {}, outputs)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(given, code, stdout, stderr)


def untouched_environment() -> dict[str, str]:
    """Return the environment without what importing Flower's adapters puts into it."""
    return {name: v for name, v in os.environ.items() if not name.startswith(("FLWR_", "GRPC_"))}


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *fragments: str) -> None:
    """Assert an exit code, and that the last line of stderr alone tells the user what is wrong."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if " error: " in line]
    assert len(errors) == 1, result.stderr
    assert errors[0] == result.stderr.splitlines()[-1]
    for fragment in fragments:
        assert fragment in errors[0]
