"""How far and in which direction the hospitals' updates moved: who pulls away."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median

from matplotlib.axes import Axes

from common.scores import rounded
from server.report.look import LOOKS, MUTED, Look
from server.report.painting import line, over_rounds, table
from server.report.plot import Panel, Plot
from server.report.run import Run

HIGHLIGHTED = 3
"""Hospitals that are drawn in colour: those furthest from the others."""


def drift(run: Run) -> Iterator[Plot]:
    """Yield the norm of the hospitals' updates and their cosine to the mean update, if recorded."""
    known_norms = {
        r.round: {
            name: part.update_norm
            for name, part in r.hospitals.items()
            if part.update_norm is not None
        }
        for r in run.rounds
    }
    if any(known_norms.values()):
        norms = {
            name: {number: of[name] for number, of in known_norms.items() if name in of}
            for name in run.hospitals
        }
        middle = {number: median(of.values()) for number, of in known_norms.items() if of}
        ratios = {
            name: [norm / middle[n] for n, norm in of.items() if middle[n]]
            for name, of in norms.items()
        }
        yield _drift(
            run,
            "norm",
            "Size of the updates",
            "Euclidean norm of what each hospital's training changed. A hospital that stays far "
            "above the others pulls the model its way.",
            norms,
            sorted(ratios, key=lambda name: -mean(ratios[name] or [1.0])),
        )
    cosines = {
        name: {
            r.round: r.hospitals[name].cosine
            for r in run.rounds
            if name in r.hospitals and r.hospitals[name].cosine is not None
        }
        for name in run.hospitals
    }
    if any(cosines.values()):
        known = {n: [c for c in of.values() if c is not None] for n, of in cosines.items()}
        yield _drift(
            run,
            "cosine",
            "Direction of the updates",
            "Cosine between a hospital's update and the change that came of all: 1 is the same "
            "direction, 0 has nothing in common with it, below 0 it works against it.",
            cosines,
            sorted(known, key=lambda name: mean(known[name]) if known[name] else 2.0),
        )


def _drift(
    run: Run,
    name: str,
    title: str,
    caption: str,
    by_hospital: Mapping[str, Mapping[int, float | None]],
    furthest: Sequence[str],
) -> Plot:
    """Return a line for each hospital, in colour for those that are furthest from the others."""
    shown = dict(zip(furthest[:HIGHLIGHTED], LOOKS, strict=False))

    def paint(axes: Axes) -> None:
        for hospital, points in by_hospital.items():
            if hospital not in shown:
                line(axes, points, Look(MUTED, "-", "", 0.7))
        for hospital, look in shown.items():
            line(axes, by_hospital[hospital], look)
        over_rounds(axes, run.last.round)

    header = ["Round", *run.hospitals]
    rows = (
        [str(r.round), *(rounded(by_hospital[h].get(r.round)) for h in run.hospitals)]
        for r in run.rounds
    )
    keys = [*shown.items()]
    if len(run.hospitals) > len(shown):
        keys.append(("the others", Look(MUTED, "-", "", 0.7)))
    return Plot(
        name, title, caption, [Panel("", paint)], table(header, rows), keys, x="round", y=name
    )
