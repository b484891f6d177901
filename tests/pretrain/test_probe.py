from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.scores import mean_auc
from common.shard import Entry, Shard, create_shard, open_shard
from pretrain import probe
from pretrain.features import Features
from pretrain.probe import NEIGHBOURS, PENALTIES, auc_within_folds, knn_auc, linear_evaluation
from tests.support.shards import make_shard


def noise(n: int, width: int, seed: int = 0) -> Features:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def shard_of_patients(path: Path, patients: list[str], labels: np.ndarray) -> Shard:
    entries = [Entry(f"{i}.png", patient, "train_val") for i, patient in enumerate(patients)]
    with create_shard(
        path, entries=entries, labels=labels.astype(np.uint8), size=40, source="noise"
    ):
        pass
    return open_shard(path)


def test_nearest_neighbours_against_a_loop(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=60)
    features = noise(60, 6)
    found = knn_auc(features, shard)
    # The loop needs the folds; scikit-learn's own are a function of the patients alone.

    patients = [entry.patient for entry in shard.entries]
    scores, won = np.zeros((60, 14), np.float32), [list[float]() for _ in FINDINGS]
    for inside, outside in GroupKFold(5).split(patients, groups=patients):
        for i in outside:
            cosines = [
                features[i]
                @ features[j]
                / np.linalg.norm(features[i])
                / np.linalg.norm(features[j])
                for j in inside
            ]
            nearest = inside[np.argsort(cosines)[::-1][:NEIGHBOURS]]
            scores[i] = shard.labelled()[nearest].mean(axis=0)
            assert not {patients[j] for j in nearest} & {patients[i]}
        for finding in range(14):
            own = shard.labelled()[outside, finding]
            won[finding] += [
                (a > b) + (a == b) / 2
                for a in scores[outside[own == 1], finding]
                for b in scores[outside[own == 0], finding]
            ]
    assert found == pytest.approx(np.mean([np.mean(pairs) for pairs in won if pairs]))


