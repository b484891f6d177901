import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from scipy.special import ive
from torch import Tensor
from torchvision.transforms.functional import resize

from common import augment
from common.augment import (
    ANGLE,
    BRIGHTNESS,
    CONTRAST,
    HEIGHT,
    LEFT,
    MIRROR,
    SIGMA,
    SOLARIZE,
    TOP,
    WIDTH,
    draw_views,
    make_view,
)
from common.views import Views
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, PresetName
from radiographs.phantom.chest import draw_anatomy, draw_scanner
from radiographs.phantom.findings import draw_film
from radiographs.read.decode import decode
from tests.support.shards import SHARED, needs_shared_data

METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")
PRESETS: tuple[PresetName, ...] = ("cxr", "paper", "upstream")
PLAIN = Views(crop_scale=(1, 1), flip=0)
ALL_VIEWS = sorted(
    {view for p in PRESETS for m in METHODS for view in make_recipe(p, m).views}, key=repr
)


def noise(n: int = 6, size: int = 48, seed: int = 0) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)
    )


def view_of(images: Tensor, views: Views, out: int, **columns: float) -> Tensor:
    """Return views whose draws are those of the plain view, but for some columns."""
    draws = draw_views(PLAIN, len(images), images.shape[-1], out, np.random.default_rng(0))
    for name, value in columns.items():
        draws[:, getattr(augment, name.upper())] = value
    return make_view(images, torch.from_numpy(draws), out, views)


@pytest.mark.parametrize("views", ALL_VIEWS, ids=range(len(ALL_VIEWS)))
def test_every_image_of_a_batch_gets_draws_of_its_own(views: Views) -> None:
    draws = draw_views(views, 64, 256, 224, np.random.default_rng(0))
    rows = {tuple(row) for row in draws.tolist()}
    # The paper's view has a corner and a flip alone: 64 draws out of 2,178 may meet.
    assert len(rows) >= 60
    same = noise(1).expand(8, -1, -1)
    draws = draw_views(views, 8, 48, 40, np.random.default_rng(0))
    made = make_view(same, torch.from_numpy(draws), 40, views)
    assert len({row.numpy().tobytes() for row in made}) >= 7


@pytest.mark.parametrize("views", ALL_VIEWS, ids=range(len(ALL_VIEWS)))
def test_a_seed_reproduces(views: Views) -> None:
    def made(seed: int) -> Tensor:
        draws = draw_views(views, 6, 48, 40, np.random.default_rng(seed))
        return make_view(noise(), torch.from_numpy(draws), 40, views)

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL_VIEWS), st.integers(0, 10**6), st.sampled_from([40, 64, 65]))
def test_values_and_boxes_keep_their_range(views: Views, seed: int, size: int) -> None:
    draws = draw_views(views, 6, size, 40, np.random.default_rng(seed))
    assert np.isfinite(draws).all()
    box = draws[:, : WIDTH + 1]
    assert (box == np.rint(box)).all()
    assert (box >= 0).all()
    assert (box[:, TOP] + box[:, HEIGHT] <= size).all()
    assert (box[:, LEFT] + box[:, WIDTH] <= size).all()
    assert (np.abs(draws[:, ANGLE]) <= math.radians(views.rotate) + 1e-6).all()
    view = make_view(noise(6, size, seed), torch.from_numpy(draws), 40, views)
    assert view.shape == (6, 40, 40)
    assert view.dtype == torch.float32
    assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_each_property_is_drawn_for_each_image_alone() -> None:
    views = Views(
        crop_scale=(0.25, 1),
        crop_ratio=(3 / 4, 4 / 3),
        rotate=10,
        jitter=1,
        brightness=0.4,
        contrast=0.4,
        blur=1,
        solarize=0.5,
    )
    draws = draw_views(views, 64, 256, 224, np.random.default_rng(0))
    for column in (TOP, LEFT, HEIGHT, WIDTH, ANGLE, BRIGHTNESS, CONTRAST, SIGMA):
        assert len(set(draws[:, column].tolist())) > 32
    for column in (MIRROR, SOLARIZE):
        assert len(set(draws[:, column].tolist())) == 2
    # And not all by one number.
    correlations: npt.NDArray[np.float64] = np.atleast_2d(np.corrcoef(draws.T))
    assert np.abs(correlations[ANGLE, [BRIGHTNESS, CONTRAST, SIGMA, LEFT]]).max() < 0.5


