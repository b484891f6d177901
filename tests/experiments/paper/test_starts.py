"""No rate is chosen, and no table read, across two first models of one name."""

import shutil
from pathlib import Path

import pytest

from common.errors import BadInput
from common.runtime.files import append_json, sha256_of
from experiments.paper.cells import TrialLine
from experiments.paper.grid import Grid
from experiments.paper.results import Results
from experiments.paper.scales import SCALES, cells_of
from experiments.paper.starts import check_data, check_starts, data_sha256
from tests.support.shards import make_shard
from tests.support.trials import Instant, line

SMALL = SCALES["small"]
OLD, NEW = "0" * 64, "1" * 64


def lines(*hashes: str | None) -> list[TrialLine]:
    """MoCo-v2's tries of table 2, each from a file with one of these hashes."""
    cells = [cell for cell in cells_of(SMALL, "table2", {}) if cell.first_model == "mocov2"]
    return [
        line(cell, 0.6, test=0.6).model_copy(update={"first_model_sha256": sha256})
        for cell, sha256 in zip(cells, hashes, strict=True)
    ]


def test_trials_of_one_first_model_from_two_files_are_refused(tmp_path: Path) -> None:
    trials = lines(OLD, NEW, NEW)
    for trial in trials:
        append_json(tmp_path / "trials.jsonl", trial.model_dump(mode="json"))
    refused = rf"mocov2: {trials[0].cell.name} began from another file than the others .*remove"
    with pytest.raises(BadInput, match=refused):
        Results(SMALL, tmp_path, tmp_path / "data")
    instant = Instant(lambda _: 0.6)
    with pytest.raises(BadInput, match=refused):
        Grid(SMALL, ["table2"], tmp_path / "root", tmp_path, instant, ["mocov2"]).run()
    tiny = Grid(SCALES["tiny"], ["table1"], tmp_path / "root", tmp_path, instant, ["random"])
    tiny.run()  # the lines of another scale are not its own


def test_trials_on_other_films_are_refused(tmp_path: Path) -> None:
    for shard in ("spread/hospital-00", "spread/hospital-01", "test"):
        make_shard(tmp_path / shard, images=8)
    here = data_sha256(tmp_path, "spread")
    told, other, silent = (
        each.model_copy(update={"data_sha256": sha256})
        for each, sha256 in zip(lines(None, None, None), (here, OLD, None), strict=True)
    )
    check_data([told, silent], tmp_path)
    with pytest.raises(BadInput, match=f"{other.cell.name}: of other films than those in .*spread"):
        check_data([told, other, silent], tmp_path)
    shutil.rmtree(tmp_path / "test")
    make_shard(tmp_path / "test", images=9)
    with pytest.raises(BadInput, match=told.cell.name):
        check_data([told], tmp_path)


def test_trials_begun_from_another_file_than_there_is_now_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mocov2.pt"
    file.write_bytes(b"made anew")
    check_starts(lines(None, None, None), tmp_path)
    check_starts(lines(*[sha256_of(file)] * 3), tmp_path)
    trials = lines(OLD, OLD, sha256_of(file))
    names = ", ".join(trial.cell.name for trial in trials[:2])
    with pytest.raises(BadInput, match=rf"mocov2: {names} began from another file than .*\.pt"):
        check_starts(trials, tmp_path)
