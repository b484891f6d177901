"""The paper's claims, and what the trials say of each.

A claim is one comparison of two first models or several. Each comparison has a verdict, and several
have one together besides.

- *holds*: the 95 % interval of the difference lies above 0, and p after Holm's correction is below
  0.05. The correction is over all comparisons of the table, each counted once: those that are not
  run yet count as p = 1, so that no verdict is lost as they arrive.
- *does not hold*: the interval lies below 0, and p is below 0.05 too.
- *undecided*: neither.
- *not run*: cells are missing; the note says which.

"About 13 %" does not hold if the interval of the ratio of the two mean AUCs lies below 1.13, or
above it; the note says which, and p, which is of the difference, is left out. Otherwise it is
decided as the others: that it holds says that the difference is above 0 and that 1.13 is among the
ratios that the films allow, not that it is 1.13.

Several comparisons together hold if all do and do not hold if one does not; else they were not run
if one was not, and are undecided if one is. The numbers told are those of the comparison that
decides: of those with the same verdict, the one with the smallest difference.

In table 3 the difference is of drops: how much more AUC random weights lose with fewer labels. In
figure 6 it is of rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy.typing as npt

from common.bootstrap import DRAWS, Bootstrap, Estimate, Films
from experiments.paper.cells import FirstModel, TrialLine
from experiments.paper.holm import holm
from experiments.paper.measured import Comparison, Measured, Trials
from experiments.paper.verdict import Decision, Verdict

METHODS: tuple[FirstModel, ...] = ("rotation", "simclr", "byol", "mocov2")

LABEL_FRACTIONS = (0.5, 0.25, 0.1, 0.05, 0.01)

FINAL_SHARES = (0.95, 0.98, 1.0)
"""Shares of random's final AUC to be reached. An AUC starts near 0.5, which is 0.83 of 0.6: smaller
shares would be reached before the first round."""

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        words: The claim.
        comparisons: What must hold, one at least, all of one table.
        ratio: That of the two mean AUCs, where the claim is about one.
    """

    words: str
    comparisons: tuple[Comparison, ...]
    ratio: float | None = None


def _of_methods(table: Literal["table1", "table2"]) -> tuple[Claim, ...]:
    """Return the claims that are made of both tables."""
    return (
        Claim(
            "MoCo-v2 is the best method",
            tuple(Comparison(table, "mocov2", other) for other in METHODS if other != "mocov2"),
        ),
        Claim(
            "Each instance-discrimination method is above rotation",
            tuple(Comparison(table, other, "rotation") for other in METHODS if other != "rotation"),
        ),
        Claim(
            "Each method is above random weights",
            tuple(Comparison(table, method, "random") for method in METHODS),
        ),
    )


CLAIMS = (
    *_of_methods("table1"),
    *_of_methods("table2"),
    Claim("MoCo-v2 is above ImageNet", (Comparison("table2", "mocov2", "imagenet"),)),
    Claim(
        "MoCo-v2 is about 13 % above random weights",
        (Comparison("table2", "mocov2", "random"),),
        ratio=1.13,
    ),
    Claim(
        "MoCo-v2 is about 13 % above random weights",
        (Comparison("table2-last", "mocov2", "random"),),
        ratio=1.13,
    ),
    Claim(
        "MoCo-v2 loses less than random weights with fewer labels",
        tuple(Comparison("table3", "mocov2", "random", share) for share in LABEL_FRACTIONS),
    ),
    Claim(
        "MoCo-v2 needs fewer rounds than random weights",
        tuple(Comparison("figure6", "mocov2", "random", share) for share in FINAL_SHARES),
    ),
)


def verdicts(
    lines: Sequence[TrialLine],
    scores_of: Callable[[str], npt.NDArray[Any]],
    films: Films,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Verdict]:
    """Return the verdict on each claim, followed by those on its comparisons if it has several.

    Args:
        lines: Trials of one scale.
        scores_of: Returns the scores of the test films by a cell's name: float, N x 14.
        films: Test films.
        seed: Seed of the bootstrap.
        draws: Draws of the bootstrap. The smallest p is 2 x comparisons / draws: with the ten of
            table 2, nothing can hold with fewer than 400.

    Raises:
        ValueError: if scales differ, or the rounds of one setting, or if scores are not numbers.
    """
    trials = Trials(lines, scores_of, Bootstrap(films, seed, draws))
    measured = {c: trials.compare(c) for claim in CLAIMS for c in claim.comparisons}
    corrected = _corrected(measured)
    found = []
    for claim in CLAIMS:
        parts = [
            _verdict(claim, c, measured[c], corrected.get(c), films) for c in claim.comparisons
        ]
        found += together(claim.words, parts)
    return found


