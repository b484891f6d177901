"""The speed of making and reading a shard, compared with the unavoidable work.

``python -m benchmarks.data_pipeline`` draws films, converts them, reads them, and prints

- writing: images/s of ``convert``, compared with only decoding and resizing in as many processes,
  for films like ChestX-ray14's and for smaller ones like CheXpert-v1.0-small's;
- memory: the peak of the writing processes, for two numbers of images;
- reading: images/s of a shuffled epoch in batches of 64, compared with copying the same bytes in
  order.

Rounds alternate between the two sides of a ratio; results are medians.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from common.findings import FINDINGS
from common.seeds import generator
from common.shard import Entry, create_shard, open_shard
from radiographs.phantom.chest import draw_anatomy, draw_scanner
from radiographs.phantom.findings import draw_film
from radiographs.read.decode import decode
from radiographs.write.convert import Part, convert
from radiographs.write.parallel import cores, in_order

KINDS = {
    "1024 x 1024 PNG": (1500, (1024, 1024), "png"),
    "390 x 320 JPEG": (10_000, (390, 320), "jpg"),
}
DISTINCT = 30
SIZE = 256
ROUNDS = 5
SHARD, BATCH = 20_000, 64


def draw_files(folder: Path, count: int, sides: tuple[int, int], suffix: str) -> list[Path]:
    """Write image files: many copies of a few pictures."""
    folder.mkdir()
    files = [folder / f"{i:06d}.{suffix}" for i in range(count)]
    for i, file in enumerate(files):
        if i >= DISTINCT:
            file.write_bytes(files[i % DISTINCT].read_bytes())
            continue
        rng = generator(i, "film")
        film = draw_film(
            max(sides),
            draw_anatomy(rng),
            draw_scanner(rng),
            np.zeros(len(FINDINGS), np.uint8),
            rng,
        )
        Image.fromarray(film).resize(sides).save(file)
    return files


def decode_alone(file: Path) -> int:
    """Decode and resize a file, and drop the result; runs in a worker process."""
    return int(decode(file, SIZE)[0, 0])


def write(files: list[Path], out: Path) -> None:
    """Convert files into a shard."""
    entries = [Entry(file.name, file.stem, "train") for file in files]
    convert(out, [Part("", files, entries, None)], size=SIZE, source="benchmark", workers=0)


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of ``work`` in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_writing(name: str, files: list[Path], folder: Path) -> None:
    """Print the rates of writing and of decoding alone."""
    floor, ours = [], []
    for _ in range(ROUNDS):
        floor.append(seconds(lambda: list(in_order(decode_alone, files, 0))))
        ours.append(seconds(partial(write, files, folder / "w")))
        shutil.rmtree(folder / "w")
    ratios = [f / o for f, o in zip(floor, ours, strict=True)]
    print(f"{name}, {len(files)} files, {cores()} cores")
    print(f"decode + resize alone   {len(files) / statistics.median(floor):8.0f} images/s")
    print(f"a shard written         {len(files) / statistics.median(ours):8.0f} images/s")
    print(
        f"ratio of the rates      {statistics.median(ratios):8.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def peak_of(folder: Path, count: int) -> tuple[float, float]:
    """Return the peak memory in MB of a process that converts files, and of its largest worker."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.data_pipeline import write, peaks;"
        f"files = sorted(Path({str(folder)!r}).glob('*.png')) * 4;"
        f"write(files[:{count}], Path({str(folder.with_name(f'm{count}'))!r}));"
        "print(*peaks())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    parent, child = map(float, result.stdout.split())
    return parent, child


def peaks() -> tuple[float, float]:
    """Return the peak resident memory of this process and of its largest child, in MB."""
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    )


def compare_memory(folder: Path) -> None:
    """Print the peak memory for two numbers of images."""
    for count in (750, 3000):
        parent, child = peak_of(folder, count)
        print(f"peak memory, {count:>5} images  {parent:6.0f} MB, largest worker {child:.0f} MB")


def compare_reading(folder: Path) -> None:
    """Print the rates of a shuffled epoch and of copying the images in order."""
    entries = [Entry(str(i), str(i), "train") for i in range(SHARD)]
    with create_shard(folder / "r", entries=entries, labels=None, size=SIZE, source="x") as images:
        images[:] = np.arange(SHARD, dtype=np.uint8)[:, None, None]
    start = time.perf_counter()
    shard = open_shard(folder / "r")
    print(f"opened with all checks  {time.perf_counter() - start:8.1f} s for {SHARD} images")

    def in_turn() -> None:
        for first in range(0, SHARD, BATCH):
            np.array(shard.images[first : first + BATCH])

    def shuffled() -> None:
        order = generator(0, "order").permutation(SHARD)
        for chosen in np.array_split(order, SHARD // BATCH):
            shard.images[chosen]

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    in_turn()
    floor, ours = [], []
    for _ in range(ROUNDS):
        floor.append(seconds(in_turn))
        ours.append(seconds(shuffled))
    print(f"copied in order         {SHARD / statistics.median(floor):8.0f} images/s")
    print(f"a shuffled epoch        {SHARD / statistics.median(ours):8.0f} images/s, one core")
    print(f"ratio of the rates      {statistics.median(floor) / statistics.median(ours):8.2f}")


def main() -> None:
    """Run all three measurements."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for i, (name, kind) in enumerate(KINDS.items()):
            compare_writing(name, draw_files(folder / f"films{i}", *kind), folder)
        compare_memory(folder / "films0")
        compare_reading(folder)


if __name__ == "__main__":
    main()
