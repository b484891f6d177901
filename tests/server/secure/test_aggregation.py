from collections.abc import Mapping
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.secure.attempt import SecureAttempt
from common.secure.graph import neighbourhoods
from common.secure.halves import Words
from common.secure.masks import seed_key
from common.secure.messages import Masked, Revealed, SecureAnswer, Shares
from common.secure.shares import digest, needed
from server.secure.aggregation import NoSum
from tests.support.secure import SETTINGS, Sums, identity_of, names_of, plain_sum, random_updates


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[int, dict[str, int], float]:
    """Draw a number of hospitals, who of them goes away before which step, and a threshold."""
    count = draw(st.integers(3, 9))
    steps = draw(
        st.lists(st.sampled_from([5, 5, 5, 5, 1, 2, 3, 4]), min_size=count, max_size=count)
    )
    gone = {name: step for name, step in zip(names_of(count), steps, strict=True) if step < 5}
    return count, gone, draw(st.sampled_from([0.5, 2 / 3, 0.9]))


@pytest.mark.fault(
    "hospitals are lost between any two steps of a secure sum",
    "the sum is exactly that of the hospitals whose masked updates came, or the round is repeated",
)
@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 2**31))
def test_the_sum_is_exactly_that_of_those_in_it_or_there_is_none(
    cohort: tuple[int, dict[str, int], float], seed: int
) -> None:
    count, gone, threshold = cohort
    names = names_of(count)
    chosen = SETTINGS.model_copy(update={"threshold": threshold})
    updates = random_updates(names, seed)
    least = needed(threshold, count)
    left = [sum(gone.get(name, 5) > step for name in names) for step in (1, 2, 3, 4)]
    try:
        words, summed, _ = Sums.of(names).aggregate(updates, gone, settings=chosen)
    except NoSum:
        assert left[1] < max(3, least) or left[3] < least
    else:
        assert left[1] >= max(3, least)
        assert left[3] >= least
        assert summed == [name for name in names if gone.get(name, 5) > 2]
        assert (words == plain_sum(updates, summed)).all()


def test_beyond_fifty_hospitals_a_few_neighbours_are_enough() -> None:
    names = names_of(51)
    assert {len(near) for near in neighbourhoods(names, 5, 1, 1).values()} == {37}
    updates = random_updates(names, 3)
    gone = {names[7]: 1, names[20]: 2, names[33]: 3, names[48]: 4}
    words, summed, _ = Sums.of(names).aggregate(updates, gone)
    assert len(summed) == 49
    assert (words == plain_sum(updates, summed)).all()


def test_two_hospitals_make_no_sum() -> None:
    names = names_of(2)
    with pytest.raises(NoSum, match="2 hospitals make no secure sum"):
        Sums.of(names).aggregate(random_updates(names, 1))


