"""What is noted of one federation in several stacks, and read again by round."""

from pathlib import Path

import pytest
import torch

from benchmarks.peers import task
from benchmarks.peers.__main__ import make_films
from common.shard import open_for_training


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = task.Settings(
        hospitals=2, films=3, rounds=3, epochs=1, batch=2, size=40, data=tmp_path / "data"
    )
    make_films(known)
    (tmp_path / task.SETTINGS).write_text(known.model_dump_json())
    monkeypatch.setenv(task.FOLDER, str(tmp_path))
    return tmp_path


class Small(torch.nn.Module):
    """Takes what the network takes and gives as many numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 14)

    def forward(self, films: torch.Tensor) -> torch.Tensor:
        return self.head(films.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def test_no_film_is_for_validation(run: Path) -> None:
    training, validation = open_for_training(run / "data" / "hospital-01").split(0)
    assert (len(training), len(validation)) == (3, 0)


def test_trainings_are_read_by_round(run: Path) -> None:
    model = Small()
    before = model.head.weight.detach().clone()
    for hospital in ("hospital-00", "hospital-01", "hospital-01", "hospital-00", "hospital-00"):
        assert task.train(model, hospital) > 0
    assert not torch.equal(model.head.weight, before)
    turns = task.trainings(run)  # the third round is not whole
    assert [{each.hospital for each in turn} for turn in turns] == [
        {"hospital-00", "hospital-01"}
    ] * 2
    assert max(each.start for each in turns[0]) < min(each.start for each in turns[1])
