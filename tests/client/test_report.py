"""The page that a hospital gets: what it says, of whom, and that it ends nothing."""

import re
from pathlib import Path
from typing import Any

import pytest

from client.exchanged import Exchanged
from client.kept import Interval, KeptModels, OwnScores
from client.report import page, write_report
from client.state import ClientState
from common.findings import FINDINGS
from common.protocol import RunResult
from tests.support.disks import needs_root, small_disk
from tests.support.pages import rows_of

FEDERATION = {finding: 0.5 + 0.03 * i for i, finding in enumerate(FINDINGS)}
KNOWN = "Films with it, of those in which it is known"
SHA256 = "0123456789abcdef" * 4


def result(**changes: Any) -> RunResult:
    fields = {"rounds": 5, "best_round": 4, "hospitals": 9, "auc_by_finding": FEDERATION}
    counts = {"took_part": 3, "rejected": 1, "missing": 1}
    return RunResult.model_validate({**fields, **counts, **changes})


def scores(number: int, auc: float = 0.7, **changes: Interval | None) -> OwnScores:
    interval = Interval(auc=auc, low=auc - 0.1, high=auc + 0.1)
    return OwnScores(
        round=number,
        sha256=SHA256,
        films=31,
        patients=20,
        positives={finding: i for i, finding in enumerate(FINDINGS)},
        auc_by_finding={finding: changes.get(finding, interval) for finding in FINDINGS},
    )


TRAFFIC = Exchanged(
    hellos=2,
    replies=6,
    received=(6, 170_000_000),
    sent=(4, 113_000_000),
    examples=412,
    hello_fields={"site": [], "examples": []},
    reply_fields={"validation": ["images", "auc"], "status": []},
)


def test_the_page_has_the_hospitals_part_and_its_numbers_beside_the_others() -> None:
    few = Interval(auc=0.9, low=None, high=None)
    final = scores(5, Mass=None, Nodule=few)
    told = {**FEDERATION, "Hernia": None}
    both = {"final": final, "best": scores(4, 0.6)}
    text = page("a", "r1", result(auc_by_finding=told), TRAFFIC, both)
    rows = rows_of(text)
    assert rows["Hospital"] == ["a"]
    assert rows["Run"][0].startswith("r1, over since 20")
    assert rows["Rounds"] == ["counted in 3 of 5, rejected in 1, missing in 1"]
    assert rows["Films"] == ["412 trained on in the last round; 31 of 20 patients for validation"]
    assert rows["Received"] == ["6 models, 170.0 MB"]
    assert rows["Sent"] == ["4 models, 113.0 MB"]
    assert rows["Final model"] == [f"final.pt, made by round 5; SHA-256 of its weights: {SHA256}"]
    assert rows["Best model"] == [f"best.pt, made by round 4; SHA-256 of its weights: {SHA256}"]
    headings = [KNOWN, "Final model, here", "Best model, here"]
    assert rows["Finding"] == [*headings, "Final model, all hospitals"]
    assert rows["Effusion"] == [
        "2 of 31",
        "0.700 (0.600 to 0.800)",
        "0.600 (0.500 to 0.700)",
        "0.560",
    ]
    assert rows["Mass"][1:] == ["-", "0.600 (0.500 to 0.700)", "0.620"]
    nodules = FINDINGS.index("Nodule")
    assert rows["Nodule"][1] == f"0.900 ({nodules} of 31 films)"
    assert rows["Hernia"][3] == "-"
    # Fair: of Mass, Nodule and Hernia two lack a number somewhere.
    whole = [FEDERATION[f] for f in FINDINGS if f not in ("Mass", "Hernia")]
    ours = (0.9 + 11 * 0.7) / 12
    assert rows["Mean of the 12 with all numbers"] == [
        *("", f"{ours:.3f}", "0.600", f"{sum(whole) / 12:.3f}")
    ]
    assert rows["Replies"] == ["6", "validation (images, auc), status"]
    assert "over 9 hospitals" in text
    assert "not limited by" in text


def test_the_films_in_which_a_finding_is_not_known_are_not_counted() -> None:
    negatives = dict.fromkeys(FINDINGS, 10)
    final = scores(5, Effusion=Interval(auc=0.9, low=None, high=None))
    final = final.model_copy(update={"negatives": negatives})
    rows = rows_of(page("a", "r1", result(), TRAFFIC, {"final": final}))
    assert rows["Effusion"][:2] == ["2 of 12", "0.900 (2 of 12 films)"]
    assert rows["Hernia"][0] == "13 of 23"


def test_a_page_without_models_says_so_and_the_best_may_be_the_final_one() -> None:
    rows = rows_of(page("a", "r1", result(best_round=5), Exchanged(), {}))
    assert rows["Final model"][0].startswith("not kept here")
    assert rows["Best model"] == ["the final one"]
    assert rows["Finding"] == [KNOWN, "Final model, all hospitals"]
    assert rows["Effusion"] == ["-", "0.560"]


def test_nothing_in_it_is_code_or_comes_from_elsewhere() -> None:
    bad = "<script>alert(1)</script>"
    traffic = Exchanged(reply_fields={bad: [bad]}, hello_fields={bad: []})
    text = page(bad, bad, result(), traffic, {"final": scores(5)})
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 9  # title and heading have both names
    assert not re.findall(r'(?:src|href)="|url\(|@import', text)


def kept_in(folder: Path) -> KeptModels:
    state = ClientState(folder)
    state.note("hello", run="r1", hello={"site": "a"})
    return KeptModels(state, 40)


def test_it_is_written_with_the_scores_of_the_models_of_this_end(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    folder = tmp_path / "models" / "r1"
    folder.mkdir(parents=True)
    for model, number in (("final", 5), ("best", 3)):
        (folder / f"{model}.pt").touch()
        (folder / f"{model}.json").write_text(scores(number).model_dump_json())
    write_report(kept, "a", "r1", result())
    rows = rows_of((folder / "report.html").read_text())
    assert rows["Final model"][0].startswith("final.pt")
    assert rows["Best model"][0].startswith("not kept here")  # that one is of an earlier end
    assert rows["Answers to greetings"] == ["1", "site"]
    (folder / "final.pt").unlink()
    (folder / "best.json").write_text("{}")
    write_report(kept, "a", "r1", result(best_round=3))
    rows = rows_of((folder / "report.html").read_text())
    assert rows["Final model"][0].startswith("not kept here")
    assert rows["Best model"][0].startswith("not kept here")


def test_without_a_result_or_a_place_there_is_no_page(tmp_path: Path) -> None:
    write_report(kept_in(tmp_path), "a", "r1", None)
    write_report(KeptModels(ClientState(None), 40), "a", "r1", result())
    assert not (tmp_path / "models").exists()


@needs_root
def test_a_page_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        kept = kept_in(disk.path)
        (disk.path / "models" / "r1").mkdir(parents=True)
        disk.fill()
        write_report(kept, "a", "r1", result())
        assert caplog.messages == ["no page on run r1: No space left on device"]
        assert list((disk.path / "models" / "r1").iterdir()) == []
