import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.shard import Bytes, Entry, Manifest, open_shard
from radiographs.write.convert import Part, convert
from tests.support.commands import assert_one_line
from tests.support.commands import run as run_command
from tests.support.disks import needs_root, small_disk


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "films"
    folder.mkdir()
    files = [folder / f"{i:03d}.png" for i in range(30)]
    for i, file in enumerate(files):
        Image.fromarray(np.full((50, 50), i, np.uint8)).save(file)
    return files


def part(files: list[Path], name: str = "") -> Part:
    entries = [Entry(file.stem, f"p{i // 2}", "train") for i, file in enumerate(files)]
    labels = np.array([[i % 2] * 14 for i in range(len(files))], np.uint8)
    return Part(name, files, entries, labels)


def run(out: Path, *parts: Part, workers: int = 1, leave_out: bool = False) -> dict[Path, str]:
    return convert(out, parts, size=40, source="x", workers=workers, leave_out=leave_out)


def levels(path: Path) -> list[int]:
    images = open_shard(path).images
    assert (images == images[:, :1, :1]).all()
    return [int(image[0, 0]) for image in images]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_number_of_workers_gives_the_same_shards(
    tmp_path: Path, files: list[Path], workers: int
) -> None:
    run(tmp_path / "out", part(files[:20], "a"), part(files[20:], "b"), workers=workers)
    assert levels(tmp_path / "out" / "a") == list(range(20))
    assert levels(tmp_path / "out" / "b") == list(range(20, 30))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == [
        "images.npy", "index.csv", "labels.npy", "manifest.json",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "out"]


