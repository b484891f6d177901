"""The worker of a tracker, with trackers that fail or hang."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from common.track import trackers
from common.track.base import End, Model, Points
from common.track.trackers import Worker, reason_of
from tests.support.waiting import wait_until


class Kept:
    """A tracker that keeps what it is sent, and has a past."""

    def __init__(self, past: dict[str, int] | None = None) -> None:
        self.past = past or {}
        self.points: list[tuple[str, int]] = []
        self.end: End | None = None

    def last(self, series: str) -> int:
        return self.past.get(series, -1)

    def write(self, points: Points) -> None:
        self.points.append((points.series, points.step))

    def register(self, model: Model) -> None:
        self.points.append((model.name, -1))

    def close(self, end: End) -> None:
        self.end = end


def worker_of(connect: Callable[[], Kept]) -> Worker:
    return Worker("It", connect, "rounds.jsonl")


def points(series: str, step: int) -> Points:
    return Points(series, step, {"auc": 0.5}, 0.0)


def test_what_a_tracker_has_already_is_left_out_for_each_series() -> None:
    tracker = Kept({"test": 2})
    worker = worker_of(lambda: tracker)
    for step in (1, 2, 3, 3):
        worker.write(points("test", step))
        worker.write(points("round", step))
    worker.leave(monotonic() + 10)
    assert tracker.points == [("round", 1), ("round", 2), ("test", 3), ("round", 3)]


@pytest.mark.fault(
    "a tracker takes connections and never answers",
    "the run is not held up, and ends without it after a limit",
)
def test_a_tracker_that_hangs_holds_nobody_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "MOST_WAITING", 5)
    called, never = Event(), Event()

    def hang() -> Kept:
        called.set()
        never.wait()
        return Kept()

    worker = worker_of(hang)
    assert called.wait(10)
    start = monotonic()
    for step in range(1000):
        worker.write(points("round", step))
    worker.leave(monotonic() + 0.2)
    assert monotonic() - start < 2
    assert len(worker._jobs) == 5
    assert "It lacks the end of the run; rounds.jsonl has it" in caplog.text
    never.set()


def test_a_tracker_that_fails_is_not_tried_at_every_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[float] = []

    def fail() -> Kept:
        tries.append(monotonic())
        raise ConnectionRefusedError(111, "Connection refused")

    worker = worker_of(fail)
    wait_until(lambda: "It cannot be written (Connection refused)" in caplog.text)
    for step in range(100):
        worker.write(points("round", step))
    worker.leave(monotonic() + 10)
    assert len(tries) == 3  # twice at the start, and once more at the end
    assert caplog.text.count("cannot be written") == 1


def test_a_reason_is_the_first_cause_and_tells_no_password() -> None:
    def failing(what: str) -> Exception:
        try:
            try:
                raise TimeoutError(110, "Connection timed out")
            except TimeoutError as first:
                raise ValueError(what) from first
        except ValueError as error:
            return error

    assert reason_of(failing("API request failed")) == "Connection timed out"
    assert reason_of(ValueError("no http://me:secret@host/x\nat all")) == "no http://host/x"
    assert reason_of(KeyError()) == "KeyError"


CLI = "import sys; sys.modules['torch'] = None; {}\nfrom {}.cli import main; main()"
SERVER = ["--init", "random", "--run", "r", "--insecure"]
PRETRAIN = ["--data", "d", "--method", "byol", "--out", "o.pt"]


@pytest.mark.parametrize(
    ("missing", "command", "arguments", "variables", "message"),
    [
        ("mlflow", "server", SERVER, {}, "mlflow: its client is not installed; pip install "
         "'fedcxr[mlflow]'"),
        ("wandb", "pretrain", PRETRAIN, {}, "pip install 'fedcxr[wandb]'"),
        ("", "server", [*SERVER, "--track", "mlflow"], {}, "MLFLOW_TRACKING_URI is not set"),
        ("", "server", [*SERVER, "--track", "wandb"], {}, "there is no API key"),
        ("", "server", [*SERVER, "--track", "tensorboard,comet"], {}, "--track"),
        ("", "pretrain", PRETRAIN, {"FLOWER_PRETRAIN_TRACK": "mlflow,mlflow"}, "there twice"),
    ],
)  # fmt: skip
def test_a_tracker_that_cannot_be_used_ends_the_command_early(
    missing: str, command: str, arguments: list[str], variables: dict[str, str], message: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    without = f"sys.modules['{missing}'] = None" if missing else ""
    more = ["--track", missing] if missing else []
    kept = {name: v for name, v in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))}
    result = subprocess.run(
        [sys.executable, "-c", CLI.format(without, command), *arguments, *more],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**kept, **variables, "HOME": str(tmp_path)},
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
