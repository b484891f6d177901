"""Augments a whole batch on the device, with separate random draws for every image.

numpy draws the parameters on the host, from the caller's generator. The device transforms the
pixels. Crop, rotation and flip are one affine grid, so a view is interpolated once. A crop's box
lies on whole pixels: a box of the view's size is copied exactly. A film is smoothed before a view
shrinks it, as an antialiased resize does.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from common.views import Views

Draws = npt.NDArray[np.float32]

TOP, LEFT, HEIGHT, WIDTH, ANGLE, MIRROR, BRIGHTNESS, CONTRAST, SIGMA, SOLARIZE = range(10)
"""Columns of the draws."""

TRIES = 10
"""Boxes tried before the whole image is used, as in torchvision's RandomResizedCrop."""

PAPER_VIEW = 224
"""Size of view, in pixels, that blur_sigma refers to."""

KERNEL_SIGMAS = 3
"""Radius of a blurring kernel, in standard deviations."""

BILINEAR_VARIANCE = 1 / 6
"""Variance of bilinear interpolation's kernel, a triangle from -1 to 1, in square pixels."""

ROUNDING = 1e-6
"""Variance of a kernel, in square pixels, below which an image is left as it is."""


def draw_views(views: Views, n: int, size: int, out: int, rng: np.random.Generator) -> Draws:
    """Draw the augmentation of n images.

    Args:
        views: Ranges and probabilities.
        n: Number of images.
        size: S, pixels along each side of an image.
        out: Pixels along each side of a view; the blur scales with it.
        rng: Random generator; draws the same numbers whatever ``views`` switches off.

    Returns:
        float32, n x 10: box in pixels (top, left, height, width), angle in radians, 1 or -1 for
        a mirrored image, factors of brightness and contrast, sigma of the blur in pixels of the
        view (0: none), 1 for a solarised image.
    """
    table = np.zeros((n, 10), np.float32)
    table[:, : WIDTH + 1] = _boxes(views, n, size, rng)
    table[:, ANGLE] = np.radians(rng.uniform(-views.rotate, views.rotate, n))
    table[:, MIRROR] = np.where(rng.random(n) < views.flip, -1, 1)
    jittered = rng.random(n) < views.jitter
    for column, strength in ((BRIGHTNESS, views.brightness), (CONTRAST, views.contrast)):
        factors = rng.uniform(1 - strength, 1 + strength, n)
        table[:, column] = np.where(jittered, factors, 1)
    sigma = rng.uniform(*views.blur_sigma, n) * out / PAPER_VIEW
    table[:, SIGMA] = np.where(rng.random(n) < views.blur, sigma, 0)
    table[:, SOLARIZE] = rng.random(n) < views.solarize
    return table


