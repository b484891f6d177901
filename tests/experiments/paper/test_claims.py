from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from common.bootstrap import Films
from common.findings import FINDINGS
from common.options import Mode
from experiments.paper.cells import Cell, Environment, FirstModel, RoundLine, Split, TrialLine
from experiments.paper.claims import CLAIMS, LABEL_FRACTIONS, verdicts
from experiments.paper.rates import chosen_rate, trials_at_chosen_rate
from experiments.paper.verdict import Verdict
from tests.support.trials import FILMS, NOISE

ENVIRONMENT = Environment(commit="0", torch="2", cpu="a", gpu=None, precision="fp32", threads=1)
BEST: dict[FirstModel, float] = {
    "random": 0.2,
    "imagenet": 0.5,
    "rotation": 0.8,
    "simclr": 1.3,
    "byol": 1.4,
    "mocov2": 2.0,
}
"""Signal in the scores of each first model; as the paper has it, and clearly so."""


def trial(
    first_model: FirstModel = "mocov2",
    split: Split = "spread",
    mode: Mode = "finetune",
    seed: int = 0,
    lr: float = 0.1,
    labels: float = 1.0,
    validation: float | None = 0.6,
    test: Sequence[float | None] = (0.5, 0.6, 0.7),
    **changes: Any,
) -> TrialLine:
    cell = Cell(
        scale="small",
        first_model=first_model,
        split=split,
        mode=mode,
        seed=seed,
        lr=lr,
        rounds=len(test) - 1,
        label_fraction=labels,
    ).model_copy(update=changes)
    rounds = [
        RoundLine(round=i, validation_auc=None, test_auc=auc, loss=None, bytes=0, seconds=1)
        for i, auc in enumerate(test)
    ]
    return TrialLine(
        cell=cell,
        rounds=rounds,
        validation_auc=validation,
        test_auc_by_finding=dict.fromkeys(FINDINGS, test[-1]),
        first_model_sha256=None,
        model_sha256="0",
        hospitals_lost=[],
        hospitals_unusual=[],
        seconds=1,
        environment=ENVIRONMENT,
    )


def grid(seeds: Sequence[int] = (0, 1)) -> list[TrialLine]:
    curves: dict[FirstModel, Sequence[float]] = {
        "random": (0.5, 0.52, 0.54, 0.56, 0.58, 0.6),
        "mocov2": (0.5, 0.62, 0.7, 0.7, 0.7, 0.7),
    }
    lines = []
    for seed in seeds:
        for model in BEST:
            curve = curves.get(model, (0.5,) * 6)
            lines.append(trial(model, "iid", "linear", seed, test=curve))
            lines.append(trial(model, seed=seed, test=curve))
        for model in ("random", "mocov2"):
            lines.append(trial(model, "last", seed=seed, test=curves[model]))
            lines += [
                trial(model, seed=seed, labels=labels, test=curves[model])
                for labels in LABEL_FRACTIONS
            ]
    return lines


def found_in(
    lines: Sequence[TrialLine],
    signal: Mapping[FirstModel, float] = BEST,
    drop: Mapping[FirstModel, float] | None = None,
    films: Films = FILMS,
    draws: int = 500,
) -> dict[tuple[str, str], Verdict]:
    """The verdicts by table and claim."""
    drop = drop or {"random": 0.2, "mocov2": 0.0}
    by_name = {line.cell.name: line.cell for line in lines}

    def scores_of(name: str) -> Any:
        cell = by_name[name]
        strength = signal[cell.first_model]
        strength -= drop[cell.first_model] if cell.label_fraction < 1 else 0
        shaken = np.random.default_rng(cell.seed).normal(0, 0.1, FILMS.labels.shape)
        return (strength * FILMS.labels + NOISE + shaken).astype(np.float16)

    found = verdicts(lines, scores_of, films, draws=draws)
    by_claim = {(verdict.table, verdict.claim): verdict for verdict in found}
    assert len(by_claim) == len(found)
    return by_claim


METHOD, ROTATION = (
    "MoCo-v2 is the best method",
    ("Each instance-discrimination method is above rotation"),
)
RANDOM, IMAGENET = "Each method is above random weights", "MoCo-v2 is above ImageNet"
ABOUT = "MoCo-v2 is about 13 % above random weights"
LABELS = "MoCo-v2 loses less than random weights with fewer labels"
ROUNDS = "MoCo-v2 needs fewer rounds than random weights"


