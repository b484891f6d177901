"""The real lists of ChestX-ray14: counts, and how hospitals share the films."""

from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from common.findings import FINDINGS
from radiographs.read.nih import Row, read_list, read_metadata
from radiographs.read.table import read_table
from radiographs.write.partition import NoFinding, iid, noniid
from tests.support.commands import run
from tests.support.shards import SHARED, needs_shared_data


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


@cache
def training_rows() -> list[Row]:
    """The 86,524 real rows of the official list for training."""
    listed = set(read_list(SHARED / "nih" / "train_val_list.txt"))
    rows = read_metadata(SHARED / "nih" / "Data_Entry_2017_v2020.csv.gz")
    return [row for row in rows if row.image in listed]


SIZES = [6370, 7768, 2631, 8098, 6256, 7067, 2220, 11809, 31817, 2488]
"""Films of the hospitals of the real training list with seed 0."""

SPREAD = {
    "Atelectasis": [435, 432, 137, 444, 616, 280, 73, 2686, 3177, 0],
    "Cardiomegaly": [69, 1097, 541, 0, 0, 0, 0, 0, 0, 0],
    "Effusion": [421, 773, 307, 656, 625, 509, 71, 807, 4490, 0],
    "Infiltration": [793, 703, 189, 530, 590, 478, 203, 1162, 8098, 1036],
    "Mass": [149, 181, 97, 297, 391, 2919, 0, 0, 0, 0],
    "Nodule": [187, 131, 91, 271, 262, 449, 924, 2393, 0, 0],
    "Pneumonia": [876, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Pneumothorax": [58, 309, 32, 2066, 172, 0, 0, 0, 0, 0],
    "Consolidation": [146, 145, 58, 159, 2344, 0, 0, 0, 0, 0],
    "Edema": [557, 821, 0, 0, 0, 0, 0, 0, 0, 0],
    "Emphysema": [35, 1388, 0, 0, 0, 0, 0, 0, 0, 0],
    "Fibrosis": [1251, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Pleural_Thickening": [154, 129, 574, 1385, 0, 0, 0, 0, 0, 0],
    "Hernia": [141, 0, 0, 0, 0, 0, 0, 0, 0, 0],
}
"""Their films with each finding, those without one in proportion to size."""

LAST = {
    "Atelectasis": [930, 1256, 230, 5813, 51, 0, 0, 0, 0, 0],
    "Cardiomegaly": [1650, 57, 0, 0, 0, 0, 0, 0, 0, 0],
    "Effusion": [1360, 1624, 374, 1512, 3789, 0, 0, 0, 0, 0],
    "Infiltration": [1576, 1422, 477, 1974, 3432, 4901, 0, 0, 0, 0],
    "Mass": [344, 1952, 1738, 0, 0, 0, 0, 0, 0, 0],
    "Nodule": [338, 764, 1158, 2448, 0, 0, 0, 0, 0, 0],
    "Pneumonia": [876, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Pneumothorax": [370, 2267, 0, 0, 0, 0, 0, 0, 0, 0],
    "Consolidation": [307, 2545, 0, 0, 0, 0, 0, 0, 0, 0],
    "Edema": [1378, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Emphysema": [1423, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Fibrosis": [1251, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "Pleural_Thickening": [301, 1941, 0, 0, 0, 0, 0, 0, 0, 0],
    "Hernia": [141, 0, 0, 0, 0, 0, 0, 0, 0, 0],
}
"""Their films with each finding, those without one last."""


@needs_shared_data
@pytest.mark.parametrize(
    ("no_finding", "without", "counts", "digest"),
    [
        (
            "spread",
            [3718, 4534, 1536, 4726, 3652, 4124, 1296, 6892, 18570, 1452],
            SPREAD,
            "fc7a8d615eaae431",
        ),
        (
            "last",
            [0, 0, 0, 0, 0, 2166, 2220, 11809, 31817, 2488],
            LAST,
            "cd0a519ab92dc071",  # computed before there was a choice
        ),
    ],
)
def test_the_real_training_images_have_these_counts_in_both_readings(
    no_finding: NoFinding, without: list[int], counts: dict[str, list[int]], digest: str
) -> None:
    labels = np.array([row.labels for row in training_rows()])
    assert len(labels) == 86_524
    assert (~labels.any(axis=1)).sum() == 50_500
    assignment = noniid(labels, 10, 0, no_finding=no_finding)
    assert np.bincount(assignment).tolist() == SIZES
    assert np.bincount(assignment[~labels.any(axis=1)], minlength=10).tolist() == without
    for finding, column in zip(FINDINGS, labels.T, strict=True):
        assert np.bincount(assignment[column > 0], minlength=10).tolist() == counts[finding]
    assert sha256(assignment.astype("<i8").tobytes()).hexdigest().startswith(digest)


@needs_shared_data
def test_real_patients_stay_together_and_keep_sizes_and_shares() -> None:
    rows = training_rows()
    labels, patients = np.array([row.labels for row in rows]), [row.patient for row in rows]
    assignment = noniid(labels, 10, 0, patients)
    assert len(set(zip(patients, assignment.tolist(), strict=True))) == 28_008
    assert np.abs(np.bincount(assignment) - SIZES).max() <= 3
    without = np.bincount(assignment[~labels.any(axis=1)], minlength=10)
    assert np.abs(without - np.multiply(SIZES, 50_500 / 86_524)).max() < 12
    last = noniid(labels, 10, 0, patients, "last")
    assert sha256(last.astype("<i8").tobytes()).hexdigest().startswith("89c5cb02501d2f60")


@needs_shared_data
def test_the_real_training_images_are_shared_out_as_published_without_an_image(
    tmp_path: Path,
) -> None:
    nih = SHARED / "nih"
    result = run(
        "flower-data", "chestxray14", "--metadata", nih / "Data_Entry_2017_v2020.csv.gz",
        "--train-list", nih / "train_val_list.txt", "--test-list", nih / "test_list.txt",
        "--dry-run", "--figure", tmp_path / "f.png", "--assignment", tmp_path / "s.csv",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    held = read_table(tmp_path / "s.csv", ["image", "hospital"])
    sizes = Counter(line.cells["hospital"] for line in held)
    assert [sizes[f"hospital-{i:02d}"] for i in range(10)] == SIZES
    lines = result.stdout.splitlines()
    assert "141  2.2 %" in next(line for line in lines if line.startswith("Hernia"))
    tested = next(line for line in lines[20:] if line.startswith("Effusion"))
    assert tested.split()[-3:] == ["4658", "18.2", "%"]


@needs_shared_data
@pytest.mark.parametrize("grouped", [False, True])
def test_the_real_training_images_are_shared_out_evenly_by_iid(grouped: bool) -> None:
    rows = training_rows()
    assert len(rows) == 86_524
    labels = np.array([r.labels for r in rows])
    patients = [r.patient for r in rows]
    assignment = iid(labels, 10, 0, patients if grouped else None)
    sizes = np.bincount(assignment)
    shares = np.array([labels[assignment == h].mean(axis=0) for h in range(10)])
    spread = np.ptp(shares, axis=0) / labels.mean(axis=0)
    if grouped:
        assert len({(p, h) for p, h in zip(patients, assignment.tolist(), strict=True)}) == 28_008
        assert np.ptp(sizes) <= 20
        assert spread.max() < 0.08
    else:
        assert np.ptp(sizes) <= 1
        sets = {tuple(row) for row in labels[:500].tolist()}
        for wanted in sets:
            counts = np.bincount(assignment[(labels == wanted).all(axis=1)], minlength=10)
            assert np.ptp(counts) <= 1
