import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.shard import Entry, create_shard, open_shard
from radiographs.sources.site import command as site
from radiographs.write.join import command
from radiographs.write.private import private_path, read_private
from tests.support.commands import assert_one_line, run
from tests.support.shards import make_shard


def export(folder: Path, films: dict[str, tuple[str, int]]) -> list[str]:
    """Write films and labels as a hospital exports them; return the options."""
    folder.mkdir()
    lines = ["image,patient,Finding Labels"]
    for name, (patient, level) in films.items():
        Image.fromarray(np.full((50, 50), level, np.uint8)).save(folder / name)
        lines.append(f"{name},{patient},{'Mass' if level % 2 else 'No Finding'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return [
        *("--images", str(folder), "--labels", str(folder / "labels.csv")),
        *("--size", "40", "--workers", "1", "--out", str(folder.with_suffix(".shard"))),
    ]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    site(export(tmp_path / "old", {f"{i}.png": (f"MRN-{i // 2}", 10 * i + 1) for i in range(10)}))
    return tmp_path / "old.shard"


@pytest.fixture
def new(tmp_path: Path, old: Path) -> Path:
    """Later films, of two known patients and of three others."""
    films = {f"{i}.png": (f"MRN-{i + 3}", 10 * i + 4) for i in range(5)}
    site([*export(tmp_path / "new", films), "--salt-from", str(private_path(old))])
    return tmp_path / "new.shard"


def test_later_films_are_joined_and_no_patient_changes_sides(
    old: Path, new: Path, tmp_path: Path
) -> None:
    result = run("flower-data", "join", old, new, "--out", tmp_path / "both")
    assert result.returncode == 0, result.stderr
    assert "15 images of 8 patients" in result.stdout
    both, shards = open_shard(tmp_path / "both"), [open_shard(old), open_shard(new)]
    assert np.array_equal(both.images, np.concatenate([shard.images for shard in shards]))
    assert np.array_equal(both.labelled(), np.concatenate([s.labelled() for s in shards]))
    entries = [entry for shard in shards for entry in shard.entries]
    assert [e.patient for e in both.entries] == [e.patient for e in entries]
    assert [e.image for e in both.entries] == [f"{i:06d}" for i in range(15)]
    for seed in range(20):
        sides = [shard.split(seed)[1] + first for shard, first in zip(shards, (0, 10), strict=True)]
        assert np.array_equal(both.split(seed)[1], np.concatenate(sides))


def test_the_private_files_are_joined(old: Path, new: Path, tmp_path: Path) -> None:
    command([str(old), str(new), "--out", str(tmp_path / "both")])
    path = private_path(tmp_path / "both")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    private = read_private(path)
    assert private.salt == read_private(private_path(old)).salt
    shard = open_shard(tmp_path / "both")
    for row, entry in enumerate(shard.entries):
        name = "old" if row < 10 else "new"
        prefix, _, file = private.files[entry.image].partition("/")
        assert prefix == f"{name}.shard"
        with Image.open(tmp_path / name / file) as picture:
            assert picture.getpixel((0, 0)) == shard.images[row, 0, 0]
    assert not {name for name in private.files.values() if "MRN" in name}


def test_shards_of_two_salts_are_refused(old: Path, tmp_path: Path) -> None:
    site(export(tmp_path / "new", {"a.png": ("MRN-1", 77)}))
    result = run("flower-data", "join", old, tmp_path / "new.shard", "--out", tmp_path / "both")
    assert_one_line(result, 2, "another salt than in ")
    assert f"--salt-from {private_path(old)}" in result.stderr
    private_path(tmp_path / "new.shard").unlink()
    with pytest.raises(BadInput, match=r"new\.shard\.private\.json: is missing, but .* put it"):
        command([str(old), str(tmp_path / "new.shard"), "--out", str(tmp_path / "both")])
    assert not (tmp_path / "both").exists()
    assert not private_path(tmp_path / "both").exists()


