import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

STUCK = """
import ctypes, time
import common.runtime.guard
from common.runtime.cli import leave, run_command

common.runtime.guard.LEAVE_SECONDS = 0.2
common.runtime.guard.WORDS_SECONDS = 5.0

def command(arguments):
    guard = common.runtime.guard.Guard()
    guard.last_words = lambda stopped: {words}
    print("stuck", flush=True)
    lock = ctypes.create_string_buffer(256)
    while True:
        ctypes.CDLL(None).pthread_mutex_lock(lock)

leave(run_command("x", command, []))
"""


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("S")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("print(stopped, flush=True)", "{}\n"),
        ("print(stopped, flush=True) or time.sleep(600)", "{}\n"),
        ("1 / 0", ""),
    ],
    ids=["spoken", "hanging", "failing"],
)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["int", "term", "hup"],
)
def test_a_call_that_never_returns_does_not_keep_a_process(
    number: signal.Signals, code: int, words: str, said: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(words=words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # What nohup ignores, a process that it started ignores too.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        wait_until(lambda: sleeps(process.pid))  # in the call, not on its way there
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, output) == (code, said.format(number.name))
