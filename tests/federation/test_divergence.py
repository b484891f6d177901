from pathlib import Path

import pytest

from tests.support.faults import FaultyFederation
from tests.support.federations import events_of, lines_of, log_of, options, start, status_of


@pytest.mark.fault(
    "training diverges at all hospitals",
    "the run ends at once (exit code 3) and says so with the learning rate, as do the hospitals; "
    "nobody is excluded, and --resume --change lr=... goes on",
)
def test_the_remedy_for_training_that_diverges_helps(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run = tmp_path / "run"
    start(federation, run, shards, lr=1e20)
    assert federation.server is not None
    assert federation.server.wait(60) == 3
    said = log_of(federation, "server").splitlines()[-1]
    assert "round 1: the training diverged at learning rate 1e+20 at 3 of 3 hospitals" in said
    assert said.endswith("--resume --change lr=1e+19")
    for shard in shards:
        assert "round 1: the training diverged at learning rate 1e+20" in log_of(
            federation, shard.name
        )
    assert status_of(run)["state"] == "no quorum"
    assert not (run / "excluded").exists()
    federation.start_server([*options(run, 3, lr=1e20), "--resume", "--change", "lr=0.05"])
    assert federation.wait(60).pop("server") == 0
    assert len(lines_of(run)) == 2
    (changed,) = [event for event in events_of(run) if event["event"] == "changed"]
    assert (changed["option"], changed["old"], changed["new"]) == ("lr", 1e20, 0.05)
