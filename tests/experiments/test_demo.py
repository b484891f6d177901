import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments.demo import _demo
from experiments.demo_results import page, sparkline, table, verdict


@pytest.mark.long
def test_with_tiny_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--hospitals", "2", "--images", "32", "--size", "48", "--epochs", "1")
    _demo([*options, "--rounds", "1", "--architecture", "densenet-tiny", "--out", str(tmp_path)])
    shown = capfd.readouterr().out
    assert re.search(r"round +pretrained +random weights\n +start ", shown)
    (folder,) = tmp_path.glob("run-*")
    assert "<svg" in (folder / "report.html").read_text()
    for name in ("pretrained", "random"):
        assert (folder / name / "final.pt").exists()
    _, predict = (shlex.split(line) for line in shown.splitlines()[-2:])
    table = subprocess.run(predict, check=True, capture_output=True, text=True).stdout
    assert "film.png,0." in table


def test_the_verdict_follows_the_numbers() -> None:
    random = [0.5, 0.6, 0.7]
    ahead = verdict([0.5, 0.72, 0.8], random)
    assert "the model of round 1 is as good as that of round 2" in ahead
    assert "0.800 against 0.700" in ahead
    for end in (0.65, 0.75):  # ahead only at the end: no round was saved
        assert "saved no round" in verdict([0.5, 0.6, end], random)
    assert "not known" in verdict([0.5, 0.6, None], random)


def test_table_and_page_show_both_curves() -> None:
    curves = [0.5, None, 0.8], [0.5, 0.6, 0.7]
    lines = table(*curves).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["start", "0.500", "0.500"],
        ["1", "-", "0.600"],
        ["2", "0.800", "0.700"],
    ]
    html = page(*curves, "How <it> was made.")
    assert "How &lt;it&gt; was made." in html
    assert html.count("0.800") == 2  # the verdict and the table


def test_sparkline() -> None:
    assert sparkline([0.5, None, 0.8, 0.6], 0.5, 0.8) == "▁ █▃"
    assert sparkline([0.5, 0.5], 0.5, 0.5) == "▁▁"
