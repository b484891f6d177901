"""The fourteen findings of ChestX-ray14, in the order that is used everywhere.

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
"""What ChestX-ray14 writes when none of the fourteen is present; never a class of its own."""
