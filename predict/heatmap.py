"""Grad-CAM heat maps: which parts of a film speak for a finding.

Selvaraju et al., "Grad-CAM", ICCV 2017. The layer is the one that the classifier reads, DenseNet's
last feature maps after their ReLU; pooled and weighted, they are the logit.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models import DenseNet

from common.findings import FINDINGS
from common.images import centre_crops, crop_size, to_device
from common.model import to_input
from common.shard import Bytes
from predict.extra import need

Heat = npt.NDArray[np.float32]
"""float32, S x S, 0 to 1: relative to the film's own maximum. 0 outside of the central crop."""


class GradCam:
    """Draws heat maps of one model.

    Args:
        network: In evaluation mode, on the device.
        device: Where to compute.

    Raises:
        BadInput: The package for it is not installed.
    """

    def __init__(self, network: DenseNet, device: torch.device) -> None:
        need("captum.attr", "a heat map")
        from captum.attr import LayerGradCam

        self._device = device
        # DenseNet.forward with its ReLU as a layer: there it changes the features in place, and
        # values before it would be mixed with gradients behind it.
        relu = nn.ReLU()
        parts = network.features, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.classifier
        self._method = LayerGradCam(nn.Sequential(*parts), relu)

    def heat(self, pixels: Bytes, finding: str) -> Heat:
        """Return where a film speaks for a finding; all 0 if nowhere.

        Args:
            pixels: uint8, S x S.
            finding: One of the fourteen.
        """
        size = pixels.shape[0]
        crop = crop_size(size)
        images = to_input(to_device(centre_crops(pixels[np.newaxis]), self._device))
        coarse = self._method.attribute(
            images, target=FINDINGS.index(finding), relu_attributions=True
        )
        fine = self._method.interpolate(coarse, (crop, crop), "bilinear")[0, 0]
        heat = np.zeros((size, size), np.float32)
        start = (size - crop) // 2
        heat[start : start + crop, start : start + crop] = fine.detach().cpu().numpy()
        highest = heat.max()
        return heat / highest if highest > 0 else heat
