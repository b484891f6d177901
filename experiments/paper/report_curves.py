"""What is read off figure 6: mean curves, and how soon they reach a share of random's AUC."""

from collections.abc import Sequence

from experiments.paper.cells import FirstModel
from experiments.paper.report_input import Curve, CurvePoint


def by_first_model(curves: Sequence[Curve]) -> dict[FirstModel, list[Curve]]:
    """Return the curves of each first model, in the order in which they come."""
    found: dict[FirstModel, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.first_model, []).append(curve)
    return found


def mean_curve(curves: Sequence[Curve]) -> list[CurvePoint]:
    """Return the mean over seeds, of the rounds that all seeds have; undefined if one seed's is."""
    points = [{point.round: point for point in curve.points} for curve in curves]
    return [
        _mean([by_round[number] for by_round in points])
        for number in sorted(set().union(*points))
        if all(number in by_round for by_round in points)
    ]


def _mean(points: Sequence[CurvePoint]) -> CurvePoint:
    return CurvePoint(
        round=points[0].round,
        validation_auc=_mean_auc([point.validation_auc for point in points]),
        test_auc=_mean_auc([point.test_auc for point in points]),
        bytes=round(sum(point.bytes for point in points) / len(points)),
    )


def _mean_auc(aucs: Sequence[float | None]) -> float | None:
    defined = [auc for auc in aucs if auc is not None]
    return sum(defined) / len(defined) if len(defined) == len(aucs) else None


def random_end(curves: Sequence[Curve]) -> float | None:
    """Return random's mean test AUC after its last measured round, None if it has none."""
    points = mean_curve([curve for curve in curves if curve.first_model == "random"])
    return next((point.test_auc for point in reversed(points) if point.test_auc is not None), None)


def random_ends(curves: Sequence[Curve]) -> dict[int, float]:
    """Return random's last test AUC by seed, of the seeds that have one."""
    ends = {}
    for curve in curves:
        aucs = [point.test_auc for point in curve.points if point.test_auc is not None]
        if curve.first_model == "random" and aucs:
            ends[curve.seed] = aucs[-1]
    return ends


def first_to_reach(points: Sequence[CurvePoint], auc: float) -> CurvePoint | None:
    """Return the first point whose test AUC is at least ``auc``, or None."""
    return next((p for p in points if p.test_auc is not None and p.test_auc >= auc), None)
