"""What the report takes of the lines: first models whose rate is chosen."""

from pathlib import Path

import numpy as np
import pytest

from common.bootstrap import Films
from common.errors import BadInput
from common.findings import FINDINGS
from common.runtime.files import append_json
from experiments.paper.assemble_tables import result_table
from experiments.paper.cells import Cell, FailedLine
from experiments.paper.cli import command
from experiments.paper.report_input import Interval, Missing, Number
from experiments.paper.results import Results
from experiments.paper.scales import SCALES, cells_of
from tests.support.shards import make_shard
from tests.support.trials import FILMS, MadeUpResults, line

SCALE = SCALES["tiny"]
SLOW, FAST = (cell for cell in cells_of(SCALE, "table2", {}) if cell.first_model == "random")


def keep(folder: Path, *cells: Cell) -> None:
    for cell in cells:
        append_json(folder / "trials.jsonl", line(cell, 0.6, test=0.6).model_dump(mode="json"))


def test_a_report_before_any_rate_is_chosen_says_what_to_do(tmp_path: Path) -> None:
    keep(tmp_path, SLOW)
    folders = [f"--{name}={tmp_path}" for name in ("root", "results")]
    with pytest.raises(BadInput, match="tiny has been tried at all its learning rates yet; go on"):
        command(["report", "--scale=tiny", *folders])


def test_a_first_model_with_a_rate_that_failed_is_reported_at_the_others(tmp_path: Path) -> None:
    keep(tmp_path, SLOW)
    failed = FailedLine(cell=FAST, reason="it diverged")
    append_json(tmp_path / "failed.jsonl", failed.model_dump(mode="json"))
    test = make_shard(tmp_path / "data" / "test", images=60)
    (tmp_path / "scores").mkdir()
    np.save(tmp_path / "scores" / f"{SLOW.name}.npy", np.zeros((len(test), 14), np.float16))
    found = Results(SCALE, tmp_path, tmp_path / "data")
    assert found.rates == {("finetune", "random"): SLOW.lr}
    table = result_table(found, "table2", ("random",), found.failed)
    assert not isinstance(table, Missing)
    assert [(row.lr, row.failed_rates) for row in table.rows] == [(SLOW.lr, [FAST.lr])]


def test_a_finding_that_some_draws_lack_has_no_interval() -> None:
    labels = FILMS.labels.copy()
    mass, hernia = FINDINGS.index("Mass"), FINDINGS.index("Hernia")
    for column, patients in ((mass, {"p3"}), (hernia, set())):
        labels[:, column] = [patient in patients for patient in FILMS.patients]
    cells = [
        cell for cell in cells_of(SCALES["small"], "table2", {})
        if cell.first_model in ("random", "mocov2")
    ]  # fmt: skip
    lines = [line(cell, 0.6, test=0.6) for cell in cells]
    films = Films(labels, FILMS.patients)
    found = MadeUpResults(SCALES["small"], lines, lambda _: 0.5, films)
    table = result_table(found, "table2", ("random", "mocov2"), [])
    assert not isinstance(table, Missing)
    random, moco = table.rows
    for numbers in (random.auc_by_finding, moco.over_random_by_finding):
        assert type(numbers["Mass"]) is Number, "of one patient's films"
        assert numbers["Hernia"] is None
        assert sum(isinstance(number, Interval) for number in numbers.values()) == 12
    assert isinstance(random.mean, Interval)
