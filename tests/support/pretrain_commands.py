"""``flower-pretrain`` as a process."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.launch.processes import Process
from tests.support.commands import run

TINY = ("--architecture", "densenet-tiny", "--batch-size", "8", "--image-size", "32")
SECONDS = 90


def pretrain(
    data: Path, out: Path, *more: object, method: str = "simclr"
) -> subprocess.CompletedProcess[str]:
    return run("flower-pretrain", *options(data, out, *more, method=method), timeout=SECONDS)


def options(data: Path, out: Path, *more: object, method: str = "simclr") -> list[str]:
    given = ["--data", data, "--out", out, "--method", method, *TINY, *more]
    return list(map(str, given))


def lines_of(out: Path) -> list[dict[str, Any]]:
    file = out.with_suffix(".run") / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def start(log: Path, *arguments: str, prelude: str = "") -> Process:
    return Process(f"{prelude}from pretrain.cli import main; main()", arguments, {}, (log, log))


def wait_until(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