def _boxes(views: Views, n: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return boxes of random area and shape: float64 with whole values, n x 4."""
    area = rng.uniform(*views.crop_scale, (n, TRIES)) * size**2
    narrowest, widest = views.crop_ratio
    ratio = np.exp(rng.uniform(math.log(narrowest), math.log(widest), (n, TRIES)))
    height, width = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    inside = (height >= 1) & (width >= 1) & (height <= size) & (width <= size)
    chosen = np.arange(n), inside.argmax(axis=1)
    found = inside.any(axis=1)
    height = np.where(found, height[chosen], size)
    width = np.where(found, width[chosen], size)
    corner = rng.random((2, n))
    top = np.floor(corner[0] * (size - height + 1))
    left = np.floor(corner[1] * (size - width + 1))
    return np.stack([top, left, height, width], axis=1)


def make_view(images: Tensor, draws: Tensor, out: int, views: Views) -> Tensor:
    """Return one view of each image.

    Args:
        images: uint8, N x S x S.
        draws: float32, N x 10, see :func:`draw_views`, on the images' device.
        out: C, pixels along each side of a view.
        views: The settings of the draws; switched-off steps are skipped.

    Returns:
        float32 in [0, 1], N x C x C.
    """
    grey = images.unsqueeze(1).float().div_(255)
    size = images.shape[-1]
    maps = _affine(draws, size)
    shrink = _largest_side(views, size) / out
    if shrink > 1:
        grey = _smoothed(grey, maps[:, :, :2] * (size / out), shrink)
    grid = affine_grid(maps, [len(images), 1, out, out], False)
    grey = grid_sample(grey, grid, "bilinear", "reflection", False)
    if views.jitter:
        # Brightness, then contrast, each clipped as an 8-bit image would be.
        grey = (grey * _column(draws, BRIGHTNESS)).clamp_(0, 1)
        mean = grey.mean(dim=(1, 2, 3), keepdim=True)
        grey = torch.lerp(mean, grey, _column(draws, CONTRAST)).clamp_(0, 1)
    if views.blur:
        variance = draws[:, SIGMA, None].square().expand(-1, 2)
        grey = _blurred(grey, variance, views.blur_sigma[1] * out / PAPER_VIEW)
    if views.solarize:
        inverted = (grey >= 0.5) & (_column(draws, SOLARIZE) > 0)
        grey = torch.where(inverted, 1 - grey, grey)
    # Interpolation weights may sum to slightly more than 1.
    return grey.squeeze(1).clamp(0, 1)


def _column(draws: Tensor, column: int) -> Tensor:
    return draws[:, column, None, None, None]


def _affine(draws: Tensor, size: int) -> Tensor:
    """Return the affine maps from view to image coordinates: float32, N x 2 x 3.

    Both coordinates run from -1 to 1 between the outer edges. A point of the view is scaled to the
    box, mirrored, rotated, and moved to the box's centre.
    """
    half_height, half_width = draws[:, HEIGHT] / size, draws[:, WIDTH] / size
    centre_x = (2 * draws[:, LEFT] + draws[:, WIDTH]) / size - 1
    centre_y = (2 * draws[:, TOP] + draws[:, HEIGHT]) / size - 1
    cos, sin = draws[:, ANGLE].cos(), draws[:, ANGLE].sin()
    x = torch.stack([cos * half_width * draws[:, MIRROR], -sin * half_height, centre_x], dim=1)
    y = torch.stack([sin * half_width * draws[:, MIRROR], cos * half_height, centre_y], dim=1)
    return torch.stack([x, y], dim=1)


def _largest_side(views: Views, size: int) -> float:
    """Return the longest side that a box can have, in pixels of the image."""
    longest_ratio = max(views.crop_ratio[1], 1 / views.crop_ratio[0])
    return size * min(1, math.sqrt(views.crop_scale[1] * longest_ratio))


def _smoothed(grey: Tensor, pitch: Tensor, shrink: float) -> Tensor:
    """Smooth each image along the axes in which its view shrinks it, against aliasing.

    An antialiased resize that shrinks by s (Pillow, torchvision) weights pixels by a triangle from
    -s to s, of variance s^2 / 6. Interpolation gives 1/6, and a Gaussian here the rest: variances
    add (Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, on Gaussian filters).

    Args:
        grey: float32, N x 1 x S x S.
        pitch: float32, N x 2 x 2: columns are one pixel's step in the view along x and y, in pixels
            of the image.
        shrink: Upper bound of s.
    """
    variance = BILINEAR_VARIANCE * (pitch.square().sum(dim=2) - 1)
    return _blurred(grey, variance.clamp_min(0), math.sqrt(BILINEAR_VARIANCE * (shrink**2 - 1)))


def _blurred(grey: Tensor, variance: Tensor, largest: float) -> Tensor:
    """Blur each image with its own Gaussian, one axis after the other.

    The kernel is the discrete Gaussian (Lindeberg 1990, Scale-Space for Discrete Signals). It has
    the variance asked for however small it is; samples of a Gaussian of 0.3 pixels hardly blur.

    Args:
        grey: float32, N x 1 x S x S.
        variance: float32, N x 2, along x and y, in square pixels; 0 leaves the image as it is.
        largest: Upper bound of the standard deviation, in pixels.
    """
    n, _, side, _ = grey.shape
    radius = min(math.ceil(KERNEL_SIGMAS * largest), side - 1)
    taps = 2 * radius + 1
    frequency = 2 * math.pi / taps * torch.arange(radius + 1, device=grey.device)
    spectrum = (variance[:, :, None] * (frequency.cos() - 1)).exp()
    kernels = torch.fft.fftshift(torch.fft.irfft(spectrum, taps), dim=2)
    stack = pad(grey.view(1, n, side, side), [radius] * 4, "reflect")
    stack = conv2d(stack, kernels[:, 0].reshape(n, 1, 1, -1), groups=n)
    stack = conv2d(stack, kernels[:, 1].reshape(n, 1, -1, 1), groups=n)
    changed = (variance > ROUNDING).any(dim=1)[:, None, None, None]
    return torch.where(changed, stack.view_as(grey), grey)
