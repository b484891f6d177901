"""Presets of recipes.

The paper that this project follows gives batch 256, SGD with learning rate 0.05 and momentum 0.9,
100 epochs, and crops of 224 out of 256 pixels, for all four methods. It gives no schedule, weight
decay, temperature, queue, EMA or augmentation. The presets use the values of each method's authors
where they exist, and choices of this project otherwise.

``upstream`` departs from the authors in this:

- Films are grey: there is no hue, saturation or greyscale.
- SimCLR's head has no BatchNorm; the authors' code has it after both layers.
- Brightness is multiplied, as by MoCo and SimCLR's later code; BYOL and SimCLR's first code add.
- Brightness changes before contrast; the authors draw the order.
- Views are interpolated bilinearly, as by MoCo; SimCLR and BYOL do it bicubically.
- MoCo's keys are normalised in groups, and its queue knows patients: see its file.
- Rotation's learning rate falls on a cosine; the authors' falls in steps.

No value of ``cxr`` is measured at its batch of 256. The evidence (benchmarks/pretrain_evidence.md)
is for LARS, with another rate, a batch of 64 and small films, and for its views with brightness and
contrast against those without.
"""

from typing import Any

from pydantic import ValidationError

from common.errors import BadInput, first_problem
from common.views import Views
from pretrain.recipe import (
    BYOLSettings,
    MethodName,
    MethodSettings,
    MoCoSettings,
    OptimizerSettings,
    PresetName,
    Recipe,
    RotationSettings,
    SimCLRSettings,
)

_PAPER_VIEW = Views(crop_scale=((224 / 256) ** 2, (224 / 256) ** 2))
# Rotation and flip: MoCo-CXR (Sowrirajan et al. 2021), which has no other change but a crop on
# request. The smallest crop: between MoCo-v2's 0.2 and 0.3, as others have for radiographs. Jitter
# and blur: MoCo-v2's, milder; a choice of this project.
_CXR_VIEW = Views(
    crop_scale=(0.25, 1),
    crop_ratio=(3 / 4, 4 / 3),
    rotate=10,
    jitter=0.8,
    brightness=0.3,
    contrast=0.3,
    blur=0.5,
    blur_sigma=(0.1, 1),
)
# On grey films, colour jitter is reduced to brightness and contrast.
_MOCO_VIEW = Views(
    crop_scale=(0.2, 1),
    crop_ratio=(3 / 4, 4 / 3),
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    blur=0.5,
)
_SIMCLR_VIEW = _MOCO_VIEW.model_copy(
    update={"crop_scale": (0.08, 1), "brightness": 0.8, "contrast": 0.8}
)
_BYOL_VIEW = _MOCO_VIEW.model_copy(update={"crop_scale": (0.08, 1), "blur": 1.0})
_BYOL_OTHER_VIEW = _BYOL_VIEW.model_copy(update={"blur": 0.1, "solarize": 0.2})
_ROTNET_VIEW = Views(crop_scale=(0.08, 1), crop_ratio=(3 / 4, 4 / 3))

_METHODS: dict[MethodName, MethodSettings] = {
    "mocov2": MoCoSettings(),
    "simclr": SimCLRSettings(),
    "byol": BYOLSettings(),
    "rotation": RotationSettings(),
}


def _lars(lr: float) -> OptimizerSettings:
    return OptimizerSettings(name="lars", lr=lr, weight_decay=1e-6, decay_all=False, warm_up=0.1)


# Why LARS: benchmarks/pretrain_evidence.md. BYOL's rate is its authors' for 100 epochs (below).
# MoCo-v2 has the same, a choice of this project: its authors use SGD, and LARS only for MoCo v3,
# which has no queue, at 0.6 for 100 epochs (facebookresearch/moco-v3, main_moco.py). SimCLR's
# authors use, for small batches and few epochs, 0.075 times the square root of the batch (SimCLR,
# appendix B.1).
_CXR_LARS = {"mocov2": _lars(0.45), "simclr": _lars(1.2), "byol": _lars(0.45)}

