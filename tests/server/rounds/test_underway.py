"""Asking hospitals that are a few lines each."""

from collections.abc import Iterator
from typing import Any

import pytest

from common.protocol import Identity, Instruction, Reply
from server.rounds import underway
from server.rounds.ask import TRANSFER_SECONDS, HospitalLost, Weights
from server.rounds.errands import Errand, Round
from server.rounds.underway import UnderWay
from server.run.live import LiveState
from tests.support.messages import GOOD, INSTRUCTION


class Replying:
    """A hospital that replies at once, and notes how long its weights may take."""

    def __init__(self) -> None:
        self.allowed: list[float] = []

    def ask(
        self, instruction: Instruction, weights: Weights, timeout: float, follow: object
    ) -> Reply:
        del instruction, weights, timeout, follow
        return GOOD

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        del identity
        self.allowed.append(timeout)
        return b"weights"


class Losing(Replying):
    """Is gone when its weights are to be fetched."""

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        del identity, timeout
        raise HospitalLost("gone")


def errands_to(hospitals: list[Any]) -> dict[str, Errand]:
    out = Round(INSTRUCTION, {}, b"", None, 0, {})
    return {str(i): Errand(h, INSTRUCTION, Weights(b""), out) for i, h in enumerate(hospitals)}


def outcomes(hospitals: list[Any], timeout: float) -> Iterator[object]:
    under_way = UnderWay(LiveState())
    under_way.ask(errands_to(hospitals), timeout)
    return (outcome.answer for outcome in under_way.outcomes())


def test_weights_may_take_their_time_and_no_more_than_there_is() -> None:
    hospital = Replying()
    assert list(outcomes([hospital], 1e6)) == [(GOOD, b"weights")]
    assert list(outcomes([hospital], 5)) == [(GOOD, b"weights")]
    assert hospital.allowed[0] == TRANSFER_SECONDS
    assert 4 < hospital.allowed[1] <= 5


def test_no_more_weights_are_here_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "TRANSFERS", 2)
    hospitals = [Replying() for _ in range(6)]
    coming = outcomes(hospitals, 30)
    for taken in range(1, 7):
        next(coming)
        assert sum(len(hospital.allowed) for hospital in hospitals) <= taken + 1
    assert next(coming, None) is None


def test_a_hospital_that_is_lost_leaves_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "TRANSFERS", 1)
    answers = list(outcomes([Losing(), Losing(), Replying()], 30))
    assert sum(isinstance(answer, HospitalLost) for answer in answers) == 2
    assert (GOOD, b"weights") in answers
