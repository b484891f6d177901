"""Settings of the memory allocator, and free memory."""

import ctypes
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""From glibc's ``malloc.h``; see mallopt(3)."""

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


def free_memory() -> int:
    """Return the free memory of the machine or container, in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)
