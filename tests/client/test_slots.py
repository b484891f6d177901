import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from client.cancellation import Cancellation, GivenUp
from client.slots import check_slots, slot
from common.errors import BadInput

SPAWN = multiprocessing.get_context("spawn")


def take_turns(folder: str, log: str, together: Barrier) -> None:
    together.wait(60)
    for _ in range(5):
        with slot(Path(folder), 2):
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"+")
            time.sleep(0.01)  # long enough for others to come in, if they could
            os.write(descriptor, b"-")
            os.close(descriptor)


def hold(folder: str, ready: str) -> None:
    with slot(Path(folder), 1):
        Path(ready).touch()
        time.sleep(60)


def test_never_more_than_the_slots_allow_and_more_than_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    together = SPAWN.Barrier(4)
    workers = [
        SPAWN.Process(target=take_turns, args=(str(tmp_path / "slots"), str(log), together))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    inside, most = 0, 0
    for sign in log.read_text():
        inside += 1 if sign == "+" else -1
        most = max(most, inside)
    assert inside == 0
    assert most == 2


def test_a_holder_that_is_killed_gives_its_slot_back(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    holder = SPAWN.Process(target=hold, args=(str(tmp_path / "slots"), str(ready)))
    holder.start()
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    holder.kill()
    with slot(tmp_path / "slots", 1):
        pass
    holder.join(10)


def test_waiting_is_given_up_when_nobody_wants_the_result(tmp_path: Path) -> None:
    asked = iter([True, True, False])
    with (
        slot(tmp_path, 1),
        pytest.raises(GivenUp),
        slot(tmp_path, 1, Cancellation(lambda: next(asked))),
    ):
        pytest.fail("two held one slot")
    with slot(tmp_path, 1):
        pass


def test_a_folder_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"--slots-dir .*file: File exists"):
        check_slots(tmp_path / "file", 1)
    check_slots(tmp_path / "new", 2)
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_without_a_folder_there_is_nobody_to_wait_for() -> None:
    with slot(None, 1) as waited:
        assert waited == pytest.approx(0)
