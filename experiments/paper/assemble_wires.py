"""From the trials to the wires' table, and what is claimed of each wire.

A claim is of bytes and of AUC, both against fp32 of the same first model and seeds: in a round
after the first at most this share travels, and less AUC than a margin is lost. The first round is
left out since its model goes to all in fp32, so that its share depends on the number of rounds.

- *holds*: the 95 % interval of the difference of AUC lies above minus the margin.
- *does not hold*: the interval lies below minus the margin, or more bytes travel.
- *undecided*: neither.
- *not run*: there are no trials of it.

"No measurable loss" is a weaker claim. It holds if the difference itself is above minus 0.002 and
its interval is not below 0; it does not hold if the interval is below 0.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple, get_args

from common.bootstrap import Estimate
from common.options import Wire
from experiments.paper.cells import FailedLine, FirstModel, TrialLine
from experiments.paper.claims import together, verdict_of
from experiments.paper.report_input import (
    TITLES,
    Missing,
    Traffic,
    WireReport,
    WireResult,
    WireTable,
)
from experiments.paper.results import NOT_RUN, Results, interval, reason_for, trials_by
from experiments.paper.scales import wire_cells
from experiments.paper.verdict import Decision, Verdict

By = tuple[FirstModel, Wire]


class Claim(NamedTuple):
    """What is claimed of a wire.

    Attributes:
        wire: The wire.
        share: Of the bytes of fp32, at most.
        margin: AUC; less than it is lost.
        proven: Whether the whole interval must be within the margin, and not the difference alone.
        words: The claim.
    """

    wire: Wire
    share: float
    margin: float
    proven: bool
    words: str


CLAIMS = (
    Claim("bf16", 0.5, 0.002, False, "bf16: at most 50 % of the bytes, no measurable loss of AUC"),
    Claim("int8", 0.25, 0.002, True, "int8: at most 25 % of the bytes, less than 0.002 AUC lost"),
    Claim("topk", 0.05, 0.01, True, "topk: at most 5 % of the bytes, less than 0.01 AUC lost"),
)


def wire_report(found: Results, failed: Sequence[FailedLine]) -> WireReport | Missing:
    """Return a table of wires for each first model, and the verdicts on the claims.

    Args:
        found: The trials.
        failed: Trials that failed: the reason for a result that is missing.
    """
    if all(line.cell.wire == "fp32" for line in found.lines):
        return Missing(reason=NOT_RUN)
    cells = wire_cells(found.scale, found.rates)
    trials = trials_by(found.lines, cells, lambda cell: (cell.first_model, cell.wire))
    differences: dict[By, Estimate | None] = {
        (model, wire): found.bootstrap.difference(
            found.means(done), found.means(trials.get((model, "fp32"), {}))
        )
        for (model, wire), done in trials.items()
        if wire != "fp32"
    }

    def result(model: FirstModel, wire: Wire) -> WireResult | Missing:
        done, exact = trials.get((model, wire)), trials.get((model, "fp32"), {})
        if done is None:
            wanted = {c for c in cells if (c.first_model, c.wire) == (model, wire)}
            return Missing(reason=reason_for(failed, lambda cell: cell in wanted))
        later, total = _traffic(done, exact)
        return WireResult(
            mean=found.interval(found.means(done)),
            over_fp32=interval(differences.get((model, wire))),
            seeds=len(done),
            later=later,
            total=total,
        )

    tables = [
        WireTable(first_model=model, results={wire: result(model, wire) for wire in get_args(Wire)})
        for model in found.scale.strategies
    ]
    return WireReport(
        verdicts=[
            verdict for claim in CLAIMS for verdict in _verdicts(claim, tables, differences, found)
        ],
        tables=tables,
    )


def _traffic(
    trials: Mapping[int, TrialLine], exact: Mapping[int, TrialLine]
) -> tuple[Traffic, Traffic]:
    """Return the traffic of a round after the first, and that of all rounds; means over seeds.

    Of the rounds after the first it is their median's: hospitals of a trial that was stopped and
    went on have forgotten what they held, and one more round travels whole.
    """

    def means(of: Mapping[int, TrialLine]) -> tuple[float, float]:
        # Of one round alone, that is the later one.
        rounds = [[at.bytes for at in line.rounds[1:]] for line in of.values()]
        later = fmean(median(sizes[1:] or sizes) for sizes in rounds)
        return later, fmean(sum(sizes) for sizes in rounds)

    whole = means(exact) if exact else (None, None)
    later, total = (
        Traffic(bytes=round(size), share=of and size / of)
        for size, of in zip(means(trials), whole, strict=True)
    )
    return later, total


def _verdicts(
    claim: Claim,
    tables: Sequence[WireTable],
    differences: Mapping[By, Estimate | None],
    found: Results,
) -> list[Verdict]:
    """Return the verdict on a claim, followed by those of each first model if there are several."""
    parts = []
    for table in tables:
        result = table.results[claim.wire]
        difference = differences.get((table.first_model, claim.wire))
        words = claim.words
        if len(tables) > 1:
            words += f": from {TITLES[table.first_model]}"
        decision, note = _decision(claim, result, difference)
        parts.append(verdict_of(words, "wires", decision, difference, found.films, [note]))
    return together(claim.words, parts)


def _decision(
    claim: Claim, result: WireResult | Missing, difference: Estimate | None
) -> tuple[Decision, str]:
    """Return the decision by the rule above, and what is to be noted of it."""
    if isinstance(result, Missing):
        return "not run", result.reason
    later, total = result.later.share, result.total.share
    if later is None or total is None:
        return "not run", "no trial in fp32"
    if difference is None:
        return "undecided", "no seed that fp32 has too, or no finding with enough positive films"
    note = f"{later:.1%} of the bytes in a round after the first, {total:.1%} in all"
    if later > claim.share or difference.high < (-claim.margin if claim.proven else 0):
        return "does not hold", note
    if (difference.low if claim.proven else difference.value) > -claim.margin:
        return "holds", note
    return "undecided", note
