import csv
import json
import logging
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from common.errors import BadInput
from common.findings import FINDINGS
from common.protocol import Instruction, Reply
from common.runtime.files import now, write_json
from common.scores import rounded
from common.wire import fingerprint, pack
from server.report.cli import write_report
from server.report.conduct import incidents, spans
from server.report.facts import cautions, facts_of
from server.report.page import Chapter, chapters_of, page_of, read_runs
from server.run.events import Refused
from server.run.histograms import read_histograms
from server.run.log import RunLog
from server.run.records import read_rounds, read_run_status
from tests.support.commands import assert_one_line, run
from tests.support.hospitals import lost
from tests.support.pages import rows_of
from tests.support.reports import TEST_FILMS, Figures, cells, recorded_run, tables_of

OF_A_RUN = {
    *("auc", "last", "findings", "hospitals", "roc", "calibration", "shares", "attendance"),
    *("norm", "cosine", "time", "hospital-time", "traffic"),
}


def chapters(folder: Path) -> list[Chapter]:
    return chapters_of(read_runs([folder]))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from which one hospital was away; look, but do not write."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    return recorded_run(folder, {"hospital-01": lost}, name="Pilot <b>")


@pytest.fixture(scope="module")
def text(recorded: Path) -> str:
    """The page on it."""
    return page_of(chapters(recorded))


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def test_a_hospital_that_was_left_out_stands_at_the_top(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = chapters(recorded_run(tmp_path / "run", {"hospital-01": spoiled}, rounds=4))
    top = found[0].top
    what = "hospital-01: excluded, rejected in 3 of 4 rounds (tensor &#x27;&lt;b"
    assert top.index("Not every hospital counts") < top.index(what) < top.index("<table")
    assert "4 rounds are done; not every hospital counts: hospital-01: excluded" in (
        caplog.records[-1].getMessage()
    )
    attended = tables_of(found)["attendance"]
    assert attended[3][2].startswith("rejected: tensor")
    assert attended[4][2] == "missing: excluded"


def spoiled(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    """Return weights with a tensor that no model has; its name is no HTML."""
    if instruction.task == "evaluate":
        return reply, blob
    blob = pack({**load(blob), "<b>": np.zeros(1)})
    return reply.model_copy(update={"weights": fingerprint(blob)}), blob


def test_the_page_has_every_finding_and_every_hospital(text: str) -> None:
    rows = rows_of(text)
    assert "<h1>Run Pilot &lt;b&gt;</h1>" in text
    assert rows["Run"] == ["0123456789ab"]
    assert rows["Rounds"][0].startswith("3 of 3; the best model is that of round ")
    assert rows["Model"] == ["densenet-tiny, finetune, from start.pt"]
    assert rows["settings: temperature"] == ["0.2"]
    assert rows["torch"] == ["2.0"]
    assert f"({TEST_FILMS} films)" in rows["Mean AUC on the test films"][0]
    assert "the line went dead" in text
    assert "Not a medical device" in text


def test_late_replies_and_who_was_not_asked_are_told_apart(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    kept = lines[1]["hospitals"]
    kept["hospital-00"]["stale"] = 1
    del kept["hospital-02"]
    lines[1] |= {"busy": ["hospital-02"], "missing": []}
    lines[2]["hospitals"] = {name: lines[2]["hospitals"][name] for name in ("hospital-00",)}
    lines[2] |= {"drawn": {"hospital-00": 1.0}, "missing": []}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, _, second, third = tables_of(chapters(folder))["attendance"]
    assert second[1:] == ["counted, 1 round behind", "-", "went on with an earlier model"]
    assert third[1:] == ["counted", "not drawn", "not drawn"]


def test_the_page_does_not_promise_what_was_trained_before(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for part in lines[-1]["hospitals"].values():
        part["privacy"] = {"epsilon": 2, "delta": 1e-5}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = json.loads((folder / "config.json").read_text()) | {"dp": "site"}
    for origin, limit in (
        ({"method": "simclr"}, ""),
        (
            {"method": "fedavg", "run": "old"},
            "; of this run's training alone: the first model is from run old (without noise)",
        ),
    ):
        write_json(folder / "config.json", config | {"origin": origin})
        (run,) = read_runs([folder])
        promise = facts_of(run)["Privacy"]
        assert promise.startswith("differential privacy of each hospital: epsilon 2.00 at")
        assert promise.endswith(f"what the server itself sees, and all scores{limit}")


def test_nothing_on_the_page_comes_from_elsewhere(text: str) -> None:
    # Names of SVG's elements, which nobody fetches.
    assert not re.findall(r"https?:(?!//www\.w3\.org/(?:2000/svg|1999/xlink))", text)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", text)
    assert not re.findall(r"url\((?!#)", text)
    assert not re.findall(r"<(?:script|link|img|iframe|object|base)\b|@import", text)


def test_every_figure_has_its_numbers_on_the_page_and_in_files(
    recorded: Path, text: str, tmp_path: Path
) -> None:
    out, figures = tmp_path / "report.html", tmp_path / "a" / "figures"
    write_report([recorded], out, figures)
    assert out.read_text() == text
    found = Figures(text)
    assert found.tables.keys() == OF_A_RUN
    assert {name for name, count in found.drawings.items() if count == len(FINDINGS)} == {
        *("findings", "roc", "calibration")
    }
    assert all(found.drawings.values())
    for name, table in found.tables.items():
        assert len(table) > 1, name
        with (figures / f"{name}.csv").open(newline="") as file:
            assert list(csv.reader(file)) == table
        assert (figures / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert (figures / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    assert len(list(figures.iterdir())) == 3 * len(OF_A_RUN)


def test_the_command_writes_the_same_page(recorded: Path, text: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = run("flower-report", recorded, "--out", out, timeout=200)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{out}\n", "")
    assert out.read_text() == text


def test_the_numbers_are_those_of_the_records(recorded: Path, text: str) -> None:
    tables = Figures(text).tables
    rounds, status = read_rounds(recorded), read_run_status(recorded)
    assert status.pooled is not None
    assert status.validation is not None
    for finding, row in zip(FINDINGS, tables["last"][1:], strict=True):
        of, test = status.pooled.by_finding[finding], rounds[-1].test
        assert test is not None
        assert row[0] == finding.replace("_", " ")
        assert row[2] == rounded(test.auc_by_finding[finding])
        assert row[3] == "7"
        assert row[4:7] == [rounded(of.auc), rounded(of.low), rounded(of.high)]
        assert row[7:9] == [str(of.positives), str(of.negatives)]
        assert row[9] == rounded(status.validation.auc_by_finding[finding])
    by_round = tables["auc"][1:]
    assert [row[0] for row in by_round] == ["0", "1", "2", "3"]
    assert rounds[0].pooled is not None
    # A round's own AUC is that of the model before it.
    assert by_round[0][2] == rounded(rounds[0].pooled.auc)
    assert by_round[3][2] == rounded(status.pooled.auc)
    own = [part.auc for part in rounds[1].hospitals.values() if part.auc is not None]
    assert by_round[1][6:] == [rounded(min(own)), rounded(max(own))]
    assert tables["attendance"][1][1:] == ["counted", "missing: the line went dead", "counted"]
    assert tables["norm"][2][1] == rounded(rounds[1].hospitals["hospital-00"].update_norm)
    assert tables["norm"][2][2] == "-"
    sent = sum(record.hospitals["hospital-02"].bytes.sent for record in rounds)
    assert tables["traffic"][3] == ["hospital-02", *[f"{sent / 1e6:.1f}"] * 2]


def test_class_shares_are_those_of_the_hospitals_films(recorded: Path, text: str) -> None:
    tables = Figures(text).tables
    table, last = tables["shares"], tables["last"]
    histograms = read_histograms(recorded, 4)
    assert table[0] == ["Finding", *histograms]
    for row, of_all in zip(table[1:], last[1:], strict=True):
        counts = [[int(number) for number in cell.split(" of ")] for cell in row[1:]]
        positives, known = (sum(column) for column in zip(*counts, strict=True))
        assert [positives, known - positives] == [int(text) for text in of_all[7:9]]


def test_a_run_of_an_earlier_version_says_what_is_not_recorded(folder: Path) -> None:
    shutil.rmtree(folder / "histograms")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["pooled"]
        for part in line["hospitals"].values():
            del part["auc_intervals"], part["pace"], part["cosine"]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = json.loads((folder / "status.json").read_text())
    del status["pooled"], status["best_by"], status["round"]
    write_json(folder / "status.json", status)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {n: v for n, v in config.items() if n in OLD})
    text = page_of(chapters(folder))
    assert Figures(text).tables.keys() == OF_A_RUN - {"roc", "calibration", "shares", "cosine"}
    rows = rows_of(text)
    assert rows["Mean AUC, validation films of all hospitals"] == ["not recorded"]
    assert rows["Origin"][0].startswith("not recorded")
    assert "Not recorded: no hospital told histograms" in text
    assert "<h1>Run 0123456789ab</h1>" in text


def test_updates_that_change_nothing_are_drawn_at_zero(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        for part in line["hospitals"].values():
            part["update_norm"] = part["update_norm"] and 0.0
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tables_of(chapters(folder))["norm"][1][1] == rounded(0.0)


OLD = {
    *("run_id", "rounds", "architecture", "mode", "init", "strategy", "local_epochs", "lr"),
    *("batch_size", "label_fraction", "seed"),
}
"""Fields of the configuration that every version had."""


def test_a_run_that_was_stopped_is_measured_by_what_it_was_to_do_last(folder: Path) -> None:
    stopped = {"state": "stopped", "time": now(), "reason": "SIGTERM", "rounds": 5}
    write_json(folder / "status.json", stopped)
    run = read_runs([folder])[0]
    assert facts_of(run)["Rounds"] == "3 of 5"
    assert cautions(run)[0].startswith("The run is not done: stopped")


def test_schedule_and_moving_average_are_told(folder: Path) -> None:
    names = ("config.json", "status.json")
    config, status = (json.loads((folder / name).read_text()) for name in names)
    assert "moving average" not in page_of(chapters(folder))
    status["ema"] = {"test": None, "validation": {"auc": 0.75, "auc_by_finding": {}}}
    status["ema"]["pooled"] = {**status["pooled"], "auc": 0.8125}
    write_json(folder / "status.json", status)
    config |= {"ema": 0.9, "schedule": "cosine", "warmup": 5}
    write_json(folder / "config.json", config)
    facts = facts_of(read_runs([folder])[0])
    assert "(after 5 rounds of warm-up, falling as a cosine)" in facts["Averaging"]
    told = facts["Mean AUC of the models' moving average (decay 0.9)"]
    assert told.startswith("validation films of all hospitals 0.812 (")
    assert told.endswith("; mean at the hospitals 0.750")


def test_what_is_half_written_is_left_out(folder: Path) -> None:
    whole = tables_of(chapters(folder))
    for name in ("rounds.jsonl", "events.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"round": 4, "hosp')
    assert tables_of(chapters(folder)) == whole


def test_a_file_that_says_something_else_is_named_or_left_out(folder: Path) -> None:
    histograms = "histograms/round-0004.json"
    for name in ("events.jsonl", "status.json", "rounds.jsonl", "config.json", histograms):
        whole = (folder / name).read_bytes()
        for content in ("[]\n", "{}\n", "5\n"):
            (folder / name).write_text(content)
            with suppress(BadInput):
                chapters(folder)
        (folder / name).write_bytes(whole)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="restore it from a backup"):
        chapters(folder)


def test_bad_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert_one_line(run("flower-report", tmp_path, "--out", out), 2, "name the folder of a run")
    assert_one_line(run("flower-report", "--out", out), 2, "RUNS")
    (folder / "rounds.jsonl").write_text("")
    assert_one_line(run("flower-report", folder, "--out", out), 2, "no round is done yet")


def test_a_refusal_is_counted_as_often_as_it_was(folder: Path) -> None:
    log = RunLog(folder)
    log.record(Refused(site="coast", reason="coast was revoked"))
    log.record(Refused(site="coast", reason="coast was revoked", times=700))
    log.close()
    (told,) = [row for row in cells(incidents(read_runs([folder])[0])) if row[0] == "coast"]
    assert told == ["coast", "refused", "701", "-", "coast was revoked"]


def test_rounds_in_few_words() -> None:
    assert spans([4, 1, 2, 3, 9, 7, 2]) == "1 to 4, 7, 9"
    assert spans([]) == "-"
