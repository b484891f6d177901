"""Asking hospitals that are a few lines each."""

import hashlib
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from common.errors import BadInput
from common.message import Identity
from common.protocol import Instruction, Reply
from server.rounds import underway
from server.rounds.ask import TRANSFER_SECONDS, HospitalLost, Weights
from server.rounds.errands import Errand, Round
from server.rounds.underway import Answer, UnderWay
from server.run.live import LiveState
from tests.support.messages import GOOD, INSTRUCTION

ANSWER = Answer(GOOD, b"weights", hashlib.sha256(b"weights").hexdigest())


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
    out = Round(INSTRUCTION, {}, Weights(b""), None, 0, {})
    return {str(i): Errand(h, INSTRUCTION, Weights(b""), out) for i, h in enumerate(hospitals)}


def outcomes(hospitals: list[Any], timeout: float) -> Iterator[object]:
    under_way = UnderWay(LiveState())
    under_way.ask(errands_to(hospitals), timeout)
    return (outcome.answer for outcome in under_way.outcomes())


def test_weights_may_take_their_time_and_no_more_than_there_is() -> None:
    hospital = Replying()
    assert list(outcomes([hospital], 1e6)) == [ANSWER]
    assert list(outcomes([hospital], 5)) == [ANSWER]
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
    assert ANSWER in answers


def test_what_is_no_finding_on_a_hospital_is_raised_where_outcomes_are_taken() -> None:
    class Full(Replying):
        def ask(self, *_: object) -> Reply:
            raise BadInput("the disk is full")

    with pytest.raises(BadInput, match="the disk is full"):
        list(outcomes([Full()], 30))


class Waiting(Replying):
    """Replies once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = Event()

    def ask(
        self, instruction: Instruction, weights: Weights, timeout: float, follow: object
    ) -> Reply:
        assert self.may.wait(30)
        return super().ask(instruction, weights, timeout, follow)


def test_who_is_not_waited_for_remains_under_way_and_is_taken_later() -> None:
    under_way, slow = UnderWay(LiveState()), Waiting()
    under_way.ask(errands_to([Replying(), slow]), 30)
    first = list(under_way.outcomes(lambda: len(under_way.errands) == 1))
    assert [outcome.name for outcome in first] == ["0"]
    assert list(under_way.errands) == ["1"]
    slow.may.set()
    (later,) = under_way.outcomes()
    assert (later.name, later.answer) == ("1", ANSWER)
    assert not under_way.errands


def test_each_has_a_deadline_of_its_own_and_a_late_reply_gives_its_room_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(underway, "TRANSFERS", 1)
    under_way, slow = UnderWay(LiveState()), Waiting()
    errands = errands_to([slow, Replying()])
    under_way.ask({"0": errands["0"]}, 0.2)
    (late,) = under_way.outcomes()
    assert isinstance(late.answer, HospitalLost)
    assert str(late.answer) == "no reply before the deadline"
    slow.may.set()
    for _ in range(3):
        under_way.ask({"1": errands["1"]}, 30)
        assert [outcome.answer for outcome in under_way.outcomes()] == [ANSWER]


def test_an_errand_that_was_given_up_is_not_mistaken_for_the_next_one() -> None:
    under_way, slow = UnderWay(LiveState()), Waiting()
    under_way.ask(errands_to([slow]), 0.2)
    assert len(list(under_way.outcomes())) == 1
    again = errands_to([Losing()])
    slow.may.set()
    under_way.ask(again, 30)
    (outcome,) = under_way.outcomes()
    assert outcome.errand is again["0"]
    assert isinstance(outcome.answer, HospitalLost)