def test_the_paper_is_right() -> None:
    found = found_in(grid((0, 1, 2)))
    for table in ("table1", "table2"):
        for claim in (METHOD, ROTATION, RANDOM):
            assert found[table, claim].decision == "holds", claim
    assert found["table2", IMAGENET].decision == "holds"
    assert found["table3", LABELS].decision == "holds"
    assert found["figure6", ROUNDS].decision == "holds"
    one = found["table2", IMAGENET]
    assert one.difference is not None
    assert one.low is not None
    assert one.high is not None
    assert 0 < one.low < one.difference < one.high
    assert one.ratio is None
    assert (one.seeds, one.films, one.patients, one.note) == (3, 500, 60, "")
    assert sum(not verdict.part for verdict in found.values()) == len(CLAIMS)
    assert len(found) == sum(1 + len(c.comparisons) * (len(c.comparisons) > 1) for c in CLAIMS)


def test_verdicts_flip_with_the_numbers() -> None:
    lines = grid()
    turned: dict[FirstModel, float] = {model: 2.2 - signal for model, signal in BEST.items()}
    found = found_in(lines, turned, {"random": 0.0, "mocov2": 0.2})
    for table in ("table1", "table2"):
        for claim in (METHOD, ROTATION, RANDOM):
            assert found[table, claim].decision == "does not hold", claim
    assert found["table2", IMAGENET].decision == "does not hold"
    assert found["table2", ABOUT].decision == "does not hold"
    assert found["table3", LABELS].decision == "does not hold"
    same = found_in(lines, dict.fromkeys(BEST, 1.0), {"random": 0.1, "mocov2": 0.1})
    assert same["table2", METHOD].decision == "undecided"
    assert same["table2", METHOD].difference == 0
    assert same["table3", LABELS].decision == "undecided"


def test_one_comparison_decides_for_all() -> None:
    found = found_in(grid(), {**BEST, "byol": 2.5})
    whole = found["table2", METHOD]
    against = found["table2", f"{METHOD}: mocov2 above byol"]
    assert against.decision == whole.decision == "does not hold"
    assert (whole.difference, whole.low, whole.p) == (against.difference, against.low, against.p)
    assert whole.note == "does not hold: mocov2 above byol"
    assert whole.seeds_fixed, "of two seeds"
    assert found["table2", f"{METHOD}: mocov2 above simclr"].decision == "holds"
    equal = found_in(grid(), {**BEST, "byol": 2.0})
    assert equal["table2", METHOD].decision == "undecided"


@pytest.mark.parametrize(
    ("signal", "decision", "note"),
    [
        (0.47, "holds", "ratio"),
        (0.25, "does not hold", "below 1.13"),
        (2, "does not hold", "above"),
    ],
)
def test_about_13_percent(signal: float, decision: str, note: str) -> None:
    found = found_in(grid(), {**BEST, "mocov2": signal})
    for table in ("table2", "table2-last"):
        verdict = found[table, ABOUT]
        assert (verdict.decision, note in verdict.note) == (decision, True), verdict
        assert verdict.ratio is not None
        assert verdict.difference is not None
        assert verdict.difference > 0
        assert (verdict.p is None) == (decision == "does not hold"), "p is of another question"


def test_holm_counts_each_comparison_of_a_table_once() -> None:
    smallest = 2 / 501  # of 500 draws
    # MoCo-v2 above SimCLR, BYOL, rotation; SimCLR and BYOL above rotation; four above random; and
    # MoCo-v2 above ImageNet: 10 comparisons. Some stand in several claims.
    claim = f"{RANDOM}: mocov2 above random"
    found = found_in(grid((0,)))
    ps = {claim: v.p for (table, claim), v in found.items() if table == "table2"}
    assert ps[claim] == pytest.approx(10 * smallest)
    assert ps[f"{METHOD}: mocov2 above rotation"] == ps[f"{ROTATION}: mocov2 above rotation"]
    alone = found_in([trial("mocov2"), trial("random")])
    assert alone["table2", claim].p == ps[claim], "those not run yet count too"
    assert alone["table2", IMAGENET].p is None
    last = [trial(model, "last") for model in ("mocov2", "random")]
    about = found_in(last, {**BEST, "mocov2": 0.47})["table2-last", ABOUT]
    assert about.p == pytest.approx(smallest)


