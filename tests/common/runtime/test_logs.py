import json
import logging
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import pytest

from common.runtime.logs import FOR_PEOPLE, fields, log_to_file, log_to_stderr, print_last_line
from tests.support.commands import untouched_environment


@pytest.mark.fault(
    "a line of a log cannot be written, for instance because the disk is full",
    "it is not in the log; nothing else happens",
)
def test_a_line_that_cannot_be_written_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(False)
    log_to_file(Path("/dev/full"))
    log_to_file(tmp_path / "whole.log")
    logging.getLogger("server").info("all is well")
    assert (tmp_path / "whole.log").read_text().endswith(" all is well\n")
    shown = capsys.readouterr().err
    assert shown.endswith(" all is well\n")
    assert shown.count("\n") == 1  # and not a word about the line that could not be written


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_in_a_thread_is_a_line_without_its_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fail(message: str) -> None:
        raise ValueError(message)

    log_to_stderr(debug)
    for message in ("patient Jane Doe", "Cannot monitor channel state: Channel closed!"):
        thread = threading.Thread(target=fail, args=(message,))
        thread.start()
        thread.join()
    shown = capsys.readouterr().err
    assert ("Jane" in shown) == debug
    assert shown.count("a thread ended: ValueError") == (2 if debug else 1)


ENDS_A_CONNECTION = """
import common
from concurrent.futures import ThreadPoolExecutor
import grpc
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers([Echo()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
def requests():
    yield b"once"
    server.wait_for_termination()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    answers = channel.stream_stream("/test/echo")(requests())
    next(answers)
    server.stop(None).wait()
    print(answers.code().name)
"""


def test_grpc_writes_no_lines_of_its_own_when_a_server_ends() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ENDS_A_CONNECTION],
        capture_output=True,
        text=True,
        check=True,
        env=untouched_environment(),
    )
    assert (result.stdout, result.stderr) == ("UNAVAILABLE\n", "")


def test_a_line_for_machines_is_an_object_whatever_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(False, "json")
    log_to_file(tmp_path / "file.log")
    log = logging.getLogger("server.some")
    log.warning('  %s said\n"%s"', "a", "\N{BLACK STAR}", extra=fields("said", site="a", loss=None))
    log.info("a table's heading", extra=FOR_PEOPLE)
    try:
        raise ValueError
    except ValueError:
        log.exception("failed")
    print_last_line("flower-server", "error: no room")
    shown = capsys.readouterr().err
    said, failed, ended = map(json.loads, shown.splitlines())
    assert said["time"].endswith("+00:00")
    del said["time"]
    assert said == {
        "level": "warning",
        "logger": "server.some",
        "message": 'a said\n"\N{BLACK STAR}"',
        "event": "said",
        "site": "a",
    }
    assert failed["traceback"].endswith("ValueError")
    assert (ended["logger"], ended["message"]) == ("flower-server", "error: no room")
    assert shown.startswith((tmp_path / "file.log").read_text())
    log_to_stderr(False)
    print_last_line("flower-server", "error: no room")
    assert capsys.readouterr().err == "flower-server: error: no room\n"


def test_no_line_of_a_thread_follows_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, waits, free = threading.Event(), threading.Event(), threading.Event()

    class Slow(StringIO):
        def write(self, text: str) -> int:
            if text.endswith("first\n"):
                writing.set()
                assert free.wait(30)
            return super().write(text)

    class Waiting(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.msg == "second":
                waits.set()  # past the list of handlers, before this one's lock
            return True

    stderr, log = Slow(), logging.getLogger("server")
    monkeypatch.setattr(sys, "stderr", stderr)
    log_to_stderr(False)
    logging.getLogger().handlers[0].addFilter(Waiting())
    threads = [threading.Thread(target=log.info, args=(word,)) for word in ("first", "second")]
    threads[0].start()
    assert writing.wait(30)
    threads[1].start()
    assert waits.wait(30)
    threading.Timer(0.2, free.set).start()
    print_last_line("flower-server", "error: no room")
    for thread in threads:
        thread.join(30)
    assert stderr.getvalue().endswith("flower-server: error: no room\n")
