from pathlib import Path

import pytest

from common.runtime.memory import free_memory, training_memory

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"),
     ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
    ids=["version 2", "version 1"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("most", "free"), [("3000000000", 2_700_000_000), ("9223372036854771712", 8_192_000_000)]
)
def test_a_containers_limit_counts(
    tmp_path: Path, limit: str, used: str, most: str, free: int
) -> None:
    files = {"proc/meminfo": MEMINFO, f"sys/fs/cgroup/{limit}": most + "\n"}
    files[f"sys/fs/cgroup/{used}"] = "1000000000\n"
    of_all = "total_" if "memory/" in limit else ""
    cache = f"{of_all}inactive_file 500000000\n{of_all}active_file 200000000\n"
    stat = f"sys/fs/cgroup/{limit}".rsplit("/", 1)[0] + "/memory.stat"
    files[stat] = f"anon 300000000\nslab 5\n{cache}"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("5\n")
    assert free_memory(tmp_path) == 8_192_000_000


def test_a_step_on_larger_films_takes_more_memory() -> None:
    assert training_memory(256) == 1_100_000_000 + 64 * 140_000_000
    assert training_memory(64) < training_memory(128) < training_memory(256)
