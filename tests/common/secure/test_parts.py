"""Masks, boxes, shares and the graph, each against something slower or known."""

import os
from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from common.secure.graph import degree, groups, neighbourhoods
from common.secure.masks import (
    CHUNK,
    BadBox,
    add_mask,
    agree,
    context,
    private_key,
    public_of,
    seal,
    unseal,
)
from common.secure.shares import join, needed, split


def test_a_mask_is_the_key_stream_of_aes_in_counter_mode() -> None:
    key = os.urandom(32)
    words = np.zeros(CHUNK + 3, np.uint32)
    add_mask(words, key, 1)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    assert words.tobytes() == stream.update(bytes(4 * words.size))
    add_mask(words, key, -1)
    assert not words.any()


def test_two_hospitals_agree_and_a_third_does_not() -> None:
    first, second, third = (private_key(os.urandom(16)) for _ in range(3))
    about = context("mask", 1)
    key = agree(first, public_of(second), about)
    assert agree(second, public_of(first), about) == key
    assert agree(third, public_of(first), about) != key
    assert agree(first, public_of(second), context("mask", 2)) != key


def test_a_key_of_which_nothing_secret_can_come_is_refused() -> None:
    with pytest.raises(ValueError, match="shared key"):
        agree(private_key(os.urandom(16)), bytes(32), b"")


def test_a_box_opens_with_its_key_beside_what_it_belongs_to() -> None:
    key, other = os.urandom(32), os.urandom(32)
    box = seal(key, b"content", b"beside")
    assert unseal(key, box, b"beside") == b"content"
    for wrong in ((other, box, b"beside"), (key, box, b"else"), (key, box[:-1], b"beside")):
        with pytest.raises(BadBox):
            unseal(*wrong)


def test_any_shares_that_are_enough_recover_a_secret_and_fewer_do_not() -> None:
    holders = [f"hospital-{i}" for i in range(5)]
    secret = os.urandom(16)
    shares = split(secret, 3, holders)
    for chosen in combinations(holders, 3):
        assert join({name: shares[name] for name in reversed(chosen)}, 3, holders) == secret
    for few in combinations(holders, 2):
        assert join({name: shares[name] for name in few}, 2, holders) != secret


@given(st.integers(3, 1000), st.floats(0.5, 0.99))
def test_the_server_cannot_get_both_secrets_of_a_hospital(holders: int, threshold: float) -> None:
    """Each holder gives out one of the two: twice as many as are needed are more than there are."""
    least = needed(threshold, holders)
    assert 2 * least > holders
    assert threshold * holders < least <= holders


@pytest.mark.parametrize("count", [3, 50, 51, 120, 1000])
def test_each_masks_with_those_who_mask_with_it(count: int) -> None:
    names = [f"hospital-{i:04d}" for i in range(count)]
    near = neighbourhoods(names, 5, 2, 1)
    assert neighbourhoods(names[::-1], 5, 2, 1) == near
    for name, others in near.items():
        assert name in others
        assert len(set(others)) == len(others) == degree(count) + 1
        assert others == sorted(others)
        assert all(name in near[other] for other in others)
    if count > 50:
        assert neighbourhoods(names, 5, 2, 2) != near
    assert degree(count) == {3: 2, 50: 49, 51: 36, 120: 42, 1000: 60}[count]


def test_groups_are_drawn_by_seed_and_round_and_have_three_hospitals_at_least() -> None:
    names = [f"hospital-{i:02d}" for i in range(11)]
    drawn = groups(names, 3, 5, 1)
    assert sorted(name for group in drawn for name in group) == names
    assert sorted(map(len, drawn)) == [3, 4, 4]
    assert groups(names, 3, 5, 1) == drawn
    assert groups(names, 3, 5, 2) != drawn
    with pytest.raises(ValueError, match="11 hospitals make no 4 groups of 3"):
        groups(names, 4, 5, 1)
