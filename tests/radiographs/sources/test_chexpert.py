from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.shard import open_shard
from radiographs.sources.chexpert import command, read_films

FILMS = [
    ("patient00001/study1/view1_frontal.jpg", "Frontal"),
    ("patient00001/study1/view2_lateral.jpg", "Lateral"),
    ("patient00002/study3/view1_frontal.jpg", "Frontal"),
]
HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia\n"


@pytest.fixture(params=["CheXpert-v1.0", "CheXpert-v1.0-small", "renamed"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / str(request.param)
    published = "CheXpert-v1.0-small" if request.param == "renamed" else request.param
    for split, shift in (("train", 0), ("valid", 100)):
        lines = [HEADER]
        for i, (name, view) in enumerate(FILMS):
            file = root / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((70, 50), 20 * i + shift, np.uint8)).save(file, quality=100)
            lines.append(f"{published}/{split}/{name},Female,68,{view},AP,1.0,nonsense\n")
        (root / f"{split}.csv").write_text("".join(lines))
    return root


def test_frontals_and_laterals_become_a_shard_without_labels(root: Path, tmp_path: Path) -> None:
    command(["--root", str(root), "--out", str(tmp_path / "out"), "--size", "40"])
    shard = open_shard(tmp_path / "out")
    assert shard.labels is None
    assert shard.manifest.counts is None
    assert [entry.image for entry in shard.entries] == [f"train/{name}" for name, _ in FILMS]
    assert [entry.patient for entry in shard.entries] == ["patient00001"] * 2 + ["patient00002"]
    assert [int(image.mean()) for image in shard.images] == [0, 20, 40]


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (["--views", "frontal"], [0, 40]),
        (["--views", "lateral"], [20]),
        (["--split", "valid"], [100, 120, 140]),
        (["--split", "both", "--views", "lateral"], [20, 120]),
    ],
)
def test_views_and_split_are_chosen(
    root: Path, tmp_path: Path, options: list[str], levels: list[int]
) -> None:
    command(["--root", str(root), "--out", str(tmp_path / "out"), "--size", "40", *options])
    shard = open_shard(tmp_path / "out")
    assert [int(image.mean()) for image in shard.images] == levels
    assert [e.split for e in shard.entries] == [e.image.split("/")[0] for e in shard.entries]


def test_a_missing_film_is_an_error_unless_allowed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train" / FILMS[1][0]).unlink()
    given = ["--root", str(root), "--out", str(tmp_path / "out"), "--size", "40"]
    with pytest.raises(BadInput, match=r"1 of 3 .*view2_lateral.*--allow-missing"):
        command(given)
    command([*given, "--allow-missing"])
    assert len(open_shard(tmp_path / "out")) == 2
    assert "left out: 1 of 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("CheXpert-v1.0/train/a/b.jpg,F,6,Frontal,AP,1,0", "Path is"),
        ("CheXpert-v1.0/test/p/s/b.jpg,F,6,Frontal,AP,1,0", "Path is"),
        ("x/train/../../b.jpg,F,6,Frontal,AP,1,0", "Path is"),
        ("x/train/p/s/b.jpg,F,6,Oblique,AP,1,0", "Frontal/Lateral is 'oblique'"),
        ("x/train/p/s/b.jpg,F,6,Frontal,AP,1,0\ny/train/p/s/b.jpg,F,6,Frontal,AP,1,0", "line 2"),
    ],
)
def test_a_line_that_is_not_as_expected_is_refused(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "train.csv").write_text(HEADER + line + "\n")
    with pytest.raises(BadInput, match=f"train.csv, line .*{why}"):
        read_films(tmp_path, "train")


def test_the_wrong_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.csv: cannot be read: No such file"):
        command(["--root", str(tmp_path), "--out", str(tmp_path / "out")])
