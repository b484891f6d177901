"""The roster with hospitals that are nothing but names."""

import threading
from pathlib import Path
from typing import Any

import pytest

from common.findings import FINDINGS
from common.message import Message
from common.protocol import Farewell, Greeting, RunResult
from server.members import roster as rosters
from server.members.admission import Admission
from server.members.roster import Roster
from server.rounds.ask import Connection
from server.run.folder import RunFolder
from tests.support.messages import HELLO


class Name:
    """A connection to a hospital, and whether it was told to go."""

    backbone = None
    peer = None

    def __init__(self, process: int, busy: bool = False) -> None:
        self.busy = busy
        self.closed = False
        self.hello = HELLO.model_copy(update={"process": f"{process:032x}"})
        self.parted = threading.Event()

    def answers(self, message: Message) -> bool:
        del message
        return False

    def part(self, farewell: Farewell) -> None:
        del farewell
        self.parted.set()

    def close(self) -> None:
        """Nothing to do."""


def test_a_hospital_whose_connection_was_closed_is_not_there_any_more(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    roster = Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, folder), folder)
    lost: Any = Name(1)
    roster.enter(lost)
    assert roster.present() == {HELLO.site: lost}
    lost.closed = True  # and the thread that says that it left has not come to it yet
    assert roster.present() == {}
    assert not roster.wait_for(1, 0)


def test_a_session_that_has_taken_the_place_of_a_barred_one_stays(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(Greeting(run="r", seed=0), HELLO.image_size, folder)
    old: Any = Name(1)
    new: Any = Name(2)

    class Renewing(Roster):
        """The new session comes in the instant in which the old one's key is found revoked."""

        def standing(self, connection: Connection) -> str | None:
            if connection is not old:
                return None
            if new not in self._connections.values():
                self._connections[HELLO.site] = new
            return "revoked"

    roster = Renewing(admission, folder)
    roster.enter(old)
    assert roster.present() == {}
    assert roster.present() == {HELLO.site: new}
    assert not new.parted.is_set()


@pytest.mark.parametrize("dead", [False, True])
def test_who_trains_keeps_its_place_unless_its_connection_is_found_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    monkeypatch.setattr(rosters, "HALF_OPEN_SECONDS", 10.0 if dead else 0.2)
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(Greeting(run="r", seed=0), HELLO.image_size, folder)
    roster = Roster(admission, folder)
    asked = threading.Event()

    class Silent(Name):
        def answers(self, message: Message) -> bool:
            asked.set()
            return super().answers(message)

    old: Any = Silent(1, busy=True)
    new: Any = Name(2)
    roster.enter(old)
    coming = threading.Thread(target=roster.enter, args=(new,))
    coming.start()
    if dead:
        assert asked.wait(10)
        roster.leave(old)
    coming.join(5)
    assert not coming.is_alive()
    assert roster.present() == {HELLO.site: new if dead else old}
    assert new.parted.wait(0 if dead else 10) is not dead


def test_of_two_connections_that_wait_for_one_place_the_later_one_has_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(Greeting(run="r", seed=0), HELLO.image_size, folder)
    first: Any = Name(2)
    second: Any = Name(2)
    old: Any = Name(1, busy=True)

    class Racing(Roster):
        """The other one takes the place while this one looks at the old one."""

        def _alive(self, connection: Any) -> bool:
            if connection is old:
                self._connections[HELLO.site] = first
            return False

    roster = Racing(admission, folder)
    roster.enter(old)
    roster.enter(second)
    assert roster.present() == {HELLO.site: second}
    assert not second.parted.is_set()


def test_each_hospital_is_told_its_own_result_whenever_it_comes(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(Greeting(run="r", seed=0), HELLO.image_size, folder)
    roster = Roster(admission, folder)
    told: dict[str, Message] = {}

    class Listening(Name):
        def __init__(self, name: str, process: int) -> None:
            super().__init__(process)
            self.hello = self.hello.model_copy(update={"site": name})

        def answers(self, message: Message) -> bool:
            told[self.hello.site] = message
            return True

        def close(self) -> None:
            roster.leave(self)  # type: ignore[arg-type]

    def result(name: str) -> RunResult:
        part = {"a": 1, "b": 2}[name]
        means = dict.fromkeys(FINDINGS)
        return RunResult(
            rounds=2, best_round=1, hospitals=3, auc_by_finding=means,
            took_part=part, rejected=0, missing=2 - part,
        )  # fmt: skip

    first: Any = Listening("a", 1)
    late: Any = Listening("b", 2)
    roster.enter(first)
    coming = threading.Timer(0.2, roster.enter, (late,))
    coming.start()
    roster.say_farewell("over", ["a", "b"], 20, result)
    assert told == {
        name: Farewell(outcome="finished", reason="over", result=result(name))
        for name in ("a", "b")
    }
    told.clear()
    again: Any = Listening("a", 1)  # the same process waits for the next run
    roster.enter(again)
    assert roster.present() == {}
    assert not told


def test_who_is_let_go_is_gone_from_the_live_state_with_the_reason(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    roster = Roster(Admission(Greeting(run="r", seed=0), HELLO.image_size, folder), folder)
    connection: Any = Name(1)
    roster.enter(connection)
    assert folder.live.current().hospitals[HELLO.site].doing == "waiting"
    roster.dismiss(HELLO.site, "excluded")
    gone = folder.live.current().hospitals[HELLO.site]
    assert (gone.doing, gone.reason) == ("gone", "excluded")
    assert folder.to_return() == set(), "nobody waits for it"
