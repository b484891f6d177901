"""The experiments' shards: who has which patients, and splits that are added later."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.findings import FINDINGS
from common.runtime.files import sha256_of
from common.shard import open_shard
from experiments.paper.data import SPLITS, Sources, make_data, make_synthetic
from experiments.paper.scales import SCALES

SCALE = SCALES["tiny"].model_copy(update={"hospitals": 2})
HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia\n"


def drawn(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48), np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Two films of each of 60 patients, of whom five are for testing."""
    names = [f"{i // 2:08d}_{i % 2:03d}.png" for i in range(120)]
    with (tmp_path / "meta.csv").open("w") as file:
        file.write("Image Index,Finding Labels,Patient ID\n")
        for i, name in enumerate(names):
            drawn(tmp_path / "images" / name, i)
            file.write(f"{name},{FINDINGS[i % 14]},{i // 2}\n")
    lists = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for path, part in zip(lists, (names[:110], names[110:]), strict=True):
        path.write_text("\n".join(part))
    return Sources(tmp_path / "images", tmp_path / "meta.csv", *lists)


def patients_of(*shards: Path) -> set[str]:
    return {entry.patient for shard in shards for entry in open_shard(shard).entries}


def test_no_patient_is_in_two_places(sources: Sources, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_data(SCALE, sources, data)
    public, test = patients_of(data / "public"), patients_of(data / "test")
    assert (len(public), len(test)) == (27, 5)
    for split in SPLITS:
        first, second = (patients_of(data / split / f"hospital-0{i}") for i in range(2))
        places = [public, test, first, second]
        assert len(set.union(*places)) == sum(map(len, places)) == 60, split
        assert patients_of(data / "union") == first | second


def test_with_chexpert_the_hospitals_have_all_training_patients(
    sources: Sources, tmp_path: Path
) -> None:
    root, data = tmp_path / "CheXpert-v1.0-small", tmp_path / "data"
    films = [f"train/patient{i:05d}/study1/view{i % 2 + 1}.jpg" for i in range(6)]
    for i, film in enumerate(films):
        drawn(root / film, i)
    views = ("Frontal", "Lateral")
    lines = [f"{root.name}/{film},F,6,{views[i % 2]},AP,1.0,\n" for i, film in enumerate(films)]
    (root / "train.csv").write_text("".join([HEADER, *lines]))
    make_data(SCALE, sources._replace(chexpert=root), data)
    assert patients_of(data / "public") == {"patient00000", "patient00002", "patient00004"}
    for split in SPLITS:
        assert len(patients_of(*(data / split).glob("hospital-*"))) == 55
    assert len(patients_of(data / "union")) == 55
    assert len(patients_of(data / "test")) == 5
    make_data(SCALE, sources._replace(chexpert=root), data)
    with pytest.raises(
        BadInput, match="data: made with --chexpert; give --chexpert, or another --root"
    ):
        make_data(SCALE, sources, data)


def test_splits_that_are_missing_are_added(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_synthetic(SCALES["tiny"], 40, data)
    before = (data / "test" / "manifest.json").stat().st_mtime_ns
    (data / "dirichlet").unlink()
    make_synthetic(SCALES["tiny"], 40, data)
    assert all(len(list((data / split).glob("hospital-*"))) == 3 for split in SPLITS)
    assert (data / "test" / "manifest.json").stat().st_mtime_ns == before


def test_real_films_are_shared_out_again_for_a_split_that_is_missing(
    sources: Sources, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    make_data(SCALE, sources, data)

    def hashes() -> dict[str, str]:
        shards = [*data.glob("*/hospital-*"), data / "test", data / "union", data / "public"]
        return {str(shard): sha256_of(shard / "images.npy") for shard in shards}

    before = hashes()
    kept = (data / "iid").stat().st_mtime_ns
    shutil.rmtree(data / "dirichlet")
    make_data(SCALE, sources, data)
    assert hashes() == before
    assert (data / "iid").stat().st_mtime_ns == kept
