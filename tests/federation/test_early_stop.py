"""A run that ends early, with real processes."""

import signal
from pathlib import Path

import pytest

from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import events_of, lines_of, log_of, options, status_of
from tests.support.shards import make_hospitals
from tests.support.waiting import wait_until


@pytest.mark.slow
def test_a_run_that_ended_early_is_finished_after_a_kill_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shards = make_hospitals(tmp_path / "data", 1, images=80)
    start = options(folder, 1, rounds=50, early_stop=1, min_gain=1)
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = dies_before("server.rounds.closing:Closing._score_final")
        federation.start_client(shards[0])
        federation.start_server(start)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        federation.start_server([*start, "--resume"])
        assert set(federation.wait(60).values()) == {0}
        status = status_of(folder)
        assert (status["state"], status["round"], status["rounds"]) == ("finished", 3, 50)
        assert "has not gained 1 in 1 rounds (--early-stop 1)" in status["reason"]
        assert [event["round"] for event in events_of(folder) if event["event"] == "stopped early"]
        assert "the run ends after round 3: the pooled validation AUC" in log_of(
            federation, "server"
        )
        # It stays finished, unless more is asked for.
        federation.start_server([*start, "--resume"])
        wait_until(
            lambda: "all 3 rounds of this run are done already: " in log_of(federation, "server")
        )
        federation.server.terminate()
        federation.server.wait(10)
        assert len(lines_of(folder)) == 3
        more = options(folder, 1, rounds=4, early_stop=0)
        federation.start_server([*more, "--resume"])
        federation.start_client(shards[0])
        assert set(federation.wait(60).values()) == {0}
    assert len(lines_of(folder)) == 4
    assert "reason" not in status_of(folder) or status_of(folder)["reason"] is None
