"""Settings of the memory allocator, and free memory."""

import ctypes
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""From glibc's ``malloc.h``; see mallopt(3)."""

BASE_MEMORY, IMAGE_MEMORY = 1_100_000_000, 140_000_000
"""Bytes to train DenseNet-121: fixed, and per 224 x 224 image; measured on a CPU in fp32, as the
peaks of processes that take two steps on 64 films of 72 and of 256 pixels."""

CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Folder, limit, use and what of it is the kernel's file cache, which gives way, of a container's
memory, in versions 2 and 1 of the kernel's control groups.

Version 1 has a huge number where there is no limit."""

LARGEST_KEPT = 32 << 20
"""Bytes; glibc's largest threshold. A packed DenseNet-121 is 28.3 MB."""


def keep_freed_memory() -> None:
    """Reuse freed memory for the next message, if the C library is glibc.

    By default glibc returns blocks of a message's size to the kernel at once, and the kernel zeroes
    every page of the next block. A round has dozens of messages; see
    benchmarks/federation_overhead.md.
    """
    keep_one_arena()  # other arenas cannot hold blocks of this size
    _mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_one_arena() -> None:
    """Let all threads use one memory arena, if the C library is glibc.

    By default glibc has up to eight arenas per core, and memory freed in one is not used in
    another. A server has a thread for each hospital; see benchmarks/server_memory.md.
    """
    _mallopt(M_ARENA_MAX, 1)


def _mallopt(parameter: int, value: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(parameter, value)


def training_memory(size: int) -> int:
    """Return the bytes that a step on 64 films takes on a CPU.

    Args:
        size: Pixels along each side of the films.
    """
    side = size * 7 // 8  # see common.images.crop_size
    return BASE_MEMORY + int(64 * IMAGE_MEMORY * (side / 224) ** 2)


def free_memory(root: Path = Path("/")) -> int:
    """Return the free memory of the machine, or of the container if it has less, in bytes.

    Args:
        root: Of the file system.
    """
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for folder, limit, used, caches in CGROUPS:
        group = root / folder
        try:
            most = (group / limit).read_text(encoding="ascii").strip()
            taken = int((group / used).read_text(encoding="ascii"))
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        cached = sum(int(line.split()[1]) for line in lines if line.split()[0] in caches)
        if most != "max":
            free = min(free, int(most) - taken + cached)
    return free