def test_missing_cells_are_named() -> None:
    lines = [line for line in grid() if line.cell.first_model not in ("imagenet", "byol")]
    lines = [line for line in lines if line.cell.label_fraction != 0.01]
    found = found_in(lines)
    missing = found["table2", IMAGENET]
    assert (missing.decision, missing.difference, missing.p) == ("not run", None, None)
    assert missing.note == "no trial (spread, finetune) of imagenet"
    assert missing.seeds == 0
    assert found["table1", METHOD].decision == "not run"
    assert "byol" in found["table1", METHOD].note
    assert found["table1", f"{METHOD}: mocov2 above simclr"].decision == "holds"
    assert found["table3", LABELS].decision == "not run"
    assert "random with 1 % of the labels" in found["table3", LABELS].note
    assert found["table3", f"{LABELS}: 5 % of the labels"].decision == "holds"
    worse = found_in(lines, {**BEST, "simclr": 2.5})
    assert worse["table1", METHOD].decision == "does not hold"  # whatever BYOL would be
    assert {verdict.decision for verdict in found_in([]).values()} == {"not run"}


def test_seeds_are_those_that_both_have() -> None:
    lines = [trial("mocov2", seed=s) for s in (0, 1, 2, 3)] + [
        trial("imagenet", seed=s) for s in (1, 2, 3)
    ]
    three = found_in(lines)["table2", IMAGENET]
    assert (three.seeds, three.seeds_fixed) == (3, False)
    two = found_in(lines[:-1])["table2", IMAGENET]
    assert two.seeds == 2
    assert two.seeds_fixed
    none = found_in([trial("mocov2", seed=0), trial("imagenet", seed=1)])["table2", IMAGENET]
    assert (none.decision, none.note) == ("not run", "no seed of which there are all trials")


def test_an_interval_that_leaves_out_0_is_not_enough_among_many_comparisons() -> None:
    claim = "table2", f"{RANDOM}: mocov2 above random"
    among_ten = found_in(grid((0,)), draws=200)[claim]
    assert among_ten.decision == "undecided"
    assert among_ten.low is not None
    assert among_ten.low > 0
    assert among_ten.p == pytest.approx(10 * 2 / 201)
    turned: dict[FirstModel, float] = {**BEST, "mocov2": 0.0}
    below = found_in(grid((0,)), turned, draws=200)[claim]
    assert below.decision == "undecided"
    assert below.high is not None
    assert below.high < 0


def test_nothing_counts_where_positives_are_few() -> None:
    labels = np.zeros_like(FILMS.labels)
    labels[:19] = 1
    found = found_in(grid(), films=Films(labels, FILMS.patients))
    verdict = found["table2", IMAGENET]
    assert (verdict.decision, verdict.difference) == ("undecided", None)
    assert "positive test films" in verdict.note


def test_rounds_are_counted_to_randoms_auc() -> None:
    random = (0.5, 0.52, 0.54, 0.56, 0.58, 0.6)
    lines = [
        *(trial("random", seed=s, test=random) for s in (0, 1, 2)),
        trial("mocov2", seed=0, test=(0.5, 0.61, 0.6, 0.6, 0.6, 0.6)),
        trial("mocov2", seed=1, test=(0.5, 0.58, 0.6, 0.6, 0.6, 0.6)),
        trial("mocov2", seed=2, test=(0.5, None, 0.55, 0.6, 0.7, 0.7)),
    ]
    whole = found_in(lines)["figure6", f"{ROUNDS}: 100 % of the final AUC of random"]
    assert whole.difference == 3  # 5 - 1, 5 - 2, 5 - 3
    # By hand: standard deviation 1, t of 2 degrees of freedom 4.303.
    assert whole.low == pytest.approx(3 - 4.303 / 3**0.5, abs=1e-3)
    assert whole.high == pytest.approx(3 + 4.303 / 3**0.5, abs=1e-3)
    assert whole.note.startswith("rounds: 2.0 against 5.0")
    assert "rounding" not in whole.note
    one = found_in([lines[0], lines[3]])["figure6", f"{ROUNDS}: 95 % of the final AUC of random"]
    assert one.difference == 3  # 0.57 is reached in round 4, and in round 1
    assert (one.low, one.high, one.decision) == (None, None, "undecided")
    assert not any(verdict.seeds_fixed for verdict in (whole, one)), "it is over seeds"
    alike = [*lines[:3], *(trial("mocov2", seed=s, test=(0.5, *[0.6] * 5)) for s in (0, 1, 2))]
    certain = found_in(alike)["figure6", f"{ROUNDS}: 95 % of the final AUC of random"]
    assert "as wide as rounding" in certain.note
    assert certain.difference == 3  # to 95 %, in round 1 against round 4
    assert certain.low == pytest.approx(3 - 4.303 * (1 / 6 / 3) ** 0.5, abs=1e-3)


