import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.chestxray14 import command
from common.data.nih import read_list, read_metadata
from common.data.shard import open_shard
from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING
from tests.helpers import SHARED, needs_shared_data

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def row(image: str, findings: str, patient: int) -> str:
    return f"{image},{findings},0,{patient},58,M,PA,2682,2749,0.143,0.143,\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Forty films of twenty patients, of which five are for the test."""
    images = tmp_path / "films" / "images_001" / "images"
    images.mkdir(parents=True)
    lines = [HEADER]
    train: list[str] = []
    test: list[str] = []
    for i in range(40):
        name = f"{i // 2:08d}_{i % 2:03d}.png"
        pixels = np.full((48, 48), i * 5, np.uint8)
        Image.fromarray(pixels).convert("RGBA" if i % 7 == 0 else "L").save(images / name)
        findings = NO_FINDING if i % 3 == 0 else "|".join({FINDINGS[i % 14], FINDINGS[i % 5]})
        lines.append(row(name, findings, i // 2))
        (test if i >= 30 else train).append(name)
    (tmp_path / "meta.csv").write_text("".join(lines))
    (tmp_path / "train.txt").write_text("\n".join(train))
    (tmp_path / "test.txt").write_text("\n".join(test) + "\n")
    return {
        "images": tmp_path / "films",
        "metadata": tmp_path / "meta.csv",
        "train-list": tmp_path / "train.txt",
        "test-list": tmp_path / "test.txt",
        "out": tmp_path / "out",
    }


def make(files: dict[str, Path], *more: str) -> None:
    paths = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    command([*paths, "--hospitals", "3", "--size", "48", "--workers", "1", *more])


def test_hospitals_hold_the_training_list_and_the_test_shard_the_other(
    files: dict[str, Path],
) -> None:
    make(files)
    shards = [open_shard(files["out"] / f"hospital-{i:02d}") for i in range(3)]
    test = open_shard(files["out"] / "test")
    held = [entry.image for shard in shards for entry in shard.entries]
    assert sorted(held) == sorted(read_list(files["train-list"]))
    assert [entry.image for entry in test.entries] == read_list(files["test-list"])
    for shard in [*shards, test]:
        for i, entry in enumerate(shard.entries):
            number = int(entry.patient) * 2 + int(entry.image[9:12])
            assert (shard.images[i] == number * 5).all()
            expected = set() if number % 3 == 0 else {FINDINGS[number % 14], FINDINGS[number % 5]}
            found = {f for f, label in zip(FINDINGS, shard.labelled()[i], strict=True) if label}
            assert found == expected
    assert shards[0].manifest.partition == "noniid by image"


@pytest.mark.parametrize("partition", ["iid", "noniid", "dirichlet"])
def test_patients_stay_at_one_hospital_when_asked(files: dict[str, Path], partition: str) -> None:
    make(files, "--partition", partition, "--group-by", "patient")
    patients = [
        {entry.patient for entry in open_shard(files["out"] / f"hospital-{i:02d}").entries}
        for i in range(3)
    ]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 15


def test_a_missing_film_is_an_error_unless_allowed(files: dict[str, Path]) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    film.unlink()
    with pytest.raises(BadInput, match=r"1 of 40 .* no file .*00000003_001.png.*--allow-missing"):
        make(files)
    assert not files["out"].exists()
    make(files, "--allow-missing")
    shards = [open_shard(path) for path in files["out"].iterdir()]
    assert sum(len(shard) for shard in shards) == 39


def test_a_damaged_film_is_named_and_nothing_is_left(files: dict[str, Path]) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    film.write_bytes(film.read_bytes()[:60])
    before = sorted(files["out"].parent.iterdir())
    with pytest.raises(BadInput, match=r"00000003_001\.png"):
        make(files)
    assert sorted(files["out"].parent.iterdir()) == before


def test_a_patient_in_both_lists_is_refused(files: dict[str, Path]) -> None:
    train, test = read_list(files["train-list"]), read_list(files["test-list"])
    files["train-list"].write_text("\n".join([*train, test[0]]))
    files["test-list"].write_text("\n".join(test[1:]))
    with pytest.raises(BadInput, match="1 patients are in both"):
        make(files)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Image,Labels\n", "0 columns 'Image Index'"),
        (HEADER, "a header and no line"),
        (HEADER + row("a.png", "Cough", 1), "line 2: unknown finding 'Cough'"),
        (HEADER + row("a.png", "Mass|No Finding", 1), "line 2: 'No Finding' beside"),
        (HEADER + row("a.png", "Mass", 1) * 2, "line 3: a.png is on line 2 already"),
        (HEADER + "a.png,Mass\n", "line 2: 2 cells"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(BadInput, match=why):
        read_metadata(tmp_path / "meta.csv")


def test_gzipped_metadata_is_read_and_a_cut_one_refused(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    path = tmp_path / "meta.csv.gz"
    with files["metadata"].open("rb") as source, gzip.open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    rows = read_metadata(path)
    assert [r.image for r in rows] == [r.image for r in read_metadata(files["metadata"])]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="gzip"):
        read_metadata(path)


@needs_shared_data
def test_the_whole_metadata_has_the_published_counts() -> None:
    rows = read_metadata(SHARED / "nih" / "Data_Entry_2017_v2020.csv.gz")
    assert len(rows) == 112_120
    assert len({r.patient for r in rows}) == 30_805
    counts = np.sum([r.labels for r in rows], axis=0, dtype=int)
    assert dict(zip(FINDINGS, counts.tolist(), strict=True)) == {
        "Atelectasis": 11_559,
        "Cardiomegaly": 2_776,
        "Effusion": 13_317,
        "Infiltration": 19_894,
        "Mass": 5_782,
        "Nodule": 6_331,
        "Pneumonia": 1_431,
        "Pneumothorax": 5_302,
        "Consolidation": 4_667,
        "Edema": 2_303,
        "Emphysema": 2_516,
        "Fibrosis": 1_686,
        "Pleural_Thickening": 3_385,
        "Hernia": 227,
    }
    assert sum(not r.labels.any() for r in rows) == 60_361
    assert len(read_list(SHARED / "nih" / "train_val_list.txt")) == 86_524
    assert len(read_list(SHARED / "nih" / "test_list.txt")) == 25_596
