"""The strategies' table: which trials it has, how settings are chosen, what it says."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiments.paper.assemble_strategies import NOT_TUNED, strategy_tables
from experiments.paper.cells import Cell, FailedLine, FirstModel, Method, RoundLine, TrialLine
from experiments.paper.data import make_synthetic
from experiments.paper.grid import Grid, read_trials
from experiments.paper.methods import METHODS
from experiments.paper.rates import chosen_settings, trials_at_chosen_rate
from experiments.paper.report_input import MethodResult, MethodRow, Missing, StrategyTable
from experiments.paper.scales import SCALES, Rates, Tuned, cells_of, method_cells
from experiments.paper.trial import keep_line, run_trial
from server.rounds.checks import DIVERGED
from tests.support.trials import Instant, MadeUpResults, line

COMMITTED = Path(__file__).parents[3] / "experiments" / "results"
SMALL = SCALES["small"]
RATES: Rates = {("finetune", "random"): 0.05, ("finetune", "mocov2"): 0.1}
TUNED: Tuned = {
    (method, model): recipe.tries[-1]
    for method, recipe in METHODS.items()
    for model in SMALL.strategies
}


def test_finished_trials_keep_their_names() -> None:
    lines = [line for folder in COMMITTED.iterdir() for line in read_trials(folder)]
    assert lines
    for found in lines:
        assert list(COMMITTED.glob(f"*/scores/{found.cell.name}.npy")), found.cell.name
    # As it was named before there were other methods than FedAvg.
    assert lines[0].cell.name == "spread-finetune-random-f1-lr0.02-s0-db4cd5de9a03"


def test_a_method_and_its_setting_are_in_the_name() -> None:
    cells = method_cells(SMALL, RATES, TUNED)
    assert len({cell.name for cell in cells}) == len(set(cells)) == len(cells)
    names = {cell.name.rsplit("-", 1)[0] for cell in cells}
    assert "spread-finetune-random-f1-lr0.05-s0-fedprox0.1" in names
    assert "dirichlet-finetune-mocov2-f1-lr0.1-s0-scaffold" in names


def test_the_trials_that_are_worth_most_come_first() -> None:
    cells = method_cells(SMALL, RATES, TUNED)
    places = dict.fromkeys((cell.split, cell.seed, cell.first_model) for cell in cells)
    assert list(places) == [
        (split, seed, model)
        for split, seed in [
            ("spread", 0), ("spread", 1), ("spread", 2), ("iid", 0), ("dirichlet", 0)
        ]
        for model in ("random", "mocov2")
    ]  # fmt: skip
    known = {cell for cell in cells if (cell.split, cell.seed) == ("spread", 0)}
    assert set(method_cells(SMALL, RATES, {})) == known, "the tries come before all else"
    assert method_cells(SMALL, {}, TUNED) == []


def test_fedavg_is_not_run_twice() -> None:
    shared = {
        cell
        for cell in cells_of(SMALL, "strategies", RATES, TUNED)
        if cell.method == "fedavg" and cell.split == "spread"
    }
    assert shared <= set(cells_of(SMALL, "table2", RATES))


def tries(method: Method, validation: Mapping[float, float | None]) -> list[TrialLine]:
    cells = [cell for cell in method_cells(SMALL, RATES, {}) if cell.method == method]
    return [
        line(cell, validation[cell.setting], test=1 - validation[cell.setting])  # type: ignore[index,operator]
        for cell in cells
        if cell.first_model == "random" and cell.setting in validation
    ]


def test_the_setting_is_chosen_by_validation_once_all_are_tried() -> None:
    lines = tries("fedyogi", {0.003: 0.6, 0.01: 0.7, 0.03: 0.65})
    key = "fedyogi", "random"
    assert chosen_settings(SMALL, lines[:2], RATES, []) == {}
    assert chosen_settings(SMALL, lines, RATES, []) == {key: 0.01}
    undefined = [lines[0], lines[1].model_copy(update={"validation_auc": None}), lines[2]]
    assert chosen_settings(SMALL, undefined, RATES, []) == {key: 0.03}
    later = lines[0].cell.model_copy(update={"seed": 1})
    assert chosen_settings(SMALL, [*lines, line(later, 0.9, test=0.9)], RATES, []) == {key: 0.01}


def test_a_setting_with_which_training_fails_is_passed_over() -> None:
    lines = tries("fedyogi", {0.003: 0.6, 0.01: 0.7, 0.03: 0.65})
    names = [line.cell.name for line in lines]
    assert chosen_settings(SMALL, [lines[0], lines[2]], RATES, names[1:2]) == {
        ("fedyogi", "random"): 0.03
    }
    assert chosen_settings(SMALL, [], RATES, names) == {}


def test_other_methods_do_not_stand_in_the_papers_tables() -> None:
    cell = method_cells(SMALL, RATES, {})[0]
    other = cell.model_copy(update={"method": "median"})
    lines = [line(cell, 0.6, test=0.6), line(other, 0.9, test=0.9)]
    assert trials_at_chosen_rate(lines, "random", "table2") == {0: lines[0]}


SIGNAL: dict[Method, float] = {"fedavg": 0.5, "fedavgm": 1.5, "median": 0.5, "fedadam": 0.1}
"""In the scores of each method."""


def found_in(lines: list[TrialLine]) -> MadeUpResults:
    scale = SMALL.model_copy(update={"methods": tuple(SIGNAL)})
    return MadeUpResults(scale, lines, lambda cell: SIGNAL[cell.method])


def trial(cell: Cell, validation: float = 0.6) -> TrialLine:
    aucs = {"fedavg": (0.5, 0.55, 0.6), "fedavgm": (0.5, 0.6, 0.7)}.get(cell.method, (0.5,) * 3)
    rounds = [
        RoundLine(
            round=i, validation_auc=None, test_auc=auc, loss=None, bytes=10 * (i > 0), seconds=1
        )
        for i, auc in enumerate(aucs)
    ]
    return line(cell, validation, test=0.5).model_copy(update={"rounds": rounds})


def grid() -> list[TrialLine]:
    """FedAvg's rates, and from random weights all but FedAdam's setting 0.03."""
    scale = SMALL.model_copy(update={"methods": tuple(SIGNAL)})
    tuned: Tuned = {
        ("fedavg", "random"): None, ("fedavgm", "random"): 1.0, ("median", "random"): None
    }  # fmt: skip
    cells = cells_of(scale, "strategies", RATES, tuned)
    best = {("random", 0.05), ("mocov2", 0.1)}
    return [
        trial(cell, 0.7 if (cell.first_model, cell.lr) in best and cell.setting != 0.3 else 0.6)
        for cell in cells
        if (cell.first_model == "random" or cell.method == "fedavg") and cell.setting != 0.03
    ]


def rows(table: StrategyTable) -> dict[Method, MethodRow]:
    return {row.method: row for row in table.rows}


def tables(lines: list[TrialLine], failed: list[FailedLine]) -> dict[FirstModel, StrategyTable]:
    results = found_in(lines)
    results.diverged = {line.cell.name for line in failed if line.diverged}
    found = strategy_tables(results, failed)
    assert not isinstance(found, Missing)
    return {table.first_model: table for table in found}


def test_methods_are_compared_with_fedavg_of_the_same_start_and_seeds() -> None:
    lines = grid()
    crash = next(
        cell
        for cell in method_cells(SMALL, RATES, {})
        if (cell.method, cell.setting) == ("fedadam", 0.03)
    )
    random = rows(tables(lines, [])["random"])
    momentum, median = (random[name].results["spread"] for name in ("fedavgm", "median"))
    assert isinstance(momentum, MethodResult)
    assert isinstance(median, MethodResult)
    assert random["fedavgm"].setting == 1.0
    assert momentum.seeds == 3
    assert momentum.over_fedavg is not None
    assert momentum.over_fedavg.low > 0
    assert momentum.p == pytest.approx(6 * 2 / 501), "three methods from two first models"
    assert median.over_fedavg is not None
    assert median.over_fedavg.value == pytest.approx(0)
    one = random["fedavgm"].results["dirichlet"]
    assert isinstance(one, MethodResult)
    assert (one.seeds, one.p) == (1, None)
    assert random["fedadam"].results["iid"] == Missing(reason=NOT_TUNED)
    diverged = FailedLine(cell=crash, reason=f"{DIVERGED} 1 at 3 of 3")
    random = rows(tables(lines, [diverged])["random"])
    assert random["fedadam"].setting == 0.003
    assert random["fedadam"].results["iid"] == Missing(reason="not run yet")
    failed = [line.cell for line in lines if line.cell.method == "fedadam"]
    without = [line for line in lines if line.cell not in failed]
    crashed = [FailedLine(cell=cell, reason="no memory") for cell in [*failed, crash]]
    random = rows(tables(without, crashed)["random"])
    assert random["fedadam"].results["iid"] == Missing(reason="no memory")
    assert [curve.seed for curve in random["fedavg"].curves] == [0, 1, 2]


def test_without_another_method_there_is_no_table() -> None:
    lines = [line for line in grid() if line.cell.method == "fedavg"]
    assert strategy_tables(found_in(lines), []) == Missing(reason="not run yet")


def validation(cell: Cell) -> float:
    return 0.7 if cell.setting in (None, 0.01) and cell.lr == 0.1 else 0.6


def test_a_grid_tunes_each_method_before_its_other_trials(tmp_path: Path) -> None:
    smoke, results, instant = SCALES["smoke"], tmp_path / "results", Instant(validation)
    Grid(smoke, ["table2"], tmp_path / "root", results, instant, ["random"]).run()
    before = [line.cell for line in read_trials(results)]
    Grid(smoke, ["strategies"], tmp_path / "root", results, instant).run()
    cells = [line.cell for line in read_trials(results)]
    assert len(set(cells)) == len(cells), "FedAvg's trials of table 2 are not run again"
    rates: Rates = {("finetune", "random"): 0.1}
    tuned: Tuned = {
        (method, "random"): 0.01 if 0.01 in recipe.tries else recipe.tries[0]
        for method, recipe in METHODS.items()
    }
    expected = [c for c in method_cells(smoke, rates, tuned) if c not in before]
    assert cells[len(before) :] == expected, "in the order of the plan"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies") / "data"
    make_synthetic(SCALES["tiny"], 40, folder)
    return folder


def cell(method: Method, rounds: int = 2) -> Cell:
    return Cell(
        scale="tiny", first_model="random", split="dirichlet", mode="finetune", seed=3, lr=0.05,
        rounds=rounds, method=method, setting=METHODS[method].tries[0],
    )  # fmt: skip


def test_each_method_makes_a_model_of_its_own(tmp_path: Path, data: Path) -> None:
    results, work = tmp_path / "results", tmp_path / "work"
    models = {}
    for method, recipe in METHODS.items():
        found = run_trial(cell(method, rounds=1), "random", data, results, work)
        config = json.loads((work / found.cell.name / "config.json").read_text())
        options = {**recipe.options, **({recipe.tuned: recipe.tries[0]} if recipe.tuned else {})}
        assert {name: config[name] for name in options} == options
        keep_line(found.cell, results, work)
        assert not list(work.iterdir()), "nothing is left"
        assert found.hospitals_lost == []
        models[method] = found.model_sha256
    assert len(set(models.values())) == len(METHODS)


def test_a_trial_goes_on_with_what_its_hospitals_kept(tmp_path: Path, data: Path) -> None:
    half, whole = cell("scaffold", rounds=1), cell("scaffold")
    results, work = tmp_path / "results", tmp_path / "work"
    run_trial(half, "random", data, results, work)
    for suffix in ("", ".states"):
        (work / f"{half.name}{suffix}").rename(work / f"{whole.name}{suffix}")
    resumed = run_trial(whole, "random", data, results, work)
    at_once = run_trial(whole, "random", data, results, tmp_path / "again")
    assert resumed.model_sha256 == at_once.model_sha256
