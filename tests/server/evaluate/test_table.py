"""The table of an evaluation, for people and for programs."""

from pathlib import Path

from common.differences import MEAN, differences, mean_difference
from common.histograms import histograms_of, total
from common.readings import aucs_of, pooled
from common.scores import Scores
from server.evaluate.records import HospitalScores, ScoredModel
from server.evaluate.table import table_of, text_of
from server.run.histograms import write_histograms
from tests.support.histograms import some_films


def test_the_table_fits_a_terminal_and_subtracts_on_the_same_films_alone(tmp_path: Path) -> None:
    names = [f"hospital-{number:02d}" for number in range(10)]
    scored = []
    for number in (1, 2):
        there = names if number == 1 else names[:9]
        told = {name: histograms_of(*some_films(60 * number, i)) for i, name in enumerate(there)}
        write_histograms(tmp_path, number, told)
        summed = total(told.values())
        assert summed is not None
        scored.append(
            ScoredModel(
                number=number,
                file=f"{number}.pt",
                origin="fedavg",
                sha256="0" * 64,
                hospitals={
                    name: HospitalScores(
                        scores=Scores(
                            images=60,
                            loss=0.3,
                            auc=0.5,
                            auc_by_finding={n: a.auc for n, a in aucs_of(of).items()},
                        ),
                        findings=aucs_of(of),
                    )
                    for name, of in told.items()
                },
                rejected={},
                missing=names[len(there) :],
                pooled=pooled(summed),
                test=None,
            )
        )
    table = table_of(tmp_path, "run", 5, scored)
    lines = list(text_of(table, 80))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(text.count(name) >= 2 for name in names)
    assert "  not in it: hospital-09: no answer" in lines
    assert len(list(text_of(table, 170))) < len(lines)
    ends = [row for row in table.rows if row.kind == "difference"]
    common = [
        total(histograms_of(*some_films(60 * number, i)) for i in range(9)) for number in (2, 1)
    ]
    first, second = (aucs_of(each) for each in common if each is not None)
    expected = {name: of.value for name, of in differences(first, second).items()}
    mean = mean_difference(first, second)
    assert mean is not None
    assert {row.finding: row.value for row in ends} == {**expected, MEAN: mean.value}
    exact = [row.model_copy(update={"bound": None}) for row in table.rows]
    exact[-1] = exact[-1].model_copy(update={"bound": 0.01})
    marked = text_of(table.model_copy(update={"rows": exact}), 80)
    assert [line.split()[0] for line in marked if "~" in line] == ["mean", "~:"]
