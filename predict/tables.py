"""The probabilities as a table or as JSON; imports no torch."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from common.findings import FINDINGS
from predict.calibration import Calibration

TableFormat = Literal["csv", "json"]


class Row(NamedTuple):
    """A film's probabilities.

    Attributes:
        image: The film's file.
        probabilities: Text of the 14 float32 values, each with as many digits as tell it apart.
        called: Findings whose threshold the film reaches.
        heatmap: The file of the film's heat map, if one was asked for.
    """

    image: Path
    probabilities: tuple[str, ...]
    called: tuple[str, ...]
    heatmap: Path | None


def as_csv(rows: Sequence[Row], calibration: Calibration) -> str:
    """Return a table with a line for each film.

    It has the image, the fourteen findings, those at or above their threshold where thresholds are
    known, and the heat map if any.
    """
    heatmaps = any(row.heatmap is not None for row in rows)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    called = ["above_threshold"] if calibration else []
    writer.writerow(["image", *FINDINGS, *called, *(["heatmap"] if heatmaps else [])])
    for row in rows:
        more = [" ".join(row.called)] if calibration else []
        more += [_text(row.heatmap)] if row.heatmap is not None else []
        writer.writerow([_text(row.image), *row.probabilities, *more])
    return table.getvalue()


def as_json(rows: Sequence[Row], model: str, size: int, calibration: Calibration) -> str:
    """Return the same with the model and the width of the films, indented.

    Args:
        rows: A row for each film.
        model: The model's file.
        size: S, pixels along each side.
        calibration: Of the model: which probabilities are calibrated, and the thresholds, as
            calibrated probabilities, with what they reach on the hospitals' validation films.
    """
    films = [
        {
            "image": _text(row.image),
            "probabilities": dict(zip(FINDINGS, map(float, row.probabilities), strict=True)),
            **({"above_threshold": list(row.called)} if calibration else {}),
            **({} if row.heatmap is None else {"heatmap": _text(row.heatmap)}),
        }
        for row in rows
    ]
    thresholds = {
        finding: {
            "probability": float(of.probability(of.threshold)),
            "sensitivity": of.sensitivity,
            "specificity": of.specificity,
        }
        for finding, of in calibration.items()
    }
    known = {"calibrated": list(calibration), "thresholds": thresholds} if calibration else {}
    return json.dumps({"model": model, "size": size, **known, "films": films}, indent=2) + "\n"


def _text(path: Path) -> str:
    # Bytes of a name that are not UTF-8 are escaped.
    return os.fsencode(path).decode("utf-8", "backslashreplace")
