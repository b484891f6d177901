"""Calibrated probabilities and thresholds, from the histograms that a run keeps."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from common.findings import FINDINGS
from common.histograms import Histograms, histograms_of
from predict.calibration import Calibrated, calibrated
from predict.model_file import read_model
from tests.support.commands import run
from tests.support.films import film
from tests.support.predicting import write_model

ROUND = 2
"""Of the model that is written."""


def drawn(slope: float, intercept: float, films: int, seed: int = 0) -> Histograms:
    """Return histograms of films whose probability is a line's sigmoid."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (films, len(FINDINGS)))
    having = rng.random(logits.shape) < 1 / (1 + np.exp(-(slope * logits + intercept)))
    return histograms_of(having.astype(np.uint8), logits)


def test_the_line_behind_the_films_is_found() -> None:
    found = calibrated(*drawn(0.5, -1, 100_000).of("Mass"))
    assert found is not None
    assert (found.slope, found.intercept) == pytest.approx((0.5, -1), abs=0.03)
    positives, negatives = drawn(0.5, -1, 100_000, seed=1).of("Mass")
    probability = found.probability(np.linspace(-14, 14, 1025)[1::2])
    films = positives + negatives
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.8)):
        group = (probability >= low) & (probability < high)
        observed = positives[group].sum() / films[group].sum()
        assert observed == pytest.approx(
            np.average(probability[group], weights=films[group]), abs=0.02
        )


def test_the_line_is_that_of_a_plain_search() -> None:
    positives, negatives = drawn(1.5, 0.3, 300).of("Edema")
    found = calibrated(positives, negatives)
    assert found is not None
    centres = np.linspace(-14, 14, 1025)[1::2]
    logits = np.concatenate([np.repeat(centres, positives), np.repeat(centres, negatives)])
    n, m = positives.sum(), negatives.sum()
    targets = np.repeat([(n + 1) / (n + 2), 1 / (m + 2)], [n, m])

    def loss(line: np.ndarray) -> float:
        z = line[0] * logits + line[1]
        return float((np.logaddexp(0, z) - targets * z).sum())

    line = minimize(loss, [1.0, 0.0], tol=1e-10).x
    assert (found.slope, found.intercept) == pytest.approx(tuple(line), abs=1e-3)


def test_a_finding_with_too_few_films_or_no_use_stays_as_it_is() -> None:
    positives, negatives = drawn(1, 0, 200).of("Mass")
    assert calibrated(positives, negatives) is not None
    assert calibrated(negatives, positives) is None, "its AUC is below a half"
    few = np.zeros_like(positives)
    few[300] = 19
    assert calibrated(few, negatives) is None
    few[300] = 20
    apart = np.zeros_like(positives)
    apart[10] = 50
    found = calibrated(few, apart)
    assert found is not None
    assert np.isfinite(found.slope)
    assert (found.sensitivity, found.specificity) == (1, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a run's folder whose hospitals told histograms of its last model."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_model(folder / "final.pt")
    config = {"run_id": "abc", "rounds": ROUND, "strategy": "fedavg", "image_size": 48}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "histograms").mkdir()
    texts = {f"hospital-{i}": drawn(0.5, -1, 200, seed=i).to_text() for i in range(2)}
    (folder / "histograms" / f"round-{ROUND + 1:04d}.json").write_text(json.dumps(texts))
    rng = np.random.default_rng(0)
    for i in range(3):
        path = tmp_path / f"{i}.dcm"
        film(rng.integers(0, 4096, (60, 50), np.uint16)).save_as(path, enforce_file_format=True)
    return folder


def test_what_flower_predict_tells_is_calibrated(model: Path) -> None:
    films = sorted(model.parent.glob("*.dcm"))
    told = json.loads(run("flower-predict", model, *films, "--format", "json").stdout)
    text = (model / "histograms" / f"round-{ROUND + 1:04d}.json").rename(model / "away").read_text()
    plain = json.loads(run("flower-predict", model, *films, "--format", "json").stdout)
    assert "thresholds" not in plain
    first, second = (Histograms.from_text(each) for each in json.loads(text).values())
    together = first + second
    assert told["calibrated"] == list(FINDINGS)
    assert len(told["films"]) == 3
    for own, before in zip(told["films"], plain["films"], strict=True):
        called = []
        for finding in FINDINGS:
            of = calibrated(*together.of(finding))
            assert isinstance(of, Calibrated)
            value = before["probabilities"][finding]
            logit = np.log(value / (1 - value))
            assert own["probabilities"][finding] == pytest.approx(of.probability(logit), abs=1e-5)
            if logit >= of.threshold:
                called.append(finding)
            assert told["thresholds"][finding]["sensitivity"] == of.sensitivity
        assert own["above_threshold"] == called
    assert run("flower-predict", model, films[0]).stdout.splitlines()[0].endswith("Hernia")


def test_an_exported_model_keeps_calibration_and_thresholds(model: Path) -> None:
    out = model.parent / "model.safetensors"
    assert run("flower-export", model, "--out", out).returncode == 0
    films = sorted(model.parent.glob("*.dcm"))
    given = [run("flower-predict", file, *films).stdout for file in (model, out)]
    assert given[0] == given[1]
    assert given[0].splitlines()[0].endswith("Hernia,above_threshold")
    card = out.with_name("model.safetensors.md").read_text()
    assert "| Hernia | 0." in card.split("## Thresholds")[1].split("## Limits")[0]


def test_a_moving_average_is_not_calibrated_by_another_model(model: Path) -> None:
    assert read_model(model).calibration
    write_model(model / "ema.pt", round=ROUND, ema=0.9)
    assert read_model(model / "ema.pt").calibration == {}


def test_damaged_histograms_are_named(model: Path) -> None:
    (model / "histograms" / f"round-{ROUND + 1:04d}.json").write_text('{"a": "noise"}')
    failed = run("flower-predict", model, model.parent / "0.dcm")
    assert failed.returncode == 2
    assert f"round-{ROUND + 1:04d}.json: damaged; restore it from a backup" in failed.stderr
