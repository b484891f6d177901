"""``flower-evaluate``: given models, scored at all hospitals without training."""