def test_boxes_cover_the_range_of_areas_and_shapes() -> None:
    views = Views(crop_scale=(0.25, 1), crop_ratio=(3 / 4, 4 / 3))
    draws = draw_views(views, 20_000, 256, 224, np.random.default_rng(0))
    area = draws[:, HEIGHT] * draws[:, WIDTH] / 256**2
    ratio = draws[:, WIDTH] / draws[:, HEIGHT]
    assert 0.24 < area.min() < 0.26
    assert area.max() > 0.97
    assert 0.73 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.36
    # Where the box may lie anywhere, all places are as likely.
    small = area < 0.3
    free = (256 - draws[small, WIDTH]) > 0
    place = draws[small, LEFT][free] / (256 - draws[small, WIDTH][free])
    assert place.mean() == pytest.approx(0.5, abs=0.02)


def test_chances_are_kept() -> None:
    views = Views(crop_scale=(0.5, 1), flip=0.3, jitter=0.8, brightness=0.4, blur=0.2, solarize=0.1)
    draws = draw_views(views, 20_000, 256, 224, np.random.default_rng(0))
    assert (draws[:, MIRROR] == -1).mean() == pytest.approx(0.3, abs=0.02)
    assert (draws[:, BRIGHTNESS] != 1).mean() == pytest.approx(0.8, abs=0.02)
    assert (draws[:, SIGMA] > 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (draws[:, SOLARIZE] > 0).mean() == pytest.approx(0.1, abs=0.02)


def test_a_box_of_the_views_size_is_cut_out_exactly() -> None:
    images = noise(3, 64)
    view = view_of(images, PLAIN, 56, top=3, left=5, height=56, width=56)
    torch.testing.assert_close(view, images[:, 3:59, 5:61] / 255, atol=2e-5, rtol=0)


def test_the_papers_views_are_pixels_of_the_image() -> None:
    views = make_recipe("paper", "simclr").views[0]
    images = noise(4, 256)
    draws = draw_views(views, 4, 256, 224, np.random.default_rng(3))
    made = make_view(images, torch.from_numpy(draws), 224, views)
    for image, row, view in zip(images, draws, made, strict=True):
        top, left = int(row[TOP]), int(row[LEFT])
        expected = image[top : top + 224, left : left + 224] / 255
        if row[MIRROR] == -1:
            expected = expected.flip(1)
        torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)


def test_flip_and_quarter_turns_are_exact() -> None:
    images = noise(2, 48)
    plain = images / 255
    flipped = view_of(images, PLAIN, 48, mirror=-1)
    torch.testing.assert_close(flipped, plain.flip(2), atol=2e-5, rtol=0)
    # A positive angle samples clockwise, so that the film appears turned the other way.
    turned = view_of(images, PLAIN, 48, angle=math.pi / 2)
    torch.testing.assert_close(turned, plain.rot90(1, dims=(1, 2)), atol=1e-4, rtol=0)


def test_a_turn_does_not_shear_an_oblong_box() -> None:
    # A disc stays a disc when its box, twice as high as wide, is turned and shown as such.
    grid = torch.arange(200) - 99.5
    disc = (255 * ((grid[:, None] ** 2 + grid[None] ** 2) < 20**2)).to(torch.uint8)[None]
    views = [
        view_of(disc, PLAIN, 100, top=50, left=75, height=100, width=50, angle=angle)
        for angle in (0, 0.5)
    ]
    assert float((views[0] - views[1]).abs().mean()) < 0.01
    assert float(views[0].mean()) == pytest.approx(math.pi * 20**2 / (100 * 50), rel=0.05)


def test_outside_the_film_is_its_mirror_image() -> None:
    turned = view_of(torch.full((1, 48, 48), 200, dtype=torch.uint8), PLAIN, 48, angle=0.2)
    torch.testing.assert_close(turned, torch.full((1, 48, 48), 200 / 255))


def test_brightness_and_contrast() -> None:
    views = Views(crop_scale=(1, 1), jitter=1, brightness=0.5, contrast=0.5)
    images = noise(2, 48)
    plain = images / 255
    torch.testing.assert_close(
        view_of(images, views, 48, brightness=1.5), (plain * 1.5).clamp(0, 1), atol=1e-4, rtol=0
    )
    mean = plain.mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(
        view_of(images, views, 48, contrast=0.5), mean + 0.5 * (plain - mean), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 0.9])
def test_blur_is_a_discrete_gaussian_filter(sigma: float) -> None:
    views = Views(crop_scale=(1, 1), blur=1, blur_sigma=(0.1, 8))
    images = noise(2, 48)
    kernel = ive(np.abs(np.arange(-8, 9)), sigma**2)
    expected = images.numpy() / 255
    for axis in (1, 2):
        expected = correlate1d(expected, kernel, axis, mode="mirror")
    blurred = view_of(images, views, 48, sigma=sigma)
    np.testing.assert_allclose(blurred.numpy(), expected, atol=5e-5)


