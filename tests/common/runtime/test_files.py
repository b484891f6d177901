import errno
import json
import os
from itertools import count
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import pytest

from common.runtime.files import append_json, read_lines, remedy, write_whole
from tests.support.disks import needs_root, small_disk


@needs_root
def test_a_line_for_which_there_is_no_room_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        path = disk.path / "lines.jsonl"
        (disk.path / "reserve").write_bytes(bytes(8192))

        def fill() -> None:
            for number in range(1000):
                append_json(path, {"number": number, "padding": "x" * 300})

        with pytest.raises(OSError, match="No space left"):
            fill()
        written = len(read_lines(path))
        assert written
        (disk.path / "reserve").unlink()
        append_json(path, {"number": written})
        assert [line["number"] for line in read_lines(path)] == list(range(written + 1))


def test_a_file_that_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def full(_file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in (path, tmp_path / "no" / "file"):
        with pytest.raises(OSError, match=r"No space|No such file") as caught:
            write_whole(place, full)
        assert caught.value.filename == str(place)


def test_lines_of_several_threads_are_whole_though_some_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    calls = count()
    sync = os.fsync

    def fails_at_times(descriptor: int) -> None:
        sync(descriptor)
        if next(calls) % 3 == 0:
            raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails_at_times)
    written: list[list[int]] = []

    def append(thread: int) -> None:
        for number in range(50):
            try:
                append_json(path, {"line": [thread, number]})
            except OSError:
                continue
            written.append([thread, number])

    threads = [Thread(target=append, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line)["line"] for line in path.read_text().splitlines()]
    assert 0 < len(lines) < 200
    assert sorted(lines) == sorted(written)


def test_the_remedy_names_the_user_that_may_not() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    assert remedy(denied, "ask for it") == f"the user {os.geteuid()} has to be allowed to: chown it"
    assert remedy(FileNotFoundError(errno.ENOENT, "No such file"), "ask for it") == "ask for it"
