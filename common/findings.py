"""The fourteen findings of ChestX-ray14, in the order used everywhere, and their labels.

Source: Wang et al., "ChestX-ray8", CVPR 2017, and the data set's own label file.

A label is 1 (the film shows the finding), 0 (it does not) or :data:`UNKNOWN`.
"""

import numpy as np
import numpy.typing as npt

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

NO_FINDING = "No Finding"
"""ChestX-ray14's label for none of the fourteen findings; not a class."""

UNKNOWN = 255
"""Label of a finding that nobody looked for on a film, or that is uncertain."""


def count_by_finding(marked: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Return the number of marked films for each finding.

    Args:
        marked: bool, N x 14, for example ``labels == 1``.
    """
    return dict(zip(FINDINGS, marked.sum(axis=0).tolist(), strict=True))
