import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.shard import open_for_training, open_shard
from radiographs.read.observations import OBSERVATIONS
from radiographs.sources.mimic import command
from tests.support.commands import assert_one_line, run

IMAGES = [
    # subject, study, image, split, ViewPosition, ViewCodeSequence_CodeMeaning
    ("10000032", "50414267", "02aa-1", "train", "PA", "postero-anterior"),
    ("10000032", "50414267", "174b-2", "train", "LATERAL", "lateral"),
    ("10000032", "53189527", "2a2f-3", "train", "AP", ""),
    ("10000764", "57375967", "0965-4", "validate", "AP", "antero-posterior"),
    ("10000935", "50578979", "d0b7-5", "train", "", "Postero-Anterior"),
    ("10000935", "51178377", "9b31-6", "train", "", ""),
    ("11000183", "51967845", "4c3d-7", "train", "LL", "left lateral"),
    ("11000183", "51967845", "5b2d-8", "train", "PA", ""),
    ("12000001", "50000001", "6a1d-9", "test", "PA", ""),
    ("13000001", "50000009", "7f1d-0", "train", "PA", ""),
    ("13000001", "50000009", "7f1d-a", "train", "XTABLE LATERAL", ""),
    ("13000001", "50000009", "7f1d-b", "train", "LAO", ""),
]
STUDIES = {
    "50414267": {"No Finding": "1.0"},
    "53189527": {"Pleural Effusion": "1.0", "Edema": "-1.0", "Lung Opacity": "1.0"},
    "57375967": {"Cardiomegaly": "0.0", "Pneumonia": "1.0"},
    "50578979": {"Lung Lesion": "1.0", "Atelectasis": "1.0"},
    "51178377": {"Pneumothorax": "1.0"},
    "51967845": {"Consolidation": "1.0", "Pneumonia": ""},
    "50000001": {"Edema": "1.0"},
}
"""Labels of the studies; study 50000009 has none."""

SEVEN = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation"),
    "Edema",
)
LABELS = {
    "02aa-1": dict.fromkeys(SEVEN, 0),
    "2a2f-3": {"Effusion": 1},
    "d0b7-5": {"Atelectasis": 1},
    "5b2d-8": {"Consolidation": 1},
}


@pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twelve images of six patients; image i has the grey level 10 i."""
    root = tmp_path / "mimic-cxr-jpg"
    metadata = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,"
                "Rows,Columns,ViewCodeSequence_CodeMeaning"]  # fmt: skip
    splits = ["dicom_id,study_id,subject_id,split"]
    for i, (subject, study, image, split, view, code) in enumerate(IMAGES):
        folder = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 50), 10 * i, np.uint8)).save(folder / f"{image}.jpg")
        metadata.append(f'{image},{subject},{study},"CHEST (PA, LAT)",{view},60,50,{code}')
        splits.append(f"{image},{study},{subject},{split}")
    labels = [",".join(["subject_id,study_id", *sorted(OBSERVATIONS)])]
    subjects = {study: subject for subject, study, *_ in IMAGES}
    for study, observed in STUDIES.items():
        cells = (observed.get(name, "") for name in sorted(OBSERVATIONS))
        labels.append(",".join([subjects[study], study, *cells]))
    for name, lines in (("metadata", metadata), ("split", splits), ("chexpert", labels)):
        write(root, name, "\n".join(lines), packed=bool(request.param))
    return root


def write(root: Path, name: str, text: str, packed: bool) -> None:
    path = root / f"mimic-cxr-2.0.0-{name}.csv"
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def change(root: Path, name: str, edit: Callable[[str], str]) -> None:
    """Edit a table, packed or not."""
    [path] = root.glob(f"mimic-cxr-2.0.0-{name}.csv*")
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text()
    write(root, name, edit(text), packed)


def make(root: Path, out: Path, *more: str) -> None:
    command(["--root", str(root), "--out", str(out), "--size", "40", "--workers", "1", *more])


def images(out: Path) -> list[str]:
    return [Path(entry.image).stem for entry in open_shard(out).entries]


def test_a_hospital_has_the_frontal_films_and_what_is_known_of_them(
    root: Path, tmp_path: Path
) -> None:
    given = ("--labels", "--size", 40, "--workers", 1)
    result = run("flower-data", "mimic", "--root", root, "--out", tmp_path / "out", *given)
    assert result.returncode == 0, result.stderr
    assert "4 images of 3 patients" in result.stdout
    assert "1 of 10 images give no view" in result.stderr
    assert "1 of 5 images are of studies not in" in result.stderr
    shard = open_for_training(tmp_path / "out")
    assert images(tmp_path / "out") == list(LABELS)
    assert [int(image.mean()) for image in shard.images] == [0, 20, 40, 70]
    assert [e.patient for e in shard.entries] == ["10000032"] * 2 + ["10000935", "11000183"]
    assert shard.entries[0].image == "files/p10/p10000032/s50414267/02aa-1.jpg"
    assert shard.labelled().tolist() == [
        [known.get(finding, UNKNOWN) for finding in FINDINGS] for known in LABELS.values()
    ]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ([], [0, 1, 2, 4, 5, 6, 7, 9, 10]),
        (["--views", "lateral"], [1, 6, 10]),
        (["--views", "frontal", "--split", "both"], [0, 2, 3, 4, 7, 9]),
        (["--split", "test"], [8]),
        (["--labels", "--split", "validate"], [3]),
    ],
)
def test_views_and_split_are_chosen(
    root: Path, tmp_path: Path, options: list[str], taken: list[int]
) -> None:
    make(root, tmp_path / "out", *options)
    assert images(tmp_path / "out") == [IMAGES[i][2] for i in taken]
    shard = open_shard(tmp_path / "out")
    assert [entry.split for entry in shard.entries] == [IMAGES[i][3] for i in taken]
    assert (shard.labels is None) == ("--labels" not in options)


def test_test_films_cannot_be_trained_on(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "out", "--split", "test", "--labels")
    with pytest.raises(BadInput, match="have the split 'test'"):
        open_for_training(tmp_path / "out")


@pytest.mark.parametrize(("policy", "label"), [("ones", 1), ("zeros", 0)])
def test_uncertain_labels_are_taken_for_what_is_asked(
    root: Path, tmp_path: Path, policy: str, label: int
) -> None:
    make(root, tmp_path / "out", "--labels", "--uncertain", policy)
    labels = open_shard(tmp_path / "out").labelled()
    assert labels[1, FINDINGS.index("Edema")] == label


def test_absent_folders_are_told_and_a_missing_film_needs_the_option(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root / "files" / "p11")
    make(root, tmp_path / "a", "--labels")
    assert "1 of 5 images are in folders that are not below" in capsys.readouterr().err
    assert images(tmp_path / "a") == ["02aa-1", "2a2f-3", "d0b7-5"]
    (root / IMAGE_PATH).unlink()
    with pytest.raises(BadInput, match=f"^1 of 5 images have no file .* {IMAGE_PATH}; --root"):
        make(root, tmp_path / "b", "--labels")
    (root / "files" / "p10" / "p10000935" / "s50578979" / "d0b7-5.jpg").write_bytes(b"damaged")
    make(root, tmp_path / "b", "--labels", "--allow-missing")
    assert "left out: 1 of 2 images cannot be read" in capsys.readouterr().err
    assert images(tmp_path / "b") == ["02aa-1"]


IMAGE_PATH = "files/p10/p10000032/s53189527/2a2f-3.jpg"


def test_a_table_of_splits_that_is_cut_is_allowed_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root, "split", lambda text: "\n".join(text.splitlines()[:4]))
    make(root, tmp_path / "out")
    assert "9 of 12 images are not in" in capsys.readouterr().err
    assert len(open_shard(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("table", "old", "new", "why"),
    [
        ("metadata", "10000764", "../..", "metadata.csv.*, line 5: subject_id is '../..'"),
        ("metadata", "174b-2", "02aa-1", "metadata.csv.*, line 3: the same image as line 2"),
        ("chexpert", "53189527", "50414267", "chexpert.csv.*, line 3: the same image as line 2"),
        ("chexpert", ",1.0", ",2", "chexpert.csv.*, line 2: No Finding is '2', not 1, 0, -1"),
        ("chexpert", "Edema", "Oedema", "chexpert.csv.*: 0 columns 'Edema'"),
    ],
)
def test_a_line_that_is_not_as_expected_is_refused(
    root: Path, tmp_path: Path, table: str, old: str, new: str, why: str
) -> None:
    change(root, table, lambda text: text.replace(old, new, 1))
    with pytest.raises(BadInput, match=why):
        make(root, tmp_path / "out", "--labels")


def test_the_wrong_folder_is_told(root: Path, tmp_path: Path) -> None:
    result = run("flower-data", "mimic", "--root", tmp_path, "--out", tmp_path / "out")
    assert_one_line(result, 2, "mimic-cxr-2.0.0-split.csv: cannot be read: No such file")
    shutil.rmtree(root / "files")
    with pytest.raises(BadInput, match="no image with a file is left; --root is the folder with"):
        make(root, tmp_path / "out")
