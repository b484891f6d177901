from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.track.base import Points, TrackedRun
from common.track.tensorboard import TensorBoard
from common.track.trackers import Trackers
from tests.support.waiting import wait_until


def tell(folder: Path, names: str, steps: range) -> None:
    run = TrackedRun("id", "name", folder, "step", {"lr": 0.1})
    trackers = Trackers(["tensorboard"], run, "metrics.jsonl")
    for step in steps:
        trackers.points("", step, {name: float(step) for name in names})
    trackers.close("finished")


def test_what_could_not_be_written_at_once_is_written_later_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed, done = TensorBoard.write, [0], list[tuple[str, int]]()

    def fail_twice(board: TensorBoard, points: Points) -> None:
        if (points.series, points.step) == ("test", 3) and failed[0] < 2:
            failed[0] += 1
            raise OSError("full")
        write(board, points)
        done.append((points.series, points.step))

    monkeypatch.setattr(TensorBoard, "write", fail_twice)
    monkeypatch.setattr("common.track.trackers.RETRY_SECONDS", 0.0)
    run = TrackedRun("id", "name", tmp_path, "step", {})
    trackers = Trackers(["tensorboard"], run, "metrics.jsonl")
    for step in range(1, 6):
        trackers.points("round", step, {"loss": float(step)})
        trackers.points("test", step, {"auc": float(step)})
        # What comes next is what makes it try again.
        wait_until(lambda step=step: ("round", step) in done)  # type: ignore[misc]
    wait_until(lambda: ("test", 5) in done)
    trackers.close("finished")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert failed == [2]
    for name in ("round/loss", "test/auc"):
        assert [event.step for event in board.Scalars(name)] == [1, 2, 3, 4, 5]


def test_a_step_that_was_cut_off_is_written_again_and_no_other(tmp_path: Path) -> None:
    tell(tmp_path, "ab", range(1, 4))
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        writer.add_scalar("a", 4.0, 4)  # and is killed before it writes b
    tell(tmp_path, "ab", range(1, 7))
    tell(tmp_path, "ab", range(1, 7))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in "ab":
        assert [event.step for event in board.Scalars(name)] == [1, 2, 3, 4, 5, 6]
    times = [event.wall_time for event in board.Scalars("a")]
    assert times == sorted(times)
    assert "lr" in board.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