def _corrected(measured: Mapping[Comparison, Measured]) -> dict[Comparison, float]:
    """Return the p-values after Holm's correction within each table, of what was run."""
    by_table: dict[str, dict[Comparison, float]] = {}
    for comparison, found in measured.items():
        p = 1.0 if found.difference is None else found.difference.p
        by_table.setdefault(comparison.table, {})[comparison] = p
    return {
        comparison: p
        for ps in by_table.values()
        for comparison, p in zip(ps, holm(list(ps.values())), strict=True)
        if measured[comparison].difference is not None
    }


def _verdict(
    claim: Claim, comparison: Comparison, measured: Measured, p: float | None, films: Films
) -> Verdict:
    """Return the verdict on one comparison of a claim; p is corrected, None if there is none."""
    decision, p, notes = _decision(claim, measured, p)
    words = claim.words
    if len(claim.comparisons) > 1:
        words += f": {_words(comparison)}"
    ratio = measured.ratio.value if claim.ratio and measured.ratio else None
    notes = [*notes, measured.note]
    return verdict_of(
        words, comparison.table, decision, measured.difference, films, notes, p, ratio
    )


def verdict_of(
    words: str,
    table: str,
    decision: Decision,
    difference: Estimate | None,
    films: Films,
    notes: Sequence[str],
    p: float | None = None,
    ratio: float | None = None,
) -> Verdict:
    """Return a verdict on one comparison.

    Args:
        words: The claim.
        table: Where it is read off.
        decision: What is decided of it.
        difference: Of the two; None: there is none.
        films: Test films.
        notes: What a reader must know; empty ones are left out.
        p: Corrected, if the claim has one.
        ratio: Of the two mean AUCs, where the claim is one.
    """
    return Verdict(
        claim=words,
        table=table,
        decision=decision,
        difference=difference and difference.value,
        low=difference and _finite(difference.low),
        high=difference and _finite(difference.high),
        p=p,
        ratio=ratio,
        seeds=difference.seeds if difference else 0,
        seeds_fixed=difference is not None
        and not difference.seeds_resampled
        and isfinite(difference.low),
        films=len(films.labels),
        patients=len(set(films.patients)),
        note="; ".join(filter(None, notes)),
    )


def _decision(
    claim: Claim, measured: Measured, p: float | None
) -> tuple[Decision, float | None, list[str]]:
    """Return the decision by the rule above, the p that it rests on, and what is to be noted."""
    if not measured.run:
        return "not run", None, []
    difference, ratio = measured.difference, measured.ratio
    if difference is None or p is None:
        return "undecided", None, ["no finding has enough positive test films"]
    notes = []
    if claim.ratio is not None and ratio is not None:
        interval = f"interval of the ratio {ratio.low:.3f} to {ratio.high:.3f}"
        if ratio.high < claim.ratio:
            return "does not hold", None, [f"{interval}, below {claim.ratio}"]
        if ratio.low > claim.ratio:
            return "does not hold", None, [f"{interval}, above {claim.ratio}"]
        notes.append(interval)
    if p < SIGNIFICANCE and difference.low > 0:
        return "holds", p, notes
    if p < SIGNIFICANCE and difference.high < 0:
        return "does not hold", p, notes
    return "undecided", p, notes


def together(words: str, parts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdict on a claim, followed by those on its comparisons if it has several.

    That on several has the numbers of the one that decides.

    Args:
        words: The claim.
        parts: The verdicts on its comparisons, whose claims begin with these words.
    """
    if len(parts) == 1:
        return list(parts)
    order: list[Decision] = ["does not hold", "not run", "undecided", "holds"]
    decision = min((part.decision for part in parts), key=order.index)
    alike = [part for part in parts if part.decision == decision]
    deciding = min(alike, key=lambda part: part.difference or 0.0)
    names = [part.claim.removeprefix(f"{words}: ") for part in alike]
    note = f"{decision}: {', '.join(names)}"
    if decision == "not run":
        note = "; ".join(dict.fromkeys(part.note for part in alike))
    whole = deciding.model_copy(update={"claim": words, "note": note})
    return [whole, *(part.model_copy(update={"part": True}) for part in parts)]


def _words(comparison: Comparison) -> str:
    """Return what is compared, as it is said after the claim."""
    if comparison.table == "table3":
        return f"{100 * comparison.share:g} % of the labels"
    if comparison.table == "figure6":
        return f"{100 * comparison.share:g} % of the final AUC of {comparison.below}"
    return f"{comparison.above} above {comparison.below}"


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None
