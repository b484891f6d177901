import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.shard import open_shard
from radiographs.read.chexpert import read_films
from radiographs.read.observations import OBSERVATIONS
from radiographs.sources.chexpert import command
from tests.support.commands import assert_one_line, run

FILMS = [
    ("patient00001/study1/view1_frontal.jpg", "Frontal"),
    ("patient00001/study1/view2_lateral.jpg", "Lateral"),
    ("patient00002/study3/view1_frontal.jpg", "Frontal"),
]
SMALL = ("--size", "40", "--workers", "1")
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
    command(["--root", str(root), "--out", str(tmp_path / "out"), *SMALL])
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
    command(["--root", str(root), "--out", str(tmp_path / "out"), *SMALL, *options])
    shard = open_shard(tmp_path / "out")
    assert [int(image.mean()) for image in shard.images] == levels
    assert [e.split for e in shard.entries] == [e.image.split("/")[0] for e in shard.entries]


def test_a_missing_film_is_an_error_unless_allowed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "train" / FILMS[1][0]).unlink()
    given = ["--root", str(root), "--out", str(tmp_path / "out"), *SMALL]
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
        read_films(tmp_path / "train.csv", "train")


def test_the_wrong_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.csv: cannot be read: No such file"):
        command(["--root", str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "train.csv").write_text(HEADER + "x/train/p/s/b.jpg,F,6,Frontal,AP,1,0\n")
    with pytest.raises(BadInput, match=r"--root is the folder with train/ or with the batches"):
        command(["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--allow-missing"])


STUDIES = {
    "patient00001/study1": {"Edema": "1.0", "Pleural Effusion": "0.0", "Pneumonia": "-1.0"},
    "patient00001/study2": {"No Finding": "1.0", "Support Devices": "1.0"},
    "patient21513/study1": {"Pneumonia": "1.0", "Lung Lesion": "1.0", "Lung Opacity": "1.0"},
    "patient21514/study1": {"Atelectasis": "-1.0", "Cardiomegaly": "1.0", "Pleural Other": "1.0"},
    "patient43017/study1": {"Pneumothorax": "1.0", "Consolidation": "0.0", "No Finding": "0.0"},
    "patient43018/study1": {"Consolidation": "1.0", "Fracture": "1.0"},
    "patient64540/study1": {},
}
LABELS = {
    "patient00001/study1": {"Edema": 1, "Effusion": 0, "Pneumonia": UNKNOWN},
    "patient00001/study2": dict.fromkeys(
        ("Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation",
         "Edema"), 0,
    ),
    "patient21513/study1": {"Pneumonia": 1},
    "patient21514/study1": {"Cardiomegaly": 1},
    "patient43017/study1": {"Pneumothorax": 1, "Consolidation": 0},
    "patient43018/study1": {"Consolidation": 1},
    "patient64540/study1": {},
}  # fmt: skip
"""What the studies of STUDIES are to become; all other findings are unknown."""


def expected(study: str) -> list[int]:
    return [LABELS[study].get(finding, UNKNOWN) for finding in FINDINGS]


def batch_of(patient: str) -> str:
    number = int(patient.removeprefix("patient"))
    if number <= 21513:
        return "CheXpert-v1.0 batch 2 (train 1)"
    if number <= 43017:
        return "CheXpert-v1.0 batch 3 (train 2)"
    return "CheXpert-v1.0 batch 4 (train 3)"


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """CheXpert as Stanford's archives unpack: a frontal film of each study, a lateral of some."""
    root = tmp_path / "chexpertchestxrays-u20210408"
    lines = [",".join(["Path,Sex,Age,Frontal/Lateral,AP/PA", *OBSERVATIONS])]
    for i, (study, observed) in enumerate(STUDIES.items()):
        folder = root / batch_of(study.split("/")[0]) / study
        folder.mkdir(parents=True)
        cells = ",".join(observed.get(name, "") for name in OBSERVATIONS)
        for view in ("view1_frontal", "view2_lateral")[: 1 + i % 2]:
            level = 10 * i + 100 * view.endswith("lateral")
            picture = Image.fromarray(np.full((50, 50), level, np.uint8))
            picture.save(folder / f"{view}.jpg", quality=100)
            kind = view[6:].title()
            lines.append(f"CheXpert-v1.0/train/{study}/{view}.jpg,Male,50,{kind},,{cells}")
    first = root / "CheXpert-v1.0 batch 1 (validate & csv)"
    (first / "valid" / "patient64541" / "study1").mkdir(parents=True)
    shutil.copy(
        root / batch_of("patient00001") / "patient00001" / "study1" / "view1_frontal.jpg",
        first / "valid" / "patient64541" / "study1",
    )
    (first / "train.csv").write_text("\n".join(lines))
    (first / "valid.csv").write_text(
        lines[0] + "\nCheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg,Male,50,Frontal,AP,"
        + ",".join("1.0" if name == "Edema" else "0.0" for name in OBSERVATIONS)
    )  # fmt: skip
    return root


def labels_by_study(path: Path) -> dict[str, list[int]]:
    shard = open_shard(path)
    return {
        "/".join(entry.image.split("/")[1:3]): labels
        for entry, labels in zip(shard.entries, shard.labelled().tolist(), strict=True)
    }


def test_labels_mean_the_same_in_both_layouts(batches: Path, tmp_path: Path) -> None:
    given = ("--labels", "--size", 40, "--workers", 1)
    result = run("flower-data", "chexpert", "--root", batches, "--out", tmp_path / "a", *given)
    assert result.returncode == 0, result.stderr
    assert "7 images of 6 patients" in result.stdout
    assert labels_by_study(tmp_path / "a") == {study: expected(study) for study in STUDIES}
    merged = tmp_path / "CheXpert-v1.0"
    (merged / "train").mkdir(parents=True)
    for folder in batches.glob("*(train *)"):
        for patient in folder.iterdir():
            patient.rename(merged / "train" / patient.name)
    for file in (batches / "CheXpert-v1.0 batch 1 (validate & csv)").iterdir():
        file.rename(merged / file.name)
    command(["--root", str(merged), "--out", str(tmp_path / "b"), *map(str, given)])
    assert open_shard(tmp_path / "b").manifest == open_shard(tmp_path / "a").manifest


def test_the_batches_are_a_shard_for_pretraining_too(batches: Path, tmp_path: Path) -> None:
    given = ["--root", str(batches), "--size", "40", "--workers", "1"]
    command([*given, "--out", str(tmp_path / "out"), "--split", "both"])
    shard = open_shard(tmp_path / "out")
    assert shard.labels is None
    levels = [0, 10, 110, 20, 30, 130, 40, 50, 150, 60, 0]  # the last is for validation
    assert [int(image.mean()) for image in shard.images] == levels
    assert [e.split for e in shard.entries] == ["train"] * 10 + ["valid"]
    assert shard.entries[-1].image == "valid/patient64541/study1/view1_frontal.jpg"


@pytest.mark.parametrize(("policy", "label"), [("ignore", UNKNOWN), ("ones", 1), ("zeros", 0)])
def test_an_uncertain_label_is_taken_for_what_is_asked(
    batches: Path, tmp_path: Path, policy: str, label: int
) -> None:
    given = ["--root", str(batches), "--size", "40", "--labels", "--uncertain", policy]
    command([*given, "--out", str(tmp_path / "out"), "--workers", "1"])
    found = labels_by_study(tmp_path / "out")
    assert found["patient00001/study1"][FINDINGS.index("Pneumonia")] == label
    assert found["patient21514/study1"][FINDINGS.index("Atelectasis")] == label
    assert found["patient64540/study1"] == [UNKNOWN] * 14  # not mentioned is not uncertain


def test_a_label_that_is_none_is_refused_with_its_line(batches: Path, tmp_path: Path) -> None:
    path = batches / "CheXpert-v1.0 batch 1 (validate & csv)" / "train.csv"
    path.write_text(path.read_text().replace(",1.0", ",yes", 1))
    given = ("--root", batches, "--labels", "--out", tmp_path / "out")
    result = run("flower-data", "chexpert", *given)
    assert_one_line(result, 2, "line 2: Edema is 'yes', not 1, 0, -1 or empty")
    assert_one_line(
        run("flower-data", "chexpert", *given[:2], *given[3:], "--uncertain", "ones"),
        2, "--uncertain is for --labels",
    )  # fmt: skip


def test_patients_are_split_between_hospitals(batches: Path, tmp_path: Path) -> None:
    given = ["--root", str(batches), "--size", "40", "--labels", "--workers", "1"]
    command([*given, "--out", str(tmp_path / "out"), "--hospitals", "3", "--seed", "1"])
    shards = [open_shard(tmp_path / "out" / f"hospital-{i:02d}") for i in range(3)]
    patients = [{entry.patient for entry in shard.entries} for shard in shards]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 6
    assert sum(map(len, shards)) == 7
    for shard in shards:
        assert shard.manifest.partition == "iid by patient"
        assert shard.manifest.seed == 1
        for study, labels in labels_by_study(shard.path).items():
            assert labels == expected(study)
    with pytest.raises(BadInput, match="6 patients are too few for 7 hospitals"):
        command([*given, "--out", str(tmp_path / "more"), "--hospitals", "7"])


def test_an_absent_batch_is_told_and_a_missing_film_needs_the_option(
    batches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(batches / "CheXpert-v1.0 batch 3 (train 2)")
    given = ["--root", str(batches), "--size", "40", "--labels", "--workers", "1"]
    command([*given, "--out", str(tmp_path / "a")])
    assert "left out: 2 of 7 images listed in" in capsys.readouterr().err
    assert len(open_shard(tmp_path / "a")) == 5
    films = batches / "CheXpert-v1.0 batch 2 (train 1)" / "patient00001"
    (films / "study1" / "view1_frontal.jpg").unlink()
    (films / "study2" / "view1_frontal.jpg").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"^1 of 7 .* have no file, first .*study1.*; --root is"):
        command([*given, "--out", str(tmp_path / "b")])
    command([*given, "--out", str(tmp_path / "b"), "--allow-missing"])
    told = capsys.readouterr().err
    assert "left out: 1 of 4 images cannot be read, first " in told
    assert len(open_shard(tmp_path / "b")) == 3


def test_every_finding_comes_from_one_observation_and_every_reason_is_given() -> None:
    found = [meaning.finding for meaning in OBSERVATIONS.values() if meaning.finding]
    assert sorted(found) == sorted(set(found) & set(FINDINGS))
    assert len(OBSERVATIONS) == 14
    assert all(meaning.reason for meaning in OBSERVATIONS.values())
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for name, meaning in OBSERVATIONS.items():
        assert f"| {name} | {meaning.finding or 'none'} | {meaning.reason} |" in page
