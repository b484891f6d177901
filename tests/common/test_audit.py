import hashlib
import json
import os
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.audit import EMPTY, LONGEST, AuditLog, BrokenLog, Head, verify
from common.errors import BadInput
from tests.support.commands import assert_one_line, run

ROOT = Path(__file__).parents[2]

texts = st.text(st.characters(), max_size=20)  # lone surrogates, quotes and newlines among them
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = texts.filter(lambda name: name not in {"self", "number", "time", "event", "previous"})
events = st.tuples(texts, st.dictionaries(names, texts | values, max_size=3))

reuse_folder = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, count: int) -> list[bytes]:
    """Append lines to a log; return all of its lines."""
    with AuditLog(path) as log:
        for i in range(count):
            log.write("round", index=i)
    return path.read_bytes().splitlines(keepends=True)


def forged(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n"


def broken_line(path: Path, lines: list[bytes], head: Head) -> int:
    """Write the lines over a log; return the one that is named as broken."""
    path.write_bytes(b"".join(lines))
    with pytest.raises(BrokenLog) as caught:
        verify(path, head.sha256)
    assert str(caught.value).startswith(f"{path}, line {caught.value.line}: ")
    return caught.value.line


@reuse_folder
@given(first=st.lists(events, max_size=6), second=st.lists(events, max_size=6))
def test_whatever_is_written_is_read_and_unbroken(
    tmp_path: Path, first: list[tuple[str, Any]], second: list[tuple[str, Any]]
) -> None:
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    with AuditLog(path) as log:
        for event, fields in first:
            log.write(event, **fields)
        assert verify(path, log.head.sha256) == log.head
    with AuditLog(path) as log:
        log.write_all(second)
        assert verify(path, log.head.sha256) == log.head
    whole = path.read_bytes().splitlines()
    hashes = [EMPTY.sha256, *(hashlib.sha256(line).hexdigest() for line in whole)]
    assert log.head == (len(first) + len(second), hashes[-1])
    lines = [json.loads(line) for line in whole]
    assert [line["previous"] for line in lines] == hashes[:-1]
    for number, (line, (event, fields)) in enumerate(zip(lines, first + second, strict=True), 1):
        own = ("number", "time", "event", "previous")
        assert (line["number"], line["event"]) == (number, event)
        assert {name: value for name, value in line.items() if name not in own} == fields


@reuse_folder
@given(data=st.data())
def test_a_line_changed_moved_taken_out_or_put_in_is_found(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    lines = write(path, 5)
    head = verify(path)
    i = data.draw(st.integers(0, 4))

    taken_out = lines[:i] + lines[i + 1 :]
    assert broken_line(path, taken_out, head) == i + 1

    j = data.draw(st.integers(0, 4).filter(lambda j: j != i))
    moved = list(lines)
    moved[i], moved[j] = moved[j], moved[i]
    assert broken_line(path, moved, head) == min(i, j) + 1

    # The new line itself has the right number and hash: the one after it has not.
    put_in = [*lines[:i], forged(lines[i], event="forged"), *lines[i:]]
    assert broken_line(path, put_in, head) == i + 2

    position = data.draw(st.integers(0, len(lines[i]) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[i][position]))
    changed = list(lines)
    changed[i] = lines[i][:position] + bytes([other]) + lines[i][position + 1 :]
    assert broken_line(path, changed, head) in (i + 1, i + 2)
    # Without the hash of the last line, nothing comes after the change that could show it.
    renamed = [*lines[:i], forged(lines[i], event="forged"), *lines[i + 1 :]]
    assert broken_line(path, renamed, head) == i + 2


def test_only_a_head_shows_that_the_end_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write(path, 3)
    head = verify(path)
    write(path, 2)
    assert verify(path, head.sha256).number == 5
    path.write_bytes(b"".join(lines[:2]))
    assert verify(path).number == 2
    with pytest.raises(BrokenLog, match=f"no line has the hash {head.sha256}"):
        verify(path, head.sha256)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: b"nothing of the kind\n", "is not JSON"),
        (lambda _: b"\xff\n", "is not JSON"),
        (lambda _: b"[" * 100_000 + b"\n", "is not JSON"),
        (lambda _: b"[]\n", "is not a line of an audit log"),
        (lambda _: b'{"number": 2}\n', "is not a line of an audit log"),
        (lambda line: forged(line, number=7), "wrong number"),
        (lambda line: forged(line, previous=EMPTY.sha256), "hash of the line before"),
        (lambda line: line[:-1], "is torn"),
        (lambda line: line[:20], "is torn"),
        (lambda line: forged(line, event="x" * LONGEST), "is longer than"),
    ],
)
def test_the_error_says_what_is_wrong(
    tmp_path: Path, change: Callable[[bytes], bytes], problem: str
) -> None:
    path = tmp_path / "audit.jsonl"
    first, second = write(path, 2)
    path.write_bytes(first + change(second))
    with pytest.raises(BrokenLog, match=f"line 2: .*{problem}"):
        verify(path)


def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write(path, 3)
    for left in range(1, len(lines[2])):
        path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
        with AuditLog(path) as log:
            assert log.head.number == 2
            assert path.read_bytes() == b"".join(lines[:2])
            log.write("round", index=2)
        assert verify(path).number == 3