@pytest.mark.fault(
    "a hospital reveals other shares than it was given",
    "it is named and excluded; the sum is right without its shares, or the round is repeated",
)
def test_a_hospital_that_reveals_false_shares_is_found_and_the_sum_is_right() -> None:
    names = names_of(7)
    updates = random_updates(names, 2)

    def tamper(name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
        if name == names[1] and isinstance(answer, Revealed):
            seeds = {other: bytes(16) for other in answer.seeds}
            return answer.model_copy(update={"seeds": seeds}), blob
        return answer, blob

    sums = Sums.of(names)
    words, summed, server = sums.aggregate(updates, {names[4]: 2}, tamper=tamper)
    assert summed == [*names[:4], *names[5:]]
    assert (words == plain_sum(updates, summed)).all()
    assert server.liars == {names[1]: "it revealed other shares than it was given"}


@pytest.mark.fault(
    "a hospital of a secure sum shares something else than its secrets",
    "there is no sum, the hospital is named and excluded, and the round is repeated without it",
)
@pytest.mark.parametrize("gone", [{}, {"hospital-02": 2}])
def test_a_hospital_that_shares_something_else_is_found(gone: dict[str, int]) -> None:
    names = names_of(5)
    updates = random_updates(names, 2)
    sums = Sums.of(names)
    server = sums.started(updates, identity_of())
    liar = sums.hospitals[names[2]]._attempt
    assert liar is not None
    true_seed, liar._self_seed, liar._key_seed = liar._self_seed, bytes(16), bytes(16)

    def tamper(name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
        if name == names[2] and isinstance(answer, Shares):
            return answer.model_copy(update={"seed": digest(true_seed)}), blob
        return answer, blob

    sums.until_revealed(server, gone, tamper)
    with pytest.raises(NoSum, match="the masks of hospital-02 cannot be taken away"):
        server.result()
    assert server.liars == {names[2]: "it shared another secret than it announced"}


def test_a_hospital_whose_shares_cannot_be_opened_keeps_no_other_from_the_sum() -> None:
    names = names_of(5)
    updates = random_updates(names, 2)

    def tamper(name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
        if name == names[2] and isinstance(answer, Shares):
            bad = answer.sealed[names[0]].model_copy(update={"box": bytes(48)})
            return answer.model_copy(update={"sealed": {**answer.sealed, names[0]: bad}}), blob
        return answer, blob

    sums = Sums.of(names)
    words, summed, _ = sums.aggregate(updates, tamper=tamper)
    assert sums.declined[names[0]].because_of == names[2]
    assert summed == names[1:]
    assert (words == plain_sum(updates, summed)).all()


def test_an_answer_to_something_else_is_not_taken() -> None:
    names = names_of(6)
    updates = random_updates(names, 2)

    def tamper(name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
        if name == names[0] and isinstance(answer, Shares):
            few = {other: each for other, each in answer.sealed.items() if other != names[1]}
            return answer.model_copy(update={"sealed": few}), blob
        if name == names[1] and isinstance(answer, Masked):
            return answer, blob[4:]
        if name == names[2] and isinstance(answer, Revealed):
            return answer.model_copy(update={"keys": answer.seeds, "seeds": {}}), blob
        return answer, blob

    sums = Sums.of(names)
    chosen = SETTINGS.model_copy(update={"threshold": 0.5})
    server = sums.started(updates, identity_of(), chosen)
    sums.until_revealed(server, {}, tamper)
    with pytest.raises(NoSum, match=r"3 shares of a secret of hospital-0. came, 4 are needed"):
        server.result()
    assert sums.improper == {
        names[0]: "made shares for others than its neighbours",
        names[1]: "sent a masked update of 24 bytes, not 28",
        names[2]: "revealed shares of others than it was asked for",
    }


class Pads(dict[bytes, Words]):
    """One-time pads in place of the generator: a table of random words by key."""

    def add(self, words: Words, key: bytes, sign: int) -> None:
        self.setdefault(key, np.random.default_rng(len(self)).integers(0, 2**32, 7, np.uint32))
        words += (sign * self[key].astype(np.int64)).astype(np.uint32)


class Views:
    """What the server holds in the same attempt, with the same secrets and other updates."""

    def __init__(self, names: list[str], late: set[str]) -> None:
        self.names = names
        self.late = late
        self.pads = Pads()

    def of(self, updates: Mapping[str, Words], gone: Mapping[str, int]) -> object:
        """Return all messages, all masked updates, and the sum."""
        with (
            patch("client.secure.attempt.add_mask", self.pads.add),
            patch("server.secure.aggregation.add_mask", self.pads.add),
            patch("Crypto.Protocol.SecretSharing.rng", Random(9).randbytes),  # noqa: S311 - a test
        ):
            sums = Sums.of(self.names, seed=9)
            sums.late = self.late
            chosen = SETTINGS.model_copy(update={"threshold": 0.5})
            words, summed, _ = sums.aggregate(updates, gone, settings=chosen)
            self.sums = sums
        return sums.view, words.tolist(), summed

    def secrets(self, name: str) -> SecureAttempt:
        attempt = self.sums.hospitals[name]._attempt
        assert attempt is not None
        return attempt


@pytest.mark.parametrize("gone", [{}, {"hospital-01": 2}, {"hospital-03": 3}, {"hospital-03": 4}])
def test_two_different_updates_give_the_server_the_same_view(gone: dict[str, int]) -> None:
    """For each update there is a pad, as likely as any other, with which the view is the same.

    The updates of two hospitals differ by d and -d. The server learns the seeds of both, but not
    the pad between them; with d added to that one, everything is as it was.
    """
    names = names_of(4)
    first = random_updates(names, 1)
    other = {**first, names[0]: first[names[0]] + 77, names[2]: first[names[2]] - 77}
    views = Views(names, late=set())
    before = views.of(first, gone)
    assert views.of(first, gone) == before
    assert views.of(other, gone) != before
    views.pads[views.secrets(names[0])._mask_key_with(names[2])] -= 77
    assert views.of(other, gone) == before


def test_a_masked_update_that_comes_too_late_gives_the_same_view_whatever_it_is() -> None:
    """The server learns all pads that the hospital shares with others, and not its own."""
    names = names_of(4)
    first = random_updates(names, 1)
    other = {**first, names[1]: first[names[1]] + 77}
    views = Views(names, late={names[1]})
    before = views.of(first, {})
    assert views.of(other, {}) != before
    seed = views.secrets(names[1])._self_seed
    views.pads[seed_key(seed, identity_of().model_dump())] -= 77
    assert views.of(other, {}) == before


def test_masked_words_are_uniform() -> None:
    """The chi-squared statistic of their bytes: one run in a million is above 400 by chance."""
    names = names_of(3)
    updates = {name: np.full(2**14, 7, np.uint32) for name in names}
    sums = Sums.of(names)
    sums.aggregate(updates)
    blobs = [blob for _, _, blob in sums.view if blob]
    assert len(blobs) == 3
    for blob in blobs:
        counts = np.bincount(np.frombuffer(blob, np.uint8), minlength=256)
        expected = len(blob) / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 400
    assert len({blob[:16] for blob in blobs}) == 3