def test_a_list_of_another_shard_is_refused_until_the_right_one_is_back(
    old: Path, new: Path, tmp_path: Path
) -> None:
    both, later = tmp_path / "both", tmp_path / "later.shard"
    command([str(old), str(new), "--out", str(both)])
    salted = ("--salt-from", str(private_path(old)))
    site([*export(tmp_path / "later", {"a.png": ("MRN-1", 99)}), *salted])
    moved = both.rename(tmp_path / "moved")
    private_path(moved).write_bytes(private_path(old).read_bytes())
    with pytest.raises(BadInput, match=r"moved\.private\.json: is not that of this shard; put the"):
        command([str(moved), str(later), "--out", str(both)])
    private_path(moved).write_bytes(private_path(both).read_bytes())
    with pytest.raises(BadInput, match=r"both\.private\.json: is there already and lists other f"):
        command([str(moved), str(later), "--out", str(both)])
    assert read_private(private_path(both)).files == read_private(private_path(moved)).files
    private_path(both).unlink()
    command([str(moved), str(later), "--out", str(both)])
    assert len(open_shard(both)) == 16


def test_a_private_file_of_another_salt_is_not_replaced(
    old: Path, new: Path, tmp_path: Path
) -> None:
    site([*export(tmp_path / "both", {"a.png": ("MRN-1", 77)})[:-1], str(tmp_path / "both.shard")])
    (tmp_path / "both.shard").rename(tmp_path / "elsewhere")
    before = private_path(tmp_path / "both.shard").read_bytes()
    with pytest.raises(BadInput, match="has another salt; move it to its shard, or choose another"):
        command([str(old), str(new), "--out", str(tmp_path / "both.shard")])
    assert private_path(tmp_path / "both.shard").read_bytes() == before


def test_shards_that_were_joined_can_be_joined_again(old: Path, new: Path, tmp_path: Path) -> None:
    given = [str(old), str(new), "--out", str(tmp_path / "both")]
    command(given)
    (tmp_path / "both").rename(tmp_path / "lost")
    command(given)
    assert open_shard(tmp_path / "both").entries == open_shard(tmp_path / "lost").entries


def test_a_film_that_both_have_is_refused(old: Path, tmp_path: Path) -> None:
    films = {"a.png": ("MRN-0", 11), "b.png": ("MRN-4", 11), "c.png": ("MRN-0", 12)}
    site([*export(tmp_path / "new", films), "--salt-from", str(private_path(old))])
    with pytest.raises(BadInput, match=r"new\.shard: 1 of its 3 films are in .*old\.shard too"):
        command([str(old), str(tmp_path / "new.shard"), "--out", str(tmp_path / "both")])


def test_public_shards_keep_the_names_of_their_films(tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 3)):
        entries = [Entry(f"{i + shift}.png", f"p{i}", "train_val") for i in range(3)]
        with create_shard(
            tmp_path / name, entries=entries, labels=None, size=40, source=f"set {name}"
        ) as images:
            images[:] = np.arange(3)[:, None, None] + shift
    command([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both")])
    shard = open_shard(tmp_path / "both")
    assert [e.image for e in shard.entries] == [f"{i}.png" for i in range(6)]
    assert shard.labels is None
    assert shard.manifest.source == "set a, set b"
    assert not private_path(tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("size", "labelled", "why"),
    [
        (48, True, r"b: 48 pixels along each side, but .*a has 40; make one .* --size"),
        (40, False, r"b: has no labels, but another shard has"),
    ],
)
def test_shards_that_do_not_fit_are_refused(
    tmp_path: Path, size: int, labelled: bool, why: str
) -> None:
    make_shard(tmp_path / "a")
    make_shard(tmp_path / "b", size=size, labelled=labelled)
    with pytest.raises(BadInput, match=why):
        command([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both")])
    with pytest.raises(BadInput, match="two or more"):
        command([str(tmp_path / "a"), "--out", str(tmp_path / "both")])
