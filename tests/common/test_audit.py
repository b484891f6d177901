import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audit import START, AuditLog, Broken, verify
from common.errors import BadInput
from tests.helpers import assert_one_line, run

EVENTS = st.lists(
    st.tuples(
        st.text(max_size=20), st.dictionaries(st.sampled_from("abc"), st.text() | st.integers())
    ),
    min_size=1,
    max_size=8,
)


def written(path: Path, events: list[tuple[str, dict[str, Any]]]) -> list[bytes]:
    path.unlink(missing_ok=True)
    log = AuditLog(path)
    for event, fields in events:
        log.write(event, **fields)
    log.close()
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@settings(deadline=None, max_examples=30)
@given(EVENTS, EVENTS)
def test_a_log_that_is_opened_again_is_one_chain(path: Path, first: Any, more: Any) -> None:
    written(path, first)
    log = AuditLog(path)
    for event, fields in more:
        log.write(event, **fields)
    log.close()
    number, last = verify(path)
    assert number == len(first) + len(more)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["event"] for line in lines] == [event for event, _ in [*first, *more]]
    assert lines[0]["previous"] == START
    assert last != lines[-1]["previous"]
    assert path.stat().st_mode & 0o777 == 0o600


@settings(deadline=None, max_examples=60)
@given(EVENTS.filter(lambda events: len(events) > 1), st.data())
def test_whatever_is_done_to_a_line_is_found(path: Path, events: Any, data: Any) -> None:
    lines = written(path, events)
    index = data.draw(st.integers(0, len(lines) - 2))  # of the last one nothing follows
    match data.draw(st.sampled_from(["remove", "swap", "repeat", "edit"])):
        case "remove":
            changed = [*lines[:index], *lines[index + 1 :]]
        case "swap":
            changed = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]
        case "repeat":
            changed = [*lines[: index + 1], lines[index], *lines[index + 1 :]]
        case _:
            content = json.loads(lines[index])
            content["event"] += "!"
            edited = json.dumps(content).encode() + b"\n"
            changed = [*lines[:index], edited, *lines[index + 1 :]]
    path.write_bytes(b"".join(changed))
    with pytest.raises(Broken, match=f"line ({index + 1}|{index + 2}) does not follow"):
        verify(path)
    with pytest.raises(Broken):
        AuditLog(path)


@pytest.mark.parametrize("end", [b'{"number": 3', b"{}", b"\xff\xfe"])
def test_a_line_that_was_cut_off_is_removed_when_the_log_goes_on(path: Path, end: bytes) -> None:
    whole = b"".join(written(path, [("a", {}), ("b", {})]))
    path.write_bytes(whole + end)
    with pytest.raises(Broken, match="line 3"):
        verify(path)
    AuditLog(path).close()
    assert path.read_bytes() == whole


WRITER = """
import sys
from pathlib import Path
from common.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
for number in range(10**6):
    log.write("event", text="x" * (number % 5000))
"""


def test_a_writer_that_is_killed_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    path, draws, before = tmp_path / "audit.jsonl", np.random.default_rng(0), 0
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        size = path.stat().st_size if path.exists() else 0
        deadline = time.monotonic() + 30
        target = size + int(draws.integers(1, 200_000))
        while not path.exists() or path.stat().st_size < target:
            assert time.monotonic() < deadline
        child.send_signal(signal.SIGKILL)
        child.wait()
        log = AuditLog(path)
        log.write("after")
        log.close()
        number, _ = verify(path)
        assert number > before
        before = number


def test_threads_do_not_break_the_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    threads = [
        Thread(target=lambda: [log.write("event") for _ in range(50)])  # type: ignore[func-returns-value]
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(tmp_path / "audit.jsonl")[0] == 200


def test_only_one_process_writes(tmp_path: Path) -> None:
    first = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(BadInput, match="another process is writing it"):
        AuditLog(tmp_path / "audit.jsonl")
    first.close()
    AuditLog(tmp_path / "audit.jsonl").close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    child = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OSError" in child.stderr
    number, _ = verify(path)
    assert number > 3
    assert path.stat().st_size <= 10_000


def test_the_command_names_the_file_and_the_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    written(good, [("a", {}), ("b", {})])
    lines = written(bad, [("a", {}), ("b", {}), ("c", {})])
    last = verify(good)[1]
    result = run("flower-audit", "verify", good, "--head", last)
    assert (result.returncode, result.stdout) == (
        0,
        f"{good}: 2 lines, unbroken, the last one's hash {last}\n",
    )
    bad.write_bytes(lines[0] + lines[2])
    assert_one_line(run("flower-audit", "verify", good, bad), 2, "bad.jsonl: line 2 does not")
    good.write_bytes(good.read_bytes().splitlines(keepends=True)[0])
    cut = run("flower-audit", "verify", good, "--head", last)
    assert_one_line(cut, 2, "no line has the hash", "the end was cut off")
    assert_one_line(run("flower-audit", "verify"), 2, "FILES")
    assert_one_line(run("flower-audit", "verify", tmp_path / "none"), 2, "No such file")
    assert_one_line(run("flower-audit", "check"), 2, "'check' is not a command")
    assert "usage" in run("flower-audit", "--help").stdout
