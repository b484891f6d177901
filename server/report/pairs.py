"""Differences between the last models of two runs, with intervals where the records support them.

Only numbers of the same films, findings or hospitals are subtracted. What can be said of their
uncertainty depends on what is paired:

- Test films: they are the same, but without each film's score there is no interval.
- Pooled validation films: an interval from both AUCs' own, as if the films were others. On the same
  films the AUCs of two models as a rule go up and down together, so that it is too wide.
- Hospitals: pairs that are independent of each other, so that their mean has Student's interval.
"""

import math
from collections.abc import Mapping
from statistics import mean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from common.differences import Estimate, differences, mean_difference
from common.findings import FINDINGS
from common.scores import mean_auc
from server.report.run import Own, Run

LEAST_HOSPITALS = 3
"""With fewer pairs of hospitals their mean difference has no interval."""


def same_test(first: Run, other: Run) -> bool:
    """Return whether two runs scored their models on the same test films."""
    return first.config.test_sha256 is not None and (
        first.config.test_sha256 == other.config.test_sha256
    )


def test_differences(first: Run, other: Run) -> dict[str, float]:
    """Return ``other - first`` by finding, of the last models' AUCs on the same test films."""
    one, two = first.last.test, other.last.test
    if one is None or two is None or not same_test(first, other):
        return {}
    return {
        finding: b - a
        for finding in FINDINGS
        if (a := one.auc_by_finding[finding]) is not None
        and (b := two.auc_by_finding[finding]) is not None
    }


def pooled_differences(first: Run, other: Run) -> dict[str, Estimate]:
    """Return ``other - first`` by finding, of the last models' AUCs on all validation films."""
    one, two = first.pooled.get(first.last.round), other.pooled.get(other.last.round)
    return {} if one is None or two is None else differences(two.by_finding, one.by_finding)


def mean_pooled_difference(first: Run, other: Run) -> Estimate | None:
    """Return the difference of the means over the findings that both runs have."""
    one, two = first.pooled.get(first.last.round), other.pooled.get(other.last.round)
    return None if one is None or two is None else mean_difference(two.by_finding, one.by_finding)


class Pair(NamedTuple):
    """A hospital's own mean AUC in two runs, over the findings that both have.

    Attributes:
        films: Validation films in the first run, and in the other.
    """

    first: float
    other: float
    findings: int
    films: tuple[int, int]


def hospital_pairs(first: Run, other: Run) -> dict[str, Pair]:
    """Return the hospitals that scored the last model that each run has scores of, by name."""
    found = {}
    for name in sorted({*first.hospitals} & {*other.hospitals}):
        one, two = _last_own(first, name), _last_own(other, name)
        if one is None or two is None:
            continue
        both = [
            finding
            for finding in FINDINGS
            if _of(one, finding) is not None and _of(two, finding) is not None
        ]
        means = [mean_auc({f: _of(own, f) for f in both}) for own in (one, two)]
        if means[0] is not None and means[1] is not None:
            found[name] = Pair(means[0], means[1], len(both), (one.films, two.films))
    return found


def mean_of_pairs(pairs: Mapping[str, Pair]) -> Estimate | None:
    """Return the hospitals' mean difference, each counting the same, with Student's interval."""
    differences = [pair.other - pair.first for pair in pairs.values()]
    if not differences:
        return None
    value, count = mean(differences), len(differences)
    if count < LEAST_HOSPITALS:
        return Estimate(value)
    half = float(stdtrit(count - 1, 0.975)) * stdev(differences) / math.sqrt(count)
    return Estimate(value, value - half, value + half)


def _last_own(run: Run, name: str) -> Own | None:
    """Return a hospital's scores of the last model that any hospital of the run has scored."""
    last = max((number for of in run.hospitals for number in run.own(of)), default=None)
    return None if last is None else run.own(name).get(last)


def _of(own: Own, finding: str) -> float | None:
    return own.auc_by_finding.get(finding)


def obstacles(first: Run, other: Run) -> list[str]:
    """Return why two runs' numbers are not to be compared, or not without care."""
    a, b = first.config, other.config
    found = []
    if not same_test(first, other):
        found.append(
            "their test films are not the same, or not known to be: no difference of test "
            "AUCs is shown"
        )
    if a.seed != b.seed:
        found.append(
            f"their seeds differ ({a.seed}, {b.seed}): hospitals kept other films for validation, "
            "and every draw was another one"
        )
    if a.image_size != b.image_size:
        found.append(f"their films are {a.image_size} and {b.image_size} pixels wide")
    if a.architecture != b.architecture:
        found.append(f"their models differ: {a.architecture}, {b.architecture}")
    if first.last.round != other.last.round:
        found.append(f"they have done {first.last.round} and {other.last.round} rounds")
    if only := sorted({*first.hospitals} ^ {*other.hospitals}):
        found.append(f"not in both: {', '.join(only)}")
    changed = [n for n, pair in hospital_pairs(first, other).items() if len({*pair.films}) > 1]
    if changed:
        found.append(f"other numbers of validation films at {', '.join(changed)}")
    return found
