import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.seeds import patient_fraction
from common.shard import Entry, create_shard, open_shard
from tests.support.shards import make_shard, reseal


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=12)
    rng = np.random.default_rng(0)
    labels = rng.random((12, 14)) < 0.3
    assert np.array_equal(shard.labelled(), labels)
    assert np.array_equal(shard.images, rng.integers(0, 256, (12, 40, 40)))
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


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(BadInput, match="cannot be read: File name too long"):
        open_shard(Path("s" * 300))


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


def test_unknown_labels_come_back_and_are_no_positives(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=12, unknown=0.4)
    labels = shard.labelled()
    assert set(np.unique(labels).tolist()) == {0, 1, UNKNOWN}
    columns = dict(zip(FINDINGS, labels.T.tolist(), strict=True))
    assert shard.manifest.counts == {f: column.count(1) for f, column in columns.items()}
    assert shard.manifest.known == {
        f: column.count(0) + column.count(1) for f, column in columns.items()
    }


def make_old(path: Path) -> Path:
    """Write a shard as before labels could be unknown."""
    make_shard(path)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["known"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    return path


def test_a_shard_of_format_1_is_read_and_has_no_unknown_label(tmp_path: Path) -> None:
    old = open_shard(make_old(tmp_path / "old"))
    assert old.manifest.known is None
    labels = old.labelled()
    assert np.array_equal(labels, make_shard(tmp_path / "new").labelled())
    labels[3, 0] = UNKNOWN
    np.save(old.path / "labels.npy", labels)
    reseal(old.path, "labels.npy")
    with pytest.raises(BadInput, match="label 255 for Atelectasis in row 3"):
        open_shard(old.path)


def test_images_without_a_known_label_are_for_neither_training_nor_validation(
    tmp_path: Path,
) -> None:
    whole = make_shard(tmp_path / "whole" / "a", images=60)
    some = make_shard(tmp_path / "some" / "a", images=60, unlabelled=range(0, 60, 3))
    for all_of_them, left in zip(whole.split(seed=0), some.split(seed=0), strict=True):
        assert left.tolist() == [i for i in all_of_them.tolist() if i % 3]


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
    "change", [{"format": 3}, {"size": 8}, {"images": 0}, {"surprise": 1}, {"sha256": None}]
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


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_the_files_hold_a_shard_is_opened_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "a"
    if path.exists():
        shutil.rmtree(path)
    make_shard(path, images=6)
    name = data.draw(st.sampled_from(["manifest.json", "index.csv", "labels.npy", "images.npy"]))
    content = bytearray((path / name).read_bytes())
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=400)))
    else:
        for place in data.draw(st.lists(st.integers(0, min(len(content), 500) - 1), max_size=5)):
            content[place] = data.draw(st.integers(0, 255))
    (path / name).write_bytes(content)
    if name != "manifest.json":
        reseal(path, name)
    try:
        shard = open_shard(path)
    except BadInput as error:
        assert any(words in str(error) for words in (name, "a file that", "manifest's"))  # noqa: PT017
    else:
        assert len(shard.entries) == len(shard.images) == len(shard.labelled()) == 6


def test_an_error_in_the_index_names_no_patient(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "a", images=6).path
    (path / "index.csv").write_text("doe,doe,doe\n")
    reseal(path, "index.csv")
    with pytest.raises(BadInput, match="the header is not image,patient,split") as error:
        open_shard(path)
    assert "doe" not in str(error.value)
