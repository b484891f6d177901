import os
import stat
from pathlib import Path

import pytest

from common.data.shard import open_shard
from experiments.simulation import (
    NAMES,
    OWNER,
    SimulationSettings,
    make_hospitals,
    make_keys,
    own_folders,
)
from server.registry import read_sites

SETTINGS = SimulationSettings(images=16, size=40, _cli_parse_args=[])


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    folder = tmp_path / "hospitals"
    folder.mkdir()
    return folder


def test_hospitals_are_made_once(hospitals: Path) -> None:
    make_hospitals(hospitals, SETTINGS)
    assert sorted(path.name for path in hospitals.iterdir()) == [*NAMES, "pretrain", "test"]
    times = [path.stat().st_mtime_ns for path in sorted(hospitals.rglob("*"))]
    make_hospitals(hospitals, SETTINGS)
    assert [path.stat().st_mtime_ns for path in sorted(hospitals.rglob("*"))] == times
    assert open_shard(hospitals / "hospital-09").images.shape[1:] == (40, 40)


def test_what_was_cut_while_it_was_put_in_place_is_finished(hospitals: Path) -> None:
    make_hospitals(hospitals, SETTINGS)
    (hospitals / "synthetic").mkdir()
    for name in ("hospital-04", "test"):
        (hospitals / name).rename(hospitals / "synthetic" / name)
    make_hospitals(hospitals, SETTINGS)
    assert sorted(path.name for path in hospitals.iterdir()) == [*NAMES, "pretrain", "test"]


def test_own_hospitals_are_left_alone(hospitals: Path) -> None:
    (hospitals / "hospital-00").mkdir()
    make_hospitals(hospitals, SETTINGS)
    assert [path.name for path in hospitals.iterdir()] == ["hospital-00"]


def test_keys_are_made_once(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(keys)
    before = read_sites(keys / "server" / "sites.json")
    assert list(before) == NAMES
    make_keys(keys)
    assert read_sites(keys / "server" / "sites.json") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_folders_get_their_owner_and_a_persons_shards_keep_theirs(
    tmp_path: Path, hospitals: Path
) -> None:
    federation, runs = tmp_path / "federation", tmp_path / "runs"
    for folder in (federation, runs):
        folder.mkdir()
    own_folders(hospitals, federation, runs)
    given = [hospitals, federation, runs, *(runs / "sites" / name for name in NAMES)]
    assert {folder.stat().st_uid for folder in given} == {OWNER}
    assert all(stat.S_IMODE(folder.stat().st_mode) & 0o700 == 0o700 for folder in given)
    os.chown(hospitals, 0, 0)
    (hospitals / "hospital-00").mkdir()
    own_folders(hospitals, federation, runs)
    assert hospitals.stat().st_uid == 0
