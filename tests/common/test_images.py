import numpy as np
import pytest

from common.images import centre_crops, crop_size, random_crops
from common.seeds import generator


@pytest.mark.parametrize(("size", "crop"), [(256, 224), (64, 56), (40, 35)])
def test_crops_keep_the_papers_ratio(size: int, crop: int) -> None:
    assert crop_size(size) == crop
    images = np.random.default_rng(0).integers(0, 256, (3, size, size)).astype(np.uint8)
    start = (size - crop) // 2
    expected = images[:, start : start + crop, start : start + crop]
    assert np.array_equal(centre_crops(images), expected)
    assert random_crops(images, generator(0, "crop")).shape == (3, crop, crop)


def test_every_image_has_a_draw_of_its_own_and_a_seed_repeats_it() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (200, 64, 1))
    crops = random_crops(ramp, generator(3, "crop"))
    assert set(crops[:, 0, 0].tolist()) == set(range(9))
    assert np.array_equal(crops, random_crops(ramp, generator(3, "crop")))