def test_a_curve_that_never_gets_there_counts_as_longer_than_it_ran() -> None:
    lines = [trial("random"), trial("mocov2", test=(0.5, 0.5, 0.5))]
    verdict = found_in(lines)["figure6", f"{ROUNDS}: 98 % of the final AUC of random"]
    assert verdict.difference == 2 - 3
    assert "not reached by 1" in verdict.note


def test_no_curve_is_not_run() -> None:
    lines = [trial("random", test=(None, None)), trial("mocov2", test=(0.5, 0.6))]
    verdict = found_in(lines)["figure6", ROUNDS]
    assert verdict.decision == "not run"
    assert lines[0].cell.name in verdict.note


def test_the_rate_is_chosen_by_validation_never_by_the_test() -> None:
    low = [trial(lr=0.01, seed=s, validation=0.61, test=(0.5, 0.5)) for s in (0, 1)]
    high = [trial(lr=0.1, seed=s, validation=0.59, test=(0.5, 0.9)) for s in (0, 1)]
    assert chosen_rate([*low, *high], "mocov2", "table2") == 0.01
    assert trials_at_chosen_rate([*high, *low], "mocov2", "table2") == {0: low[0], 1: low[1]}
    turned = [trial(lr=0.1, seed=s, validation=0.62, test=(0.5, 0.4)) for s in (0, 1)]
    assert chosen_rate([*low, *turned], "mocov2", "table2") == 0.1
    asked = []

    def scores_of(name: str) -> Any:
        asked.append(name)
        return NOISE

    verdicts([*low, *high, trial("random", test=(0.5, 0.5))], scores_of, FILMS, draws=2)
    assert low[0].cell.name in asked
    assert high[0].cell.name not in asked


def test_the_rate_belongs_to_a_first_model_and_a_table() -> None:
    lines = [
        trial(lr=0.1, validation=0.7),
        trial(lr=0.01, validation=0.6),
        trial(split="iid", mode="linear", lr=0.1, validation=0.6),
        trial(split="iid", mode="linear", lr=0.01, validation=0.7),
        trial("random", lr=0.5, validation=0.5),
        trial(lr=0.2, validation=0.9, hospitals="union"),
        trial(lr=0.3, validation=0.9, hospitals=4),
        trial(lr=0.1, validation=None, hospitals=4),
        trial(lr=0.01, labels=0.1, validation=0.9),
        trial(lr=0.1, labels=0.1, validation=0.1),
    ]
    assert chosen_rate(lines, "mocov2", "table1") == 0.01
    assert chosen_rate(lines, "mocov2", "table2") == 0.1
    assert chosen_rate(lines, "mocov2", "table3") == 0.1
    assert chosen_rate(lines, "random", "table2") == 0.5
    alone = trials_at_chosen_rate(lines, "mocov2", "bounds", hospitals=4)
    assert alone == {0: lines[7]}, "at the federation's rate, though its validation has no AUC"
    assert trials_at_chosen_rate(lines, "mocov2", "bounds", hospitals="union") == {}
    assert chosen_rate(lines, "byol", "table2") is None
    assert trials_at_chosen_rate(lines, "byol", "table2") == {}
    assert trials_at_chosen_rate(lines, "mocov2", "table3", 0.1) == {0: lines[-1]}


def test_rates_are_compared_over_seeds_that_all_have() -> None:
    one = trial(lr=0.1, seed=0, validation=0.60)
    lines = [
        one,
        trial(lr=0.01, seed=0, validation=0.59),
        trial(lr=0.01, seed=1, validation=0.9),  # an easier seed
    ]
    assert chosen_rate(lines, "mocov2", "table2") == 0.1
    assert chosen_rate([one, lines[2]], "mocov2", "table2") == 0.01
    equal = [trial(lr=0.1), trial(lr=0.02)]
    assert chosen_rate(equal, "mocov2", "table2") == 0.02
    undefined = [*equal, trial(lr=0.3, validation=0.9), trial(lr=0.3, seed=1, validation=None)]
    assert chosen_rate(undefined, "mocov2", "table2") == 0.02
    assert chosen_rate([trial(validation=None)], "mocov2", "table2") is None


@pytest.mark.parametrize(
    ("changes", "message"), [({"scale": "full"}, "scales"), ({"rounds": 9}, "rounds")]
)
def test_trials_that_cannot_be_compared(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found_in([trial(), trial("random", **changes)])
