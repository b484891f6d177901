from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from common.track.base import TrackedRun
from common.track.trackers import Trackers


def tell(folder: Path, names: str, steps: range) -> None:
    run = TrackedRun("id", "name", folder, "step", {"lr": 0.1})
    trackers = Trackers(["tensorboard"], run, "metrics.jsonl")
    for step in steps:
        trackers.points("", step, {name: float(step) for name in names})
    trackers.close("finished")


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
