"""``flower-watch`` as a process: beside a run, in a pipe, in a terminal, over HTTP."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from experiments.launch.local import free_port
from server.run.records import RunStatus
from server.run.snapshot import Snapshot, snapshot_of
from tests.support.commands import assert_one_line, run
from tests.support.recorded import record_run

WATCH = [sys.executable, "-c", "from server.watch.cli import main; main()"]
PLAIN = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def test_a_run_that_was_never_started_is_told_with_the_remedy(tmp_path: Path) -> None:
    result = run("flower-watch", tmp_path / "nothing")
    assert_one_line(result, 2, "config.json", "name the folder of a run that was started")
    (tmp_path / "rounds.jsonl").write_text("{")
    assert_one_line(run("flower-watch", tmp_path, "--once"), 2, "config.json")


def test_a_pipe_gets_one_picture_or_lines(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 13, "attem')  # as a server that is killed leaves it
    folder.log.close()
    once = run("flower-watch", folder.path, "--once", "--findings")
    assert once.returncode == 0, once.stderr
    assert "12 of 50 rounds" in once.stdout
    assert "Hernia" in once.stdout
    lines = run("flower-watch", folder.path)
    assert lines.returncode == 0, lines.stderr
    (line,) = lines.stdout.splitlines()
    assert line.endswith("stopped, 12 of 50 rounds are done")
    assert "\x1b" not in once.stdout + lines.stdout


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")


def watch(*arguments: object) -> subprocess.Popen[str]:
    given = [*WATCH, *map(str, arguments)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, text=True, env=PLAIN)


def test_lines_come_while_the_run_goes_on_and_end_with_it(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    with watch(folder.path) as process:
        said = lines_of(process)
        assert next(said).endswith("running, 12 of 50 rounds are done")
        for _ in range(3):
            next(said)
        folder.status.end(RunStatus(state="stopped", reason="SIGTERM", rounds=50))
        assert next(said).endswith("stopped: SIGTERM; 12 of 50 rounds, mean AUC 0.596")
        assert next(said, None) is None
        assert process.wait(10) == 0


def test_ctrl_c_ends_the_picture_quietly_and_leaves_it(tmp_path: Path) -> None:
    folder = record_run(tmp_path / "run")
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "30"}
    process = subprocess.Popen(
        [*WATCH, str(folder.path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    interrupted = False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(master, 1 << 16)
        except OSError:  # it has ended
            break
        if not interrupted and b"by round" in shown:
            process.send_signal(signal.SIGINT)
            interrupted = True
    os.close(master)
    assert process.wait(10) == 130
    text = shown.decode()
    before, _, after = text.rpartition("\x1b[?1049l")
    assert before.startswith("\x1b[?1049h")
    assert "12 of 50 rounds" in after
    assert not re.search("stopped by|Traceback|error", text)


@contextmanager
def answering(address: str, snapshot: Snapshot | str) -> Iterator[None]:
    """Answer as the server's metrics address does."""
    body = snapshot if isinstance(snapshot, str) else snapshot.model_dump_json()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/run.json" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    host, port = address.split(":")
    server = ThreadingHTTPServer((host, int(port)), Answers)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_is_watched_and_asked_again_while_it_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLAIN, "http_proxy", "http://127.0.0.1:1")  # not for this machine
    folder = record_run(tmp_path / "run")
    now, address = snapshot_of(folder.path), f"127.0.0.1:{free_port()}"
    with answering(address, now):
        process = watch("--server", address)
        said = lines_of(process)
        assert next(said).endswith("running, 12 of 50 rounds are done")
        for _ in range(3):
            next(said)
    with process:
        assert "Connection refused; is it the --metrics address of" in next(said)
        over = now.model_copy(update={"state": "finished", "live": None})
        with answering(address, over):
            assert [line[9:] for line in said] == [
                "finished; 12 of 50 rounds, mean AUC 0.596",
                "it answers again",
            ]
        assert process.wait(10) == 0


def test_an_address_that_is_no_servers_is_told_with_the_remedy() -> None:
    address = f"127.0.0.1:{free_port()}"
    remedy = "is it the --metrics address of a flower-server"
    refused = run("flower-watch", "--server", address, "--once")
    assert_one_line(refused, 2, address, "Connection refused", remedy)
    with answering(address, json.dumps({"some": "page"})):
        assert_one_line(run("flower-watch", "--server", address, "--once"), 2, "no run", remedy)
