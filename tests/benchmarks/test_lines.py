"""What is read off the trials, and how exchange and training add up."""

import pytest

from benchmarks.lines import FLOWER, Exchange, rounds_to, table
from common.options import Wire
from experiments.paper.cells import RoundLine, TrialLine
from experiments.paper.scales import SCALES, Rates, wire_cells
from tests.support.trials import line

RATES: Rates = {("finetune", "random"): 0.05}
AUCS: dict[tuple[Wire, int], tuple[float, ...]] = {
    ("fp32", 0): (0.59, 0.5, 0.58, 0.6),
    ("fp32", 1): (0.5, 0.58, 0.59, 0.6),
    ("topk", 0): (0.5, 0.5, 0.5, 0.58),
    ("bf16", 0): (0.5, 0.5, 0.5, 0.5),
}


def trials() -> list[TrialLine]:
    found = []
    for cell in wire_cells(SCALES["small"], RATES):
        if aucs := AUCS.get((cell.wire, cell.seed)):
            rounds = [
                RoundLine(round=i, validation_auc=None, test_auc=auc, loss=None, bytes=0, seconds=1)
                for i, auc in enumerate(aucs)
            ]
            found.append(line(cell, 0.6, test=0.5).model_copy(update={"rounds": rounds}))
    return found


def test_rounds_are_counted_to_a_share_of_fp32s_auc_on_the_same_seed() -> None:
    lines = trials()
    assert rounds_to(lines, "random", "fp32") == [2, 1], "not the AUC before the first round"
    assert rounds_to(lines, "random", "topk") == [3]
    assert rounds_to(lines, "random", "bf16") == [None]
    assert rounds_to(lines, "random", "int8") == []


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("fp32", "| 10 | fp32 | 100.0 | 20.0 | 2, 1 | - | 170 | - |"),
        (FLOWER, "| 10 | plain Flower | 100.0 | 20.0 | 2, 1 | - | 170 | - |"),
        ("topk", "| 10 | topk | 100.0 | 20.0 | 3 | - | 260 | - |"),
        ("bf16", "| 10 | bf16 | 100.0 | 20.0 | never | - | - | - |"),
        ("int8", "| 10 | int8 | 100.0 | 20.0 | 2, 1* | - | 170* | - |"),
    ],
)
def test_exchange_and_training_add_up(name: str, row: str) -> None:
    rows = table({(10, name): Exchange(100, 20)}, 40, trials())
    assert rows[2:] == [row]
