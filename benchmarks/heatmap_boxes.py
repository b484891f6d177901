"""How often does a heat map's peak fall into the box that a radiologist drew?

    python -m benchmarks.heatmap_boxes MODEL --films FOLDER --boxes BBox_List_2017.csv.gz

The boxes are those of Wang et al., "ChestX-ray8", CVPR 2017, on films of 1024 pixels. A point drawn
at random from the central crop, all of a film that the model sees, is the standard to beat: the
"pointing game" of Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
"""

import argparse
import csv
import gzip
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.findings import FINDINGS
from common.images import centre_crops
from common.model import choose_device
from predict.heatmap import GradCam, Heat
from predict.model_file import read_model
from radiographs.read.film_file import read_film

BOXED_SIZE = 1024
"""Pixels along each side of the films on which the boxes were drawn."""

NAMES = {"Infiltrate": "Infiltration"}
"""Findings that have another name in the list of boxes."""

Mask = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """A box on a film of BOXED_SIZE pixels: left, top, width and height."""

    x: float
    y: float
    width: float
    height: float


class Case(NamedTuple):
    """A finding on a film with boxes.

    Attributes:
        finding: The finding.
        hit: Whether the heat map's peak is in one of its boxes.
        chance: The chance that a random point is, 0 to 1.
    """

    finding: str
    hit: bool
    chance: float


def read_boxes(path: Path) -> dict[tuple[str, str], list[Box]]:
    """Return the boxes by the film's name and the finding."""
    boxes: dict[tuple[str, str], list[Box]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(file)
    for image, finding, *numbers in lines:
        box = Box(*map(float, numbers[:4]))
        boxes[image, NAMES.get(finding, finding)].append(box)
    return dict(boxes)


def mask_of(boxes: Sequence[Box], size: int) -> Mask:
    """Return which pixels of a film have their centre in a box: bool, S x S."""
    centres = (np.arange(size) + 0.5) * BOXED_SIZE / size
    mask = np.zeros((size, size), np.bool_)
    for box in boxes:
        rows = (box.y <= centres) & (centres < box.y + box.height)
        columns = (box.x <= centres) & (centres < box.x + box.width)
        mask |= rows[:, np.newaxis] & columns
    return mask


def judge(finding: str, heat: Heat, mask: Mask) -> Case:
    """Return whether the peak is in the mask; a map without heat has no peak and misses."""
    peak = np.unravel_index(heat.argmax(), heat.shape)
    seen = centre_crops(mask[np.newaxis].astype(np.uint8))
    return Case(finding, bool(mask[peak]) and heat.max() > 0, float(seen.mean()))


def chance_of_as_many(cases: Sequence[Case]) -> float:
    """Return the chance that random points hit at least as often: exact, all points independent."""
    counts = np.ones(1)
    for case in cases:
        counts = np.convolve(counts, [1 - case.chance, case.chance])
    return float(counts[sum(case.hit for case in cases) :].sum())


def main() -> None:
    """Print a table by finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a checkpoint, or a run's folder")
    parser.add_argument("--films", type=Path, required=True, help="folder of ChestX-ray14's films")
    parser.add_argument("--boxes", type=Path, required=True, help="BBox_List_2017.csv.gz")
    parser.add_argument("--size", type=int, help="of the films; default: what the run tells")
    options = parser.parse_args()
    model = read_model(options.model)
    size = options.size or model.size
    if size is None:
        parser.error("the model does not tell the size of its films: give --size")
    device = choose_device("auto")
    method = GradCam(model.network(device), device)
    cases = [
        judge(
            finding, method.heat(read_film(options.films / image, size), finding), mask_of(b, size)
        )
        for (image, finding), b in read_boxes(options.boxes).items()
        if (options.films / image).is_file()
    ]
    print("| finding | cases | peak in a box | by chance |\n|---|---|---|---|")
    for name in (*FINDINGS, "all"):
        own = [case for case in cases if name in (case.finding, "all")]
        if own:
            hits, chance = sum(case.hit for case in own), sum(case.chance for case in own)
            print(f"| {name} | {len(own)} | {hits} | {chance:.1f} |")
    print(f"\nThe chance that random points hit as often: {chance_of_as_many(cases):.2g}")


if __name__ == "__main__":
    main()