@pytest.mark.parametrize("seed", range(3))
def test_features_that_tell_nothing_score_a_half(tmp_path: Path, seed: int) -> None:
    """Though the films of a patient share their labels, and few have a finding."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.random((150, 14)) < 0.05, 4, axis=0)
    shard = shard_of_patients(tmp_path / "s", [str(i // 4) for i in range(600)], labels)
    features = noise(600, 4, seed)
    assert knn_auc(features, shard) == pytest.approx(0.5, abs=0.04)  # 0.40 over all pairs
    found = linear_evaluation(features, shard, features[:9], labels[:9].astype(np.uint8))
    assert found.inside_auc == pytest.approx(0.5, abs=0.04)


def test_a_finding_of_one_patient_alone_has_no_score_inside(tmp_path: Path) -> None:
    labels = np.zeros((60, 14))
    labels[:3] = 1
    patients = ["one"] * 3 + [str(i) for i in range(57)]
    shard = shard_of_patients(tmp_path / "s", patients, labels)
    found = linear_evaluation(noise(60, 4), shard, noise(9, 4), labels[:9].astype(np.uint8))
    assert found.inside_auc is None  # 0.9 if what was not fitted counted as 0


def test_neighbours_are_images_in_which_a_finding_is_known(tmp_path: Path) -> None:
    """Each finding as in a shard of the images in which it is known."""
    whole = make_shard(tmp_path / "s", images=90, unknown=0.3)
    features, labels = noise(90, 6), whole.labelled()
    labels[:, 5:] = labels[:, 5:6]  # some findings share their images
    labels[:, 2] = UNKNOWN
    patients = [entry.patient for entry in whole.entries]
    aucs = []
    for finding in range(14):
        rows = np.flatnonzero(labels[:, finding] != UNKNOWN)
        if len(rows):
            alone = np.repeat(labels[rows, finding][:, None], 14, axis=1)
            shard = shard_of_patients(tmp_path / str(finding), [patients[i] for i in rows], alone)
            aucs.append(knn_auc(features[rows], shard))
    shard = shard_of_patients(tmp_path / "all", patients, labels)
    assert len(aucs) == 13
    assert knn_auc(features, shard) == pytest.approx(np.mean(np.array(aucs, float)))


def test_linear_evaluation_fits_and_scores_what_is_known(tmp_path: Path) -> None:
    weights = noise(8, 14, seed=1)
    train, test = noise(300, 8, seed=2), noise(200, 8, seed=3)
    labels, expected = ((x @ weights > 0).astype(np.uint8) for x in (train, test))
    rng = np.random.default_rng(4)
    labels[rng.random(labels.shape) < 0.4] = UNKNOWN
    expected[rng.random(expected.shape) < 0.4] = UNKNOWN
    labels[:, 6] = np.where(labels[:, 6] == 0, UNKNOWN, labels[:, 6])  # no negative
    shard = shard_of_patients(tmp_path / "s", [str(i) for i in range(300)], labels)
    found = linear_evaluation(train, shard, test, expected)
    by_finding = dict(found.auc_by_finding)
    assert by_finding.pop(FINDINGS[6]) is None
    assert min(by_finding.values()) > 0.95  # type: ignore[type-var,operator]
    assert found.inside_auc is not None
    assert found.inside_auc > 0.95


def test_an_image_without_a_known_label_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PENALTIES", PENALTIES[:1])
    labels = (np.random.default_rng(1).random((60, 14)) < 0.5).astype(np.uint8)
    labels[::3] = UNKNOWN
    train, test = noise(60, 4), noise(20, 4, seed=1)
    rest = np.flatnonzero(labels[:, 0] != UNKNOWN)
    whole = shard_of_patients(tmp_path / "a", [str(i) for i in range(60)], labels)
    known = shard_of_patients(tmp_path / "b", [str(i) for i in rest], labels[rest])
    expected = linear_evaluation(train[rest], known, test, labels[:20]).scores
    np.testing.assert_array_equal(
        linear_evaluation(train, whole, test, labels[:20]).scores, expected
    )


def test_a_twin_of_the_same_patient_is_no_neighbour(tmp_path: Path) -> None:
    # Pairs that share features and labels: whoever looked at the twin would know everything.
    features = np.repeat(noise(40, 32), 2, axis=0)
    labels = np.repeat(np.random.default_rng(1).random((40, 14)) < 0.5, 2, axis=0)
    patients = [str(i // 2) for i in range(80)]
    auc = knn_auc(features, shard_of_patients(tmp_path / "s", patients, labels))
    assert auc is not None
    assert auc < 0.7


def test_one_patient_cannot_be_probed(tmp_path: Path) -> None:
    shard = shard_of_patients(tmp_path / "s", ["a"] * 8, np.eye(8, 14))
    assert knn_auc(noise(8, 4), shard) is None


def test_linear_evaluation_finds_what_is_linear(tmp_path: Path) -> None:
    weights = noise(20, 14, seed=1)
    train, test = noise(400, 20, seed=2), noise(300, 20, seed=3)
    labels, expected = (train @ weights > 0), (test @ weights > 0).astype(np.uint8)
    shard = shard_of_patients(tmp_path / "s", [str(i) for i in range(400)], labels)
    found = linear_evaluation(train, shard, test, expected)
    assert min(found.auc_by_finding.values()) > 0.97  # type: ignore[type-var,operator]
    assert found.inside_auc == pytest.approx(mean_auc(found.auc_by_finding), abs=0.02)
    shuffled = linear_evaluation(train, shard, noise(300, 20, seed=4), expected)
    assert mean_auc(shuffled.auc_by_finding) == pytest.approx(0.5, abs=0.05)
    assert shuffled.penalty == found.penalty, "the test images have no say in it"


def test_the_penalty_that_does_best_on_other_patients_is_taken(tmp_path: Path) -> None:
    # All features show the same thing, each dimly: their mean is best, and much penalty finds it.
    shown = noise(420, 14, seed=2).mean(axis=1, keepdims=True) * 4
    features = shown + 3 * noise(420, 200, seed=3)
    labels = (shown + noise(420, 14, seed=4) > 0).astype(np.uint8)
    shard = shard_of_patients(tmp_path / "s", [str(i) for i in range(120)], labels[:120])
    found = linear_evaluation(features[:120], shard, features[120:], labels[120:])
    assert found.penalty > PENALTIES[0]
    assert found.inside_auc is not None
    assert 0.7 < found.inside_auc < 0.9, "images that were fitted on would score 1"
    assert found.held_out is not None
    folds = [
        rest for _, rest in GroupKFold(5).split(labels[:120], groups=[str(i) for i in range(120)])
    ]
    by_fold = auc_within_folds(labels[:120], found.held_out, folds)
    assert mean_auc(by_fold) == pytest.approx(found.inside_auc)


def test_an_images_own_label_has_no_say_in_its_held_out_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PENALTIES", (PENALTIES[0], PENALTIES[-1]))
    features = noise(60, 4)
    labels = np.random.default_rng(1).random((60, 14)) < 0.5
    patients = [str(i) for i in range(60)]
    (_, rest), *_ = GroupKFold(5).split(patients, groups=patients)
    found = []
    for name, flip in (("one", False), ("other", True)):
        labels[rest] ^= flip
        shard = shard_of_patients(tmp_path / name, patients, labels)
        held_out = linear_evaluation(features, shard, features, shard.labelled()).held_out
        assert held_out is not None
        found.append(held_out)
    assert np.array_equal(found[0][rest], found[1][rest])
    assert not np.array_equal(found[0], found[1])


def test_a_finding_that_all_or_none_has_is_undefined(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).random((40, 14)) < 0.5
    labels[:, 3] = False
    test_labels = (np.random.default_rng(1).random((30, 14)) < 0.5).astype(np.uint8)
    test_labels[:, 5] = 1
    shard = shard_of_patients(tmp_path / "s", [str(i) for i in range(40)], labels)
    found = linear_evaluation(noise(40, 5), shard, noise(30, 5, 1), test_labels)
    by_finding = found.auc_by_finding
    undefined = {finding for finding, auc in by_finding.items() if auc is None}
    assert undefined == {FINDINGS[3], FINDINGS[5]}


def test_a_shard_without_labels_is_refused(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=8, labelled=False)
    with pytest.raises(BadInput, match="no labels"):
        knn_auc(noise(8, 4), shard)
