import gzip
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.heatmap_boxes import Box, Case, chance_of_as_many, judge, mask_of, read_boxes


def test_boxes_are_read_as_the_nih_wrote_them(tmp_path: Path) -> None:
    text = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    text += "1_0.png,Infiltrate,10.5,20,30,40\n1_0.png,Mass,1,2,3,4\n1_0.png,Mass,5,6,7,8\n"
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write(text)
    assert read_boxes(tmp_path / "b.csv.gz") == {
        ("1_0.png", "Infiltration"): [Box(10.5, 20, 30, 40)],
        ("1_0.png", "Mass"): [Box(1, 2, 3, 4), Box(5, 6, 7, 8)],
    }


def test_a_hit_is_a_peak_in_a_box_and_chance_is_the_boxes_share_of_the_crop() -> None:
    # On 64 pixels, of which the model sees 4 to 59: x 16 to 31, y 8 to 15, and a second box on it.
    mask = mask_of([Box(256, 128, 256, 128), Box(256, 128, 64, 64)], 64)
    assert sorted(set(np.argwhere(mask)[:, 0].tolist())) == list(range(8, 16))
    assert sorted(set(np.argwhere(mask)[:, 1].tolist())) == list(range(16, 32))
    heat = np.zeros((64, 64), np.float32)
    assert not judge("Mass", heat, np.ones_like(mask)).hit
    heat[9, 30] = 1
    hit, chance = judge("Mass", heat, mask)[1:]
    assert hit
    assert chance == pytest.approx(8 * 16 / 56**2)
    assert not judge("Mass", heat.T.copy(), mask).hit
    # The part of a box that the model does not see has no chance.
    assert judge("Mass", heat, mask_of([Box(0, 0, 1024, 64)], 64)).chance == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_chance_is_that_of_all_outcomes(drawn: list[tuple[bool, float]]) -> None:
    cases = [Case("Mass", hit, chance) for hit, chance in drawn]
    hits = sum(hit for hit, _ in drawn)
    expected = sum(
        math.prod(p if one else 1 - p for one, (_, p) in zip(outcome, drawn, strict=True))
        for outcome in itertools.product((0, 1), repeat=len(drawn))
        if sum(outcome) >= hits
    )
    assert chance_of_as_many(cases) == pytest.approx(expected, abs=1e-9)
