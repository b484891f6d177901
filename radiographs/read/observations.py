"""The observations of CheXpert and MIMIC-CXR, as findings of ChestX-ray14.

Both data sets are labelled by the same program, with 14 observations of their own: 1 is positive,
0 negative, -1 uncertain, and an empty cell not mentioned in the report. Source: Irvin et al.,
"CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison", AAAI
2019, section 2.2 and appendix; Johnson et al., "MIMIC-CXR-JPG", 2019.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.shard import Bytes
from radiographs.read.site_labels import CELLS, LABEL_OF_UNCERTAIN, UNCERTAIN, Uncertain
from radiographs.read.table import Line


class Meaning(NamedTuple):
    """What an observation is called in ChestX-ray14, None for nothing, and why."""

    finding: str | None
    reason: str


OBSERVATIONS: Mapping[str, Meaning] = {
    NO_FINDING: Meaning(None, "not a finding: makes the others' empty cells 0"),
    "Enlarged Cardiomediastinum": Meaning(
        None, "wider than Cardiomegaly: the heart may be of normal size"
    ),
    "Cardiomegaly": Meaning("Cardiomegaly", "the same"),
    "Lung Opacity": Meaning(
        None, "wider than Infiltration: any opacity, also an edema or an atelectasis"
    ),
    "Lung Lesion": Meaning(None, "a nodule or a mass, and it does not say which"),
    "Edema": Meaning("Edema", "the same: pulmonary edema"),
    "Consolidation": Meaning("Consolidation", "the same"),
    "Pneumonia": Meaning("Pneumonia", "the same"),
    "Atelectasis": Meaning("Atelectasis", "the same"),
    "Pneumothorax": Meaning("Pneumothorax", "the same"),
    "Pleural Effusion": Meaning("Effusion", "the same: ChestX-ray14 means the pleura too"),
    "Pleural Other": Meaning(
        None, "wider than Pleural_Thickening: everything of the pleura but effusion and air"
    ),
    "Fracture": Meaning(None, "not among the 14"),
    "Support Devices": Meaning(None, "not a disease"),
}
"""The 14 observations. Findings that none of them means are unknown on every film."""

NEEDED = (NO_FINDING, *(name for name, meaning in OBSERVATIONS.items() if meaning.finding))
"""The observations that decide a label."""


def labels_of_observations(line: Line, uncertain: Uncertain) -> Bytes:
    """Return a line's labels: uint8, 14, 0, 1 or UNKNOWN, read-only.

    An observation that is not mentioned is unknown. Where ``No Finding`` is 1 it is 0: the program
    sets it if no other observation is positive or uncertain, but for support devices.

    Args:
        line: With the columns NEEDED.
        uncertain: What an uncertain observation is taken for.

    Raises:
        BadInput: A cell is not 1, 0, -1 or empty.
    """
    values = {name: _value(line, name, LABEL_OF_UNCERTAIN[uncertain]) for name in NEEDED}
    labels = np.full(len(FINDINGS), UNKNOWN, np.uint8)
    for name, meaning in OBSERVATIONS.items():
        if meaning.finding is not None:
            not_mentioned = line.cells[name] == ""
            healthy = not_mentioned and values[NO_FINDING] == 1
            labels[FINDINGS.index(meaning.finding)] = 0 if healthy else values[name]
    labels.flags.writeable = False
    return labels


def _value(line: Line, name: str, label_of_uncertain: int) -> int:
    cell = line.cells[name]
    if cell in UNCERTAIN:
        return label_of_uncertain
    if cell not in CELLS:
        raise BadInput(f"{line.where}: {name} is {cell!r}, not 1, 0, -1 or empty")
    return CELLS[cell]
