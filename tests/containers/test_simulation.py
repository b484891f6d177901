import os
import stat
from pathlib import Path

import pytest

from common.errors import BadInput
from common.shard import open_shard
from experiments.compose.simulation import (
    NAMES,
    OWNER,
    SYNTHETIC,
    SimulationSettings,
    films_to_pretrain_on,
    is_pretrained,
    make_hospitals,
    make_keys,
    own_folders,
)
from server.members.sites import read_sites
from tests.support.commands import run
from tests.support.shards import make_shard

SETTINGS = SimulationSettings(images=16, size=40, _cli_parse_args=[])


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    folder = tmp_path / "hospitals"
    folder.mkdir()
    return folder


def test_hospitals_are_made_once(hospitals: Path) -> None:
    make_hospitals(hospitals, SETTINGS)
    assert sorted(path.name for path in hospitals.iterdir()) == [
        *NAMES,
        "pretrain",
        SYNTHETIC,
        "test",
    ]
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
    assert sorted(path.name for path in hospitals.iterdir()) == [
        *NAMES,
        "pretrain",
        SYNTHETIC,
        "test",
    ]


def test_own_hospitals_are_left_alone(hospitals: Path) -> None:
    for name in (*NAMES, "test"):
        make_shard(hospitals / name, images=4)
    make_hospitals(hospitals, SETTINGS)
    assert sorted(path.name for path in hospitals.iterdir()) == [*NAMES, "test"]


def test_fewer_than_ten_hospitals_are_refused(hospitals: Path) -> None:
    for name in NAMES[:9]:
        make_shard(hospitals / name, images=4)
    (hospitals / "test").mkdir()
    with pytest.raises(BadInput, match=r"^hospital-09, test: no shard .* needs ten hospitals"):
        make_hospitals(hospitals, SETTINGS)


@pytest.mark.parametrize("cut", [False, True])
def test_other_settings_for_films_that_are_there_are_refused(hospitals: Path, cut: bool) -> None:
    make_hospitals(hospitals, SETTINGS)
    if cut:
        (hospitals / "synthetic").mkdir()
    for name, value in (("images", 17), ("size", 41), ("seed", 1)):
        other = SETTINGS.model_copy(update={name: value})
        expected = rf"^SYNTHETIC_{name.upper()} is {value}, .* HOSPITALS_DIR were made with "
        with pytest.raises(BadInput, match=expected):
            make_hospitals(hospitals, other)


def test_films_are_pretrained_on_where_they_are_and_no_others_later(tmp_path: Path) -> None:
    films, checkpoint = tmp_path / "films", tmp_path / "a.pt"
    with pytest.raises(BadInput, match="no films to pretrain on"):
        films_to_pretrain_on(films, checkpoint)
    make_shard(films)
    assert films_to_pretrain_on(films, checkpoint) == films
    assert not is_pretrained(checkpoint)
    options = ["--method", "rotation", "--epochs", "1", "--architecture", "densenet-tiny"]
    sizes = ["--batch-size", "8", "--image-size", "32"]
    made = run("flower-pretrain", "--data", films, "--out", checkpoint, *options, *sizes)
    assert made.returncode == 0, made.stderr
    assert films_to_pretrain_on(films, checkpoint) == films
    assert is_pretrained(checkpoint)
    make_shard(tmp_path / "pretrain", seed=1)
    with pytest.raises(BadInput, match=r"with other films .* docker compose down --volumes"):
        films_to_pretrain_on(tmp_path, checkpoint)


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
