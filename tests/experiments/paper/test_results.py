"""What the report takes of the lines: first models whose rate is chosen."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.bootstrap import Films
from common.errors import BadInput
from common.findings import FINDINGS
from common.runtime.files import append_json
from experiments.paper.assemble_tables import bounds, fraction_table, result_table
from experiments.paper.cells import Cell, FailedLine
from experiments.paper.cli import command
from experiments.paper.report_input import Interval, Missing, Number
from experiments.paper.results import Results
from experiments.paper.scales import SCALES, Rates, cells_of
from server.rounds.checks import DIVERGED
from tests.support.shards import make_shard
from tests.support.trials import FILMS, MadeUpResults, line, made_up_scores

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
    failed = FailedLine(cell=FAST, reason=f"{DIVERGED} 1 at 3 of 3")
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


def signal_of(cell: Cell) -> float:
    """Return how much a made-up model knows: more from MoCo-v2, with more labels and films."""
    known = 0.3 + 0.3 * (cell.first_model == "mocov2") + 0.1 * np.log10(cell.label_fraction)
    return float(known + {"all": 0.0, "union": 0.1}.get(str(cell.hospitals), -0.2))


def slow_mean(cells: list[Cell]) -> float:
    aucs = [
        roc_auc_score(FILMS.labels[:, i], made_up_scores(cell, signal_of(cell))[:, i])
        for cell in cells
        for i in range(14)
    ]
    return float(np.mean(aucs))


def test_drops_and_bounds_to_the_last_digit() -> None:
    scale = SCALES["small"]
    rates: Rates = {("finetune", "random"): 0.05, ("finetune", "mocov2"): 0.1}
    cells = [
        cell
        for table in ("table2", "table3", "bounds")
        for cell in cells_of(scale, table, rates)
        if cell.first_model in ("random", "mocov2") and cell.split == "spread"
    ]
    right = {model: rate for (_, model), rate in rates.items()}
    lines = [
        line(cell, 0.6 + (cell.lr == right[cell.first_model]), test=0.6)
        for cell in dict.fromkeys(cells)
    ]
    found = MadeUpResults(scale, lines, signal_of)
    table, both = fraction_table(found, []), bounds(found)
    assert not isinstance(table, Missing)
    assert not isinstance(both, Missing)
    for row in table.rows:
        lr = right[row.first_model]
        full = Cell(
            scale="small", first_model=row.first_model, split="spread", mode="finetune", seed=0,
            lr=lr, rounds=10,
        )  # fmt: skip
        assert [cell.fraction for cell in row.cells] == [1, 0.5, 0.25, 0.1, 0.05, 0.01]
        seeds = [full.model_copy(update={"seed": seed}) for seed in range(3)]
        for of in row.cells:
            fewer = [s.model_copy(update={"label_fraction": of.fraction}) for s in seeds[:2]]
            if of.fraction == 1:
                assert (of.seeds, of.drop) == (3, None)
                assert of.mean is not None
                assert of.mean.value == pytest.approx(slow_mean(seeds), abs=1e-12)
                continue
            assert (of.lr, of.seeds) == (lr, 2)
            assert of.drop is not None
            expected = slow_mean(seeds[:2]) - slow_mean(fewer)
            assert of.drop.value == pytest.approx(expected, abs=1e-12)
            if row.first_model == "random":
                assert of.over_random is None
                continue
            randoms = [
                s.model_copy(update={"first_model": "random", "lr": right["random"]}) for s in fewer
            ]
            assert of.over_random is not None
            over = slow_mean(fewer) - slow_mean(randoms)
            assert of.over_random.value == pytest.approx(over, abs=1e-12)
        bound = next(bound for bound in both if bound.first_model == row.first_model)
        union = [s.model_copy(update={"hospitals": "union"}) for s in seeds[:2]]
        alone = [seeds[0].model_copy(update={"hospitals": 3})]
        for result, trained in ((bound.union, union), (bound.alone[3], alone)):
            assert result is not None
            assert result.seeds == len(trained)
            assert result.mean is not None
            assert result.over_federation is not None
            mean = slow_mean(trained)
            assert result.mean.value == pytest.approx(mean, abs=1e-12)
            over = mean - slow_mean(seeds[: len(trained)])
            assert result.over_federation.value == pytest.approx(over, abs=1e-12)


def test_weights_that_one_table_lacks_no_table_has() -> None:
    cell = next(c for c in cells_of(SCALES["small"], "table1", {}) if c.first_model == "imagenet")
    found = MadeUpResults(SCALES["small"], [], signal_of)
    table = result_table(found, "table2", ("imagenet",), [FailedLine(cell=cell, reason="no file")])
    assert table == Missing(reason="no file")
