import signal
from pathlib import Path

from server.run.live import Live
from tests.support.faults import FaultyFederation
from tests.support.federations import options, start, status_of
from tests.support.waiting import wait_until


def waits_for(file: Path) -> str:
    """Return a prelude: training tells its progress and does not go on before there is a file."""
    return f"""
import os, time
import client.progress
client.progress.TELL_SECONDS = 0
was = client.progress.Steps.check
def check(self):
    was(self)
    while self._phase == "training" and not os.path.exists({str(file)!r}):
        time.sleep(0.05)
client.progress.Steps.check = check
"""


def live_of(run: Path) -> Live:
    return Live.model_validate_json((run / "live.json").read_bytes())


def shows(run: Path, name: str, doing: str) -> bool:
    if not (run / "live.json").exists():
        return False
    hospital = live_of(run).hospitals.get(name)
    return hospital is not None and hospital.doing == doing


def test_what_hospitals_do_is_seen_over_the_wire_and_after_a_kill(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, go = tmp_path / "run", tmp_path / "go"
    federation.preludes["hospital-00"] = waits_for(go)
    start(federation, run, shards, rounds=1, quorum=2)
    wait_until(lambda: shows(run, "hospital-00", "training"))
    wait_until(lambda: shows(run, "hospital-02", "done"))
    live = live_of(run)
    assert (live.round, live.attempt, live.phase, live.needed) == (1, 1, "hospitals", 2)
    federation.clients["hospital-02"].send_signal(signal.SIGKILL)
    wait_until(lambda: shows(run, "hospital-02", "gone"))
    assert federation.server is not None
    federation.server.kill()
    federation.server.wait(10)
    assert live_of(run).hospitals["hospital-02"].doing == "gone"
    go.touch()
    federation.start_client(shards[2])
    federation.start_server([*options(run, 3, rounds=1, quorum=2), "--resume"])
    assert set(federation.wait(60).values()) == {0}
    assert status_of(run)["state"] == "finished"
    live = live_of(run)
    assert (live.round, live.phase) == (1, "closing")
    assert {name: hospital.doing for name, hospital in live.hospitals.items()} == {
        shard.name: "done" for shard in shards
    }
    assert not list(run.glob(".*.tmp"))
