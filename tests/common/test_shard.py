import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from common.data.shard import Entry, create_shard, open_shard
from common.errors import BadInput
from common.seeds import patient_fraction
from tests.helpers import make_shard


def reseal(shard: Path, name: str) -> None:
    """Let the manifest agree with a file that was changed."""
    manifest = json.loads((shard / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((shard / name).read_bytes()).hexdigest()
    (shard / "manifest.json").write_text(json.dumps(manifest))


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=12)
    draws = np.random.default_rng(0)
    labels = draws.random((12, 14)) < 0.3
    assert np.array_equal(shard.labelled(), labels)
    assert np.array_equal(shard.images, draws.integers(0, 256, (12, 40, 40)))
    assert isinstance(shard.images, np.memmap)
    assert not shard.images.flags.writeable
    assert shard.entries[3] == Entry("000003.png", "a-1", "train")
    assert shard.manifest.counts is not None
    assert list(shard.manifest.counts.values()) == labels.sum(axis=0).tolist()


def test_a_shard_for_pretraining_has_no_labels(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", labelled=False)
    assert not (shard.path / "labels.npy").exists()
    with pytest.raises(BadInput, match="no labels"):
        shard.labelled()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        create_shard(
            tmp_path / "a", entries=[Entry("i", "p", "train")], labels=None, size=40, source="x"
        ),
    ):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    make_shard(tmp_path / "a")
    with pytest.raises(BadInput, match="is there already"):
        make_shard(tmp_path / "a")


def test_no_shard(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none: no shard here .*flower-data"):
        open_shard(tmp_path / "none")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.csv"])
def test_a_changed_file_is_found_by_its_hash(tmp_path: Path, name: str) -> None:
    file = make_shard(tmp_path / "a").path / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match=f"{name}: SHA-256 .* is not the manifest's"):
        open_shard(tmp_path / "a")
    file.unlink()
    with pytest.raises(BadInput, match=f"{name}: missing"):
        open_shard(tmp_path / "a")


def test_labels_are_0_or_1(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    labels = shard.labelled()
    labels[5, 2] = 3
    np.save(shard.path / "labels.npy", labels)
    reseal(shard.path, "labels.npy")
    with pytest.raises(BadInput, match="label 3 for Effusion in row 5"):
        open_shard(shard.path)


def test_an_array_of_another_shape_or_of_objects_is_refused(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    np.save(shard.path / "images.npy", np.zeros((40, 41, 40), np.uint8))
    reseal(shard.path, "images.npy")
    with pytest.raises(BadInput, match="40x41x40, but the manifest says uint8 40x40x40"):
        open_shard(shard.path)
    np.save(shard.path / "images.npy", np.array([print], object), allow_pickle=True)
    reseal(shard.path, "images.npy")
    with pytest.raises(BadInput, match=r"not a whole \.npy file"):
        open_shard(shard.path)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"size": 8}, {"images": 0}, {"surprise": 1}, {"sha256": None}]
)
def test_a_manifest_that_is_not_understood_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    file = make_shard(tmp_path / "a").path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BadInput, match=f"manifest.json: {next(iter(change))}"):
        open_shard(tmp_path / "a")


def test_a_patient_never_straddles_training_and_validation(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=400)
    training, validation = shard.split(seed=0)
    assert sorted([*training, *validation]) == list(range(400))
    sides = [{shard.entries[i].patient for i in part} for part in (training, validation)]
    assert not sides[0] & sides[1]
    assert 20 <= len(validation) <= 60
    assert not np.array_equal(validation, shard.split(seed=1)[1])


def test_the_patient_alone_decides_the_side(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=400)
    _, validation = shard.split(seed=3)
    assert {shard.entries[i].patient for i in validation} == {
        entry.patient for entry in shard.entries if patient_fraction(3, entry.patient) < 0.1
    }


def test_no_other_image_moves_a_patient(tmp_path: Path) -> None:
    large, small = make_shard(tmp_path / "1" / "a", 400), make_shard(tmp_path / "2" / "a", 100)
    kept = [i for i in large.split(3)[1] if i < 100]
    assert kept == small.split(3)[1].tolist()