def test_all_unreadable_files_are_told_at_once_and_the_rest_is_kept(
    tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = files[7].read_bytes()
    for broken in (3, 7, 9, 11):
        files[broken].write_bytes(good[:-20])
    with pytest.raises(BadInput, match=r"4 of 30 images .*003\.png: .*007\.png: .*009\.png"):
        run(tmp_path / "out", part(files))
    assert not (tmp_path / "out").exists()
    for broken in (3, 7, 9, 11):
        files[broken].write_bytes(good)
    run(tmp_path / "out", part(files))
    assert "continuing: 26 of 30 images are done" in capsys.readouterr().err
    assert levels(tmp_path / "out") == [7 if i in (3, 9, 11) else i for i in range(30)]


def test_a_file_that_changed_in_between_is_read_again(tmp_path: Path, files: list[Path]) -> None:
    whole = files[29].read_bytes()
    files[29].write_bytes(b"")
    with pytest.raises(BadInput, match="1 of 30"):
        run(tmp_path / "out", part(files))
    files[29].write_bytes(whole)
    Image.fromarray(np.full((50, 50), 99, np.uint8)).save(files[4])
    run(tmp_path / "out", part(files))
    assert levels(tmp_path / "out")[3:6] == [3, 99, 5]


def test_unreadable_files_are_left_out_when_asked(tmp_path: Path, files: list[Path]) -> None:
    files[0].write_bytes(b"")
    files[5].unlink()
    problems = run(tmp_path / "out", part(files), leave_out=True)
    assert problems == {files[0]: "neither PNG nor JPEG", files[5]: "No such file or directory"}
    shard = open_shard(tmp_path / "out")
    kept = [i for i in range(30) if i not in (0, 5)]
    assert levels(tmp_path / "out") == kept
    assert [entry.image for entry in shard.entries] == [f"{i:03d}" for i in kept]
    assert shard.labelled()[:, 0].tolist() == [i % 2 for i in kept]


@needs_root
def test_leaving_out_takes_no_room(tmp_path: Path, files: list[Path]) -> None:
    files[0].write_bytes(b"")
    with small_disk(tmp_path / "disk", "112k") as disk:  # 48 kB of pixels, but not twice
        run(disk.path / "out", part(files), leave_out=True)
        assert levels(disk.path / "out") == list(range(1, 30))


@needs_root
def test_a_disk_too_small_for_synthetic_films_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        given = ("--out", disk.path / "s", "--images", 40, "--size", 64, "--hospitals", 2)
        result = run_command("flower-data", "synthetic", *given)
        assert_one_line(result, 2, "bytes are needed here: No space left on device")
        assert not list(disk.path.iterdir())


def test_no_readable_file_is_an_error(tmp_path: Path, files: list[Path]) -> None:
    for file in files:
        file.write_bytes(b"")
    said = f"{len(files)} of {len(files)} images cannot be read, first {files[0]}: "
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", part(files), leave_out=True)


def test_an_unfinished_result_of_other_options_is_not_gone_on_with(
    tmp_path: Path, files: list[Path]
) -> None:
    whole = files[2].read_bytes()
    files[2].write_bytes(b"")
    with pytest.raises(BadInput, match="1 of 30"):
        run(tmp_path / "out", part(files))
    files[2].write_bytes(whole)
    with pytest.raises(BadInput, match=r"\.out\.partial: was begun with other options"):
        convert(tmp_path / "out", [part(files)], size=48, source="x", workers=1)
    run(tmp_path / "out", part(files))


def test_two_processes_do_not_write_the_same(tmp_path: Path, files: list[Path]) -> None:
    def meanwhile(_file: Path, size: int) -> Bytes:
        with pytest.raises(BadInput, match="another process is writing it"):
            run(tmp_path / "out", part(files))
        return np.zeros((size, size), np.uint8)

    convert(tmp_path / "out", [part(files[:1])], size=40, source="x", workers=1, read=meanwhile)


def test_the_disk_space_is_taken_before_the_first_film(tmp_path: Path, files: list[Path]) -> None:
    def read(_file: Path, size: int) -> Bytes:
        images = tmp_path / ".out.partial" / "images.npy"
        assert images.stat().st_blocks * 512 >= 30 * size * size
        return np.zeros((size, size), np.uint8)

    convert(tmp_path / "out", [part(files)], size=40, source="x", workers=1, read=read)


def test_too_small_a_disk_is_told_before_anything_is_decoded(
    tmp_path: Path, files: list[Path]
) -> None:
    for file in files:
        file.write_bytes(b"")  # which would be told first if it were decoded
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from pathlib import Path; from tests.radiographs.write.test_convert import part, run;"
        f"run(Path({str(tmp_path / 'out')!r}), part([Path(p) for p in {list(map(str, files))!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                            check=False)  # fmt: skip
    assert "BadInput" in result.stderr
    assert "48000 bytes are needed here: File too large" in result.stderr


COMMAND = """
from radiographs.cli import main
main()
"""

SLOW = """
import time
import radiographs.write.convert
radiographs.write.convert.SYNC_SECONDS = 0.0
class Slow(radiographs.write.convert.tqdm):
    def update(self, n=1):
        time.sleep(0.01 if self.n < 150 else 0.1)  # so that it can be ended before it is done
        return super().update(n)
radiographs.write.convert.tqdm = Slow
"""


def start(root: Path, out: Path, code: str = COMMAND) -> "subprocess.Popen[str]":
    names = {"metadata": "meta.csv", "train-list": "train.txt", "test-list": "test.txt"}
    given = [f"--{option}={root / name}" for option, name in {**names, "images": "films"}.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-c", code, "chestxray14", *given, f"--out={out}"),
            *("--hospitals=3", "--workers=2", "--size=64"),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def manifests(folder: Path) -> dict[str, Manifest]:
    return {path.name: open_shard(path).manifest for path in folder.iterdir()}


def rows_done(out: Path) -> int:
    total = 0
    for file in out.with_name(f".{out.name}.partial").glob("*/done.npy"):
        try:
            total += int((np.load(file)[:, 1] > 0).sum())
        except (OSError, ValueError):
            continue
    return total


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),  # as SIGTERM, but for its number
    ],
)
def test_a_conversion_that_is_ended_goes_on_where_it_was(tmp_path: Path, number: int) -> None:
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (600, 600), np.uint8) for _ in range(10)]
    names = [f"{i:08d}_000.png" for i in range(240)]
    for i, name in enumerate(names):
        target = tmp_path / "films" / name
        if i < len(pictures):
            Image.fromarray(pictures[i]).save(target, compress_level=1)
        else:
            target.write_bytes((tmp_path / "films" / names[i % 10]).read_bytes())
    lines = [f"{name},{'Mass' if i % 2 else 'No Finding'},{i}" for i, name in enumerate(names)]
    (tmp_path / "meta.csv").write_text("\n".join(["Image Index,Finding Labels,Patient ID", *lines]))
    (tmp_path / "train.txt").write_text("\n".join(names[:200]))
    (tmp_path / "test.txt").write_text("\n".join(names[200:]))
    out = tmp_path / "out"
    reached = 0
    for aim in (30, 120):
        process = start(tmp_path, out, SLOW + COMMAND)
        deadline = time.monotonic() + 60
        least = max(aim, reached + 1)
        while rows_done(out) < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert not out.exists()
        assert not reached or f"continuing: {reached} of 240 images are done" in errors
        reached = rows_done(out)
        assert aim <= reached < 240
    process = start(tmp_path, out)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"continuing: {reached} of 240 images are done" in errors
    other = start(tmp_path, tmp_path / "undisturbed")
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert manifests(out) == manifests(tmp_path / "undisturbed")
    assert not list(tmp_path.glob(".*"))
