"""A canary over real processes: the run stops before a round, and goes on once it is mended."""

import json
from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint
from tests.support.faults import FaultyFederation
from tests.support.federations import SEED, events_of, lines_of, log_of, options, status_of
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.shards import make_hospitals
from tests.support.states import same_bits


@pytest.mark.fault(
    "a hospital could not do its part of a round, and --canary is given",
    "the run ends with exit code 3 before its first round and names hospital and reason; --resume "
    "goes on",
)
def test_what_would_fail_is_found_before_the_first_round(
    tmp_path: Path, federation: FaultyFederation
) -> None:
    shards = make_hospitals(tmp_path / "data", 2)
    policy, run = tmp_path / "policy.json", tmp_path / "run"
    policy.write_text(json.dumps({"max_examples": 20}))
    start = [*options(run, 2, rounds=1, batch_size=4), "--canary"]
    federation.start_server(start)
    federation.start_client(shards[0])
    federation.start_client(shards[1], ["--policy", str(policy)])
    assert federation.server is not None
    assert federation.server.wait(60) == 3
    said = log_of(federation, "server")
    assert "canary: 1 of 2 hospitals are fine, 2 are needed; hospital-01: failed at the" in said
    assert "training on more than 20 images is not allowed here" in said
    assert status_of(run)["state"] == "no quorum"
    assert "canary: 0.0 MB received, to train on a few films" in log_of(federation, "hospital-00")

    client = federation.clients.pop("hospital-01")
    client.terminate()
    client.wait(20)
    federation.start_server([*start, "--resume"])
    federation.start_client(shards[1])
    assert set(federation.wait(60).values()) == {0}
    (line,) = lines_of(run)
    assert len(line["hospitals"]) == 2
    state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    by_hand = plan_of(seed=SEED, rounds=1, batch_size=4)
    assert same_bits(state, federate_by_hand(by_hand, shards, None))
    found = [event for event in events_of(run) if event["event"] == "canary"]
    assert [[each["ok"] for each in event["hospitals"].values()] for event in found] == [
        *([True, False], [True, True])
    ]
    assert "canary: 2 of 2 hospitals are fine after" in log_of(federation, "server")