_UPSTREAM: dict[MethodName, dict[str, Any]] = {
    # He et al. 2020, section 4; facebookresearch/moco: README, --mlp --moco-t 0.2 --aug-plus --cos
    "mocov2": {
        "views": (_MOCO_VIEW, _MOCO_VIEW),
        "optimizer": OptimizerSettings(lr=0.03),
        "epochs": 200,
    },
    # Chen et al. 2020, sections 2.2 and 3, appendix A; 100 epochs as in their ablations
    "simclr": {
        "views": (_SIMCLR_VIEW, _SIMCLR_VIEW),
        "optimizer": _lars(0.3),
        "batch_size": 4096,
    },
    # Grill et al. 2020, section 3.3 and appendix B; the rate and the EMA (0.99) for 100 epochs:
    # deepmind-research, byol/configs/byol.py
    "byol": {
        "views": (_BYOL_VIEW, _BYOL_OTHER_VIEW),
        "optimizer": _lars(0.45),
        "batch_size": 4096,
    },
    # Gidaris et al. 2018, section 3.2: 192 images with all four rotations, rate 0.01, 30 epochs;
    # crop and Nesterov: gidariss/FeatureLearningRotNet, whose own rate is 0.1, for 50 epochs
    "rotation": {
        "views": (_ROTNET_VIEW,),
        "optimizer": OptimizerSettings(lr=0.01 / 3, nesterov=True, weight_decay=5e-4),
        "batch_size": 768,
        "epochs": 30,
    },
}


def preset(name: PresetName, method: MethodName) -> dict[str, Any]:
    """Return the fields of a recipe that a preset sets for a method."""
    fields: dict[str, Any] = {"preset": name, "method": _METHODS[method]}
    if name == "upstream":
        return fields | _UPSTREAM[method]
    view = _PAPER_VIEW if name == "paper" else _CXR_VIEW
    optimizer = OptimizerSettings(decay_all=method != "byol")
    if name == "cxr" and method in _CXR_LARS:
        optimizer = _CXR_LARS[method]
    if method == "rotation":
        # No other rotation: the seams at the border would reveal the angle.
        return fields | {
            "views": (view.model_copy(update={"rotate": 0.0}),),
            "optimizer": optimizer,
        }
    return fields | {"views": (view, view), "optimizer": optimizer}


def make_recipe(
    name: PresetName,
    method: MethodName,
    *,
    lr: float | None = None,
    flip: float | None = None,
    temperature: float | None = None,
    queue: int | None = None,
    ema: float | None = None,
    **changes: Any,
) -> Recipe:
    """Return a preset's recipe with changes.

    Args:
        name: The preset.
        method: The method.
        lr: Learning rate at batch 256.
        flip: Probability of a horizontal flip.
        temperature: Temperature of a contrastive loss.
        queue: Number of keys that MoCo-v2 keeps.
        ema: Momentum of the slow encoder.
        changes: Other fields of the recipe; None means the preset's value.

    Raises:
        BadInput: A value is out of range or does not fit another, or the method lacks the setting.
    """
    fields = preset(name, method)
    fields |= {key: value for key, value in changes.items() if value is not None}
    if lr is not None:
        fields["optimizer"] = fields["optimizer"].model_copy(update={"lr": lr})
    if flip is not None:
        fields["views"] = tuple(view.model_copy(update={"flip": flip}) for view in fields["views"])
    for key, value in (("temperature", temperature), ("queue", queue), ("ema", ema)):
        if value is None:
            continue
        if key not in type(fields["method"]).model_fields:
            raise BadInput(f"--{key}: {method} has no such setting; omit the option")
        fields["method"] = fields["method"].model_copy(update={key: value})
    # model_copy does not validate, so dump the fields and validate them.
    plain = Recipe.model_construct(**fields).model_dump(include=set(fields))
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise BadInput(first_problem(error)) from None