@pytest.mark.parametrize("sigma", [0.3, 1, 2])
@pytest.mark.parametrize("out", [64, 96, 224, 320])
def test_blur_is_the_same_share_of_a_view_of_any_size(sigma: float, out: int) -> None:
    views = Views(crop_scale=(1, 1), flip=0, blur=1, blur_sigma=(sigma, sigma))
    point = torch.zeros(1, out, out, dtype=torch.uint8)
    point[0, out // 2, out // 2] = 255
    draws = draw_views(views, 1, out, out, np.random.default_rng(0))
    spot = make_view(point, torch.from_numpy(draws), out, views)[0].double()
    distance = torch.arange(out) - out // 2
    for axis in (0, 1):
        width = (spot.sum(dim=axis) * distance**2).sum().sqrt() / out
        assert float(width) == pytest.approx(sigma / 224, rel=0.04)


def phantom_films(size: int) -> Tensor:
    films = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        healthy = np.zeros(14, np.uint8)
        films.append(draw_film(size, draw_anatomy(rng), draw_scanner(rng), healthy, rng))
    return torch.from_numpy(np.stack(films))


def real_films(size: int) -> Tensor:
    paths = sorted((SHARED / "cxr-small" / "images").iterdir())[:32]
    return torch.from_numpy(np.stack([decode(path, size) for path in paths]))


def fine_energy(views: Tensor) -> float:
    """Return the energy of the frequencies above half of the highest, of N x C x C."""
    side = views.shape[-1]
    waves = torch.fft.fftfreq(side).abs()
    fine = torch.maximum(waves[:, None], waves) > 0.25
    energy: Tensor = torch.fft.fft2(views).abs().square()[:, fine].sum()
    return float(energy)


@pytest.mark.parametrize(
    "films", [phantom_films, pytest.param(real_films, marks=needs_shared_data)]
)
@pytest.mark.parametrize("size", [96, 256])
def test_a_view_that_shrinks_a_film_is_an_antialiased_resize(
    films: Callable[[int], Tensor], size: int
) -> None:
    images = films(size)
    expected = resize(images / 255, [64, 64], antialias=True)
    view = view_of(images, PLAIN, 64)
    assert 0.95 < fine_energy(view) / fine_energy(expected) < 1.1
    assert float((view - expected).abs().mean()) < 0.0025
    assert float((view - expected).abs().max()) < 0.06


def test_each_axis_is_smoothed_as_far_as_its_view_shrinks_it() -> None:
    # Stripes of the highest frequency vanish along the axis that shrinks and stay along the other.
    stripes = torch.zeros(1, 96, 96, dtype=torch.uint8)
    stripes[:, ::2] = 255
    box = {"top": 32.0, "left": 0.0, "height": 32.0, "width": 96.0}
    for images, turn in ((stripes, 0.0), (stripes.mT, math.pi / 2)):
        kept = view_of(images, PLAIN, 32, angle=turn, **box)
        lost = view_of(images.mT, PLAIN, 32, angle=turn, **box)
        assert float(kept.std()) > 0.45
        assert float(lost.std()) < 0.1


@pytest.mark.parametrize("size", [96, 256])
def test_views_that_do_not_shrink_are_not_smoothed(size: int) -> None:
    views = make_recipe("cxr", "mocov2").views[0].model_copy(update={"jitter": 0, "blur": 0})
    never = views.model_copy(update={"crop_scale": (0.01, 0.02)})
    images = noise(64, size)
    draws = draw_views(views, 64, size, 64, np.random.default_rng(0))
    draws[0, HEIGHT : WIDTH + 1] = 64
    made = make_view(images, torch.from_numpy(draws), 64, views)
    plain = make_view(images, torch.from_numpy(draws), 64, never)
    small = torch.from_numpy(draws[:, HEIGHT : WIDTH + 1].max(axis=1) <= 64)
    assert torch.equal(made[small], plain[small])
    assert not any(torch.equal(a, b) for a, b in zip(made[~small], plain[~small], strict=True))


def test_solarize_inverts_the_bright_half() -> None:
    views = Views(crop_scale=(1, 1), solarize=1)
    plain = noise(2, 48) / 255
    expected = torch.where(plain >= 0.5, 1 - plain, plain)
    torch.testing.assert_close(
        view_of(noise(2, 48), views, 48, solarize=1), expected, atol=1e-4, rtol=0
    )


def test_rotation_is_not_shown_turned_views() -> None:
    for name in PRESETS:
        assert all(view.rotate == 0 for view in make_recipe(name, "rotation").views)
