import json
import logging
from pathlib import Path
from typing import Any

import pytest

from common.message import Identity
from common.protocol import Progress
from server.run import live
from server.run.events import (
    CONNECTION_CLOSED,
    AuditEvent,
    Event,
    Excluded,
    Joined,
    Left,
    Lost,
    ReplyRejected,
)
from server.run.live import HospitalLive, Live, LiveState, LiveWriter
from tests.support.waiting import wait_until

FIRST = Identity(run="r", round=1, attempt=1)
SECOND = Identity(run="r", round=2, attempt=1)
THIRD = Identity(run="r", round=3, attempt=1)


def audit(event: Any, name: str) -> AuditEvent:
    return AuditEvent(event=event, details={"site": name})


def progress(share: float, identity: Identity = FIRST) -> Progress:
    return Progress(identity=identity, phase="training", share=share)


def asked(*names: str) -> LiveState:
    """Return a state in whose first round these hospitals were asked."""
    state = LiveState()
    for name in names:
        state.note(Joined(site=name, examples=1))
    state.begin(FIRST, "hospitals", 1, len(names))
    for name in names:
        state.note(audit("sent", name))
    return state


def doing(state: LiveState, name: str = "a") -> HospitalLive:
    return state.current().hospitals[name]


def test_a_round_is_followed_from_phase_to_phase() -> None:
    state = LiveState()
    assert (state.current().round, state.current().phase) == (0, "waiting")
    state.enter("waiting", needed=3)
    assert state.current().needed == 3
    state.begin(FIRST, "hospitals", 1, 2)
    began = state.current()
    assert (began.round, began.attempt, began.phase, began.needed) == (1, 1, "hospitals", 2)
    state.enter("average")
    averaging = state.current()
    assert averaging.phase == "average"
    assert averaging.started == began.started <= averaging.since
    state.enter("average")
    assert state.current() == averaging


def test_a_hospital_works_sends_and_is_done() -> None:
    state = asked("a")
    assert doing(state).doing == "waiting"
    state.progress("a", progress(0.25))
    first = doing(state)
    state.progress("a", progress(0.5))
    assert (doing(state).doing, doing(state).share) == ("training", 0.5)
    assert doing(state).since == first.since, "it has been training all the time"
    state.sending("a", FIRST)
    assert (doing(state).doing, doing(state).share) == ("sending", None)
    state.note(audit("received", "a"))
    assert doing(state).doing == "done"
    state.begin(SECOND, "hospitals", 2, 1)
    assert doing(state).doing == "waiting"


@pytest.mark.parametrize(
    ("event", "expected", "reason"),
    [
        (Lost(site="a", round=1, attempt=1, reason="no answer in time"), "late", "no answer"),
        (Lost(site="a", round=1, attempt=1, reason=CONNECTION_CLOSED), "gone", CONNECTION_CLOSED),
        (ReplyRejected(site="a", round=1, attempt=1, reason="NaN"), "rejected", "NaN"),
        (Excluded(site="a", reason="NaN"), "rejected", "excluded: NaN"),
        (Left(site="a"), "gone", ""),
        (Left(site="a", reason="it was revoked"), "gone", "it was revoked"),
    ],
)
def test_what_ends_its_part_in_the_round_is_told_with_the_reason(
    event: Event, expected: str, reason: str
) -> None:
    state = asked("a")
    state.progress("a", progress(0.5))
    state.note(event)
    assert (doing(state).doing, doing(state).share) == (expected, None)
    assert doing(state).reason.startswith(reason)
    state.progress("a", progress(0.9))
    state.sending("a", FIRST)
    assert doing(state).doing == expected, "what comes too late changes nothing"


def test_a_late_hospital_is_late_until_the_next_round_and_gone_from_then_on() -> None:
    state = asked("a", "b")
    for name in ("a", "b"):
        state.note(Lost(site=name, round=1, attempt=1, reason="no answer in time"))
        state.note(Left(site=name))
    assert (doing(state, "a").doing, doing(state, "b").doing) == ("late", "late")
    late = doing(state, "a").since
    state.note(Joined(site="b", examples=1))
    state.begin(SECOND, "hospitals", 2, 2)
    assert (doing(state, "a").doing, doing(state, "b").doing) == ("gone", "waiting")
    assert (doing(state, "a").since, doing(state, "a").reason) == (late, "no answer in time")


def test_progress_of_another_attempt_is_passed_over() -> None:
    state = asked("a")
    state.progress("a", progress(0.5, SECOND))
    state.sending("a", SECOND)
    assert doing(state).doing == "waiting"


def test_who_is_busy_with_an_earlier_round_is_followed_on() -> None:
    state = asked("a", "b", "c")
    for name in "abc":
        state.progress(name, progress(0.5))
    state.note(Left(site="c"))
    state.begin(SECOND, "hospitals", 2, 1, {"a": FIRST, "c": FIRST})
    assert (doing(state, "a").doing, doing(state, "a").share) == ("training", 0.5)
    assert (doing(state, "b").doing, doing(state, "c").doing) == ("waiting", "gone")
    for name in "ab":
        state.progress(name, progress(0.75, FIRST))
    assert (doing(state, "a").share, doing(state, "b").doing) == (0.75, "waiting")
    state.progress("a", progress(0.9, SECOND))
    assert doing(state, "a").share == 0.75
    state.sending("a", FIRST)
    assert doing(state, "a").doing == "sending"
    state.begin(THIRD, "hospitals", 3, 1)
    state.progress("a", progress(0.9, FIRST))
    assert doing(state, "a").doing == "waiting"


def in_file(folder: Path) -> Live:
    return Live.model_validate_json((folder / "live.json").read_bytes())


def test_the_file_follows_and_ends_with_what_was_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WRITE_SECONDS", 0.01)
    state = asked("a")
    with LiveWriter(tmp_path, state):
        wait_until((tmp_path / "live.json").exists, 10)
        state.enter("average")
        wait_until(lambda: in_file(tmp_path).phase == "average", 10)
        monkeypatch.setattr(live, "WRITE_SECONDS", 60)
        state.enter("save")
        state.enter("closing")
    assert in_file(tmp_path) == state.current()
    assert [file.name for file in tmp_path.iterdir()] == ["live.json"]


def test_changes_are_written_a_second_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(live, "write_json", lambda _file, content: written.append(content))
    state = asked("a")
    with LiveWriter(tmp_path, state):
        for step in range(1000):
            state.progress("a", progress(step / 1000))
    assert len(written) <= 3
    assert json.loads(json.dumps(written[-1]))["hospitals"]["a"]["share"] == 0.999


@pytest.mark.fault(
    "live.json cannot be written, for instance because the disk is full",
    "the log says so once, and nothing else happens",
)
def test_a_file_that_cannot_be_written_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "WRITE_SECONDS", 0.01)
    tried: list[Path] = []

    def full(file: Path, _content: object) -> None:
        tried.append(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live, "write_json", full)
    state = asked("a")
    with caplog.at_level(logging.WARNING), LiveWriter(tmp_path, state):
        for step in range(3):
            before = len(tried)
            state.progress("a", progress(step / 3))
            wait_until(lambda: len(tried) > before, 10)  # noqa: B023 - called at once
    assert caplog.messages == ["live.json is not written: No space left on device"]
