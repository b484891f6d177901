"""The four methods, one file each, and the choice between them."""

from typing import assert_never

from torchvision.models import DenseNet

from pretrain.methods.base import Method
from pretrain.methods.byol import BYOL
from pretrain.methods.mocov2 import MoCoV2
from pretrain.methods.rotation import Rotation
from pretrain.methods.simclr import SimCLR
from pretrain.recipe import BYOLSettings, MoCoSettings, Recipe, RotationSettings, SimCLRSettings


def make_method(recipe: Recipe, model: DenseNet, batch: int) -> Method:
    """Return the recipe's method around a model's backbone.

    Args:
        recipe: The recipe with the method's settings.
        model: The model whose backbone is pretrained.
        batch: B, the images that one process computes at a time.
    """
    settings, precision, seed = recipe.method, recipe.precision, recipe.seed
    match settings:
        case MoCoSettings():
            return MoCoV2(model, settings, precision, seed, batch)
        case SimCLRSettings():
            return SimCLR(model, settings, precision, seed)
        case BYOLSettings():
            return BYOL(model, settings, precision, seed)
        case RotationSettings():
            return Rotation(model, precision, seed)
    assert_never(settings)
