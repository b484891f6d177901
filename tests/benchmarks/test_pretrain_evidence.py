import numpy as np
import pytest

from benchmarks.pretrain_evidence import BASELINES, mean_and_interval, table, table_by_finding


def test_the_interval_of_a_mean() -> None:
    # Student's t for two degrees of freedom is 4.303 at 97.5 %.
    mean, half = mean_and_interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(4.303 / 3**0.5, abs=1e-3)


def test_gains_are_paired_by_seed() -> None:
    # The seeds differ by far more than the gain, which is nearly the same for each.
    aucs = {
        BASELINES[0]: [0.5, 0.6, 0.7],
        BASELINES[1]: [0.7, 0.6, 0.5],
        "method": [0.511, 0.610, 0.709],
    }
    results = {name: [{"auc": auc} for auc in values] for name, values in aucs.items()}
    line = table(results, "auc").splitlines()[-1]
    assert "+0.010 +- 0.002*" in line  # over the same seeds
    assert "+0.010 +- 0.494" in line


def test_each_finding_has_its_films_and_its_mean() -> None:
    labels = np.zeros((4, 14), np.uint8)
    labels[2:, 0] = 1
    right = np.repeat(np.arange(4.0)[:, None], 14, axis=1)
    results = {"method": [{"scores": s, "held_out": right} for s in (right, -right)]}
    lines = table_by_finding(results, labels, labels).splitlines()
    first, second = (line.split() for line in lines if line.startswith("Atelectasis"))
    assert first == ["Atelectasis", "2", "0.500"]
    assert second == ["Atelectasis", "2", "1.000"]
    assert lines[-1].split() == ["Hernia", "0", "nan"]
