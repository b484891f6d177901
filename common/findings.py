"""The fourteen findings of ChestX-ray14, in the order used everywhere.

Source: Wang et al., "ChestX-ray8", CVPR 2017, and the data set's own label file.
"""

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