def test_a_broken_chain_is_neither_gone_on_with_nor_touched(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write(path, 3)
    path.write_bytes(lines[0] + lines[2] + b"torn")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(BrokenLog, match=r"line 2: .*another is begun"):
            AuditLog(path)
    assert path.read_bytes() == before


def test_memory_does_not_grow_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 1)
    os.truncate(path, 64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenLog, match="line 2: is longer"):
            verify(path)
        with pytest.raises(BrokenLog, match="line 2: is longer"):
            AuditLog(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == 64 << 20


def test_what_cannot_be_a_line_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        for name in ("number", "time", "previous"):
            with pytest.raises(ValueError, match=f"cannot be called {name}"):
                log.write("round", **{name: 1})
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.write("round", loss=float("nan"))
        room = LONGEST - len(write(tmp_path / "other", 1)[0]) - len(', "text": ""')
        with pytest.raises(ValueError, match=f"a line of {LONGEST + 1} bytes"):
            log.write("round", index=0, text="x" * (room + 1))
        with pytest.raises(ValueError, match="cannot be called time"):
            log.write_all([("round", {}), ("round", {"time": 1})])
        assert path.read_bytes() == b""
        log.write("round", index=0, text="x" * room)
    assert path.stat().st_size == LONGEST
    assert verify(path).number == 1


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    before = os.umask(0)
    try:
        write(path, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.write("round")
        with pytest.raises(BadInput, match="is writing it; end that one"):
            AuditLog(path)
        log.write("round")
    write(path, 1)
    assert verify(path).number == 3


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{tmp_path}: cannot be opened: Is a directory; see that"):
        AuditLog(tmp_path)
    with pytest.raises(BadInput, match="no/log: cannot be opened"):
        AuditLog(tmp_path / "no" / "log")


def test_threads_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    start = Barrier(2)

    def work(log: AuditLog, worker: int) -> None:
        start.wait()
        for i in range(100):
            log.write("reply", worker=worker, index=i)

    with AuditLog(path) as log:
        threads = [Thread(target=work, args=(log, worker)) for worker in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verify(path) == log.head
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for worker in range(2):
        assert [line["index"] for line in lines if line["worker"] == worker] == [*range(100)]


def test_a_stop_in_the_middle_of_a_line_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.write("round", index=0)
        with monkeypatch.context() as patch:
            patch.setattr("common.audit.os.fsync", stop)
            with pytest.raises(KeyboardInterrupt):
                log.write("round", index=1)
        assert verify(path) == log.head == Head(1, log.head.sha256)
        log.write("stopped")
        assert verify(path) == log.head == Head(2, log.head.sha256)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from common.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
while True:
    log.write("round", text="x" * 5000)
    print(log.head.number, flush=True)
"""


def test_a_kill_at_any_instant_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    rng = np.random.default_rng(0)
    before = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) == before + 1
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
            said = [int(line) for line in child.stdout.read().splitlines() if line]
        with AuditLog(path) as log:
            # A line may have been written but not said.
            assert log.head.number - (said[-1] if said else before + 1) in (0, 1)
            log.write("resumed")
            before = log.head.number
        assert verify(path, log.head.sha256) == log.head


FILL = """
import resource, sys
from pathlib import Path
from common.audit import AuditLog, verify
path = Path(sys.argv[1])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with AuditLog(path) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), most))
    try:
        while True:
            log.write("round")
    except OSError as error:
        print(error.strerror)
    assert verify(path) == log.head
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    log.write("round")
    assert verify(path) == log.head
"""


# The first line has 153 bytes.
@pytest.mark.parametrize("room", [0, 1, 152, 153, 1000])
def test_a_full_disk_leaves_an_unbroken_log(tmp_path: Path, room: int) -> None:
    path = tmp_path / "audit.jsonl"
    child = subprocess.run(
        [sys.executable, "-c", FILL, str(path), str(room)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "File too large\n"
    lines = path.read_bytes().splitlines(keepends=True)
    assert verify(path).number == len(lines) == room // len(lines[0]) + 1


def test_the_command_checks_several_logs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    lines = write(one, 3)
    write(other, 1)
    heads = [verify(one).sha256, verify(other).sha256]
    result = run("flower-audit", "verify", one, other)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"{one}: 3 lines, unbroken, last {heads[0]}\n{other}: 1 lines, unbroken, last {heads[1]}\n"
    )
    assert run("flower-audit", "verify", one, "--head", heads[0]).returncode == 0
    one.write_bytes(b"".join(lines[:2]))
    assert_one_line(
        run("flower-audit", "verify", one, "--head", heads[0]), 2, f"{one}, line 3: no line has"
    )
    one.write_bytes(b"".join(lines[1:]))
    assert_one_line(
        run("flower-audit", "verify", other, one), 2, f"{one}, line 1: ", "wrong number"
    )


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["forge"], ["'forge' is not a command", "verify"]),
        (["verify"], ["LOGS", "required"]),
        (["verify", "no-such-log"], ["no-such-log: cannot be read"]),
        (["verify", "x", "--head", "abc"], ["--head", "'abc'"]),
        (["verify", "x", "y", "--head", EMPTY.sha256], ["--head goes with one log"]),
    ],
)
def test_what_the_command_cannot_use_is_one_line_and_code_2(
    arguments: list[str], fragments: list[str]
) -> None:
    assert_one_line(run("flower-audit", *arguments), 2, *fragments)
