"""Secure sums between real processes, over TLS."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from common.audit import verify
from common.checkpoint import read_checkpoint
from common.state import is_float, parameters_of
from server.run.records import RoundRecord
from tests.support.faults import (
    IMPATIENT,
    FaultyFederation,
    dies_before,
    freezes_before,
    trains_slowly,
)
from tests.support.federations import SEED, events_of, lines_of, options
from tests.support.hospitals import federate_as_recorded, models_by_hand, plan_of
from tests.support.provisioned import provision
from tests.support.shards import make_hospitals
from tests.support.waiting import wait_until

RETURNS_SOON = "import server.rounds.loop\nserver.rounds.loop.RETURN_SECONDS = 5.0\n"
"""A prelude: a resumed server does not wait a minute for hospitals that were killed."""


@pytest.mark.fault(
    "hospitals and the server are killed at steps of secure sums, each at another one",
    "rounds are those of the hospitals whose masked updates came; --resume repeats the last one",
)
def test_kills_at_the_steps_of_a_sum_never_make_a_wrong_one(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 7, images=30)
    names = [shard.name for shard in shards]
    tls = provision(tmp_path / "kits", names)
    (tmp_path / "policy.json").write_text('{"secure_aggregation": true}')
    secure = {
        "secure_aggregation": True,
        "secure_threshold": 0.5,
        "max_examples": 200,
        "quorum": 3,
        "round_timeout": 120,
    }
    run = tmp_path / "run"
    with FaultyFederation(tmp_path / "logs", tls=tls) as federation:
        kills = {"share": (names[1], 1), "mask": (names[3], 1), "reveal": (names[5], 1)}
        for place, (name, number) in {**kills, "confirm": (names[6], 2)}.items():
            federation.preludes[name] = dies_before(
                f"client.secure.attempt:SecureAttempt.{place}",
                f"args[0].identity.round == {number}",
            )
        federation.preludes["server"] = dies_before(
            "server.run.spool:Spool.put", "(args[0]._folder.parent / 'rounds.jsonl').exists()"
        )
        federation.start_server(options(run, 7, **secure))
        for shard in shards:
            more = [
                "--policy",
                tmp_path / "policy.json",
                "--state",
                tmp_path / "state" / shard.name,
            ]
            federation.start_client(shard, [*map(str, more), "--precision", "fp32"])
        assert federation.server is not None
        assert federation.server.wait(180) == -signal.SIGKILL
        federation.preludes.clear()
        federation.preludes["server"] = RETURNS_SOON
        federation.start_server([*options(run, 3, **secure), "--resume"])
        codes = federation.wait(180)
    killed = {names[i] for i in (1, 3, 5, 6)}
    assert codes == {name: -9 if name in killed else 0 for name in ("server", *names)}
    first, second = lines_of(run)
    assert first["secure"][0]["hospitals"] == [names[i] for i in (0, 2, 4, 5, 6)]
    assert first["secure"][0]["dropped"] == [names[1], names[3]]
    assert second["secure"][0]["hospitals"] == [names[i] for i in (0, 2, 4)]
    assert all(part["examples"] is None for part in second["hospitals"].values())

    plan = plan_of(rounds=1, seed=SEED)
    before, expected = models_by_hand(plan, [shards[i] for i in (0, 2, 4, 5, 6)])
    after, _ = read_checkpoint(run / "checkpoints" / "round-0001.pt", "densenet-tiny", 0)
    for name, array in expected.items():
        if is_float(array):
            assert np.abs(after[name] - array).max() < 3e-5, name  # see secure-aggregation.md
        else:
            assert after[name] == before[name]

    joined = [event for event in events_of(run) if event["event"] == "joined"]
    assert {event["examples"] for event in joined} == {None}
    verify(tmp_path / "state" / names[0] / "audit.jsonl")
    lines = (tmp_path / "state" / names[0] / "audit.jsonl").read_text().splitlines()
    sums = [json.loads(line) for line in lines if '"secure confirm"' in line]
    assert sums[0]["hospitals"] == [names[i] for i in (0, 2, 4, 5, 6)]


@pytest.mark.fault(
    "a hospital is stopped (SIGSTOP) in the middle of a secure sum, and goes on later",
    "the sum is that of the others; what it sends late is in no sum, and it takes part again",
)
@pytest.mark.parametrize("step", ["mask", pytest.param("reveal", marks=pytest.mark.long)])
def test_a_hospital_that_freezes_in_a_sum_spoils_none(tmp_path: Path, step: str) -> None:
    shards = make_hospitals(tmp_path / "data", 4, images=20)
    run, frozen = tmp_path / "run", shards[1].name
    secure = {"secure_aggregation": True, "secure_threshold": 0.5, "max_examples": 200}
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = (
            "import server.secure.conduct\nserver.secure.conduct.STEP_SECONDS = 3.0\n" + IMPATIENT
        )
        federation.preludes[frozen] = freezes_before(
            f"client.secure.attempt:SecureAttempt.{step}", "args[0].identity.round == 1"
        )
        federation.preludes[shards[0].name] = trains_slowly(1)
        federation.start_server(options(run, 4, **{"rounds": 8, "quorum": 3, **secure}))
        for shard in shards:
            federation.start_client(shard, ["--precision", "fp32"])
        wait_until((run / "rounds.jsonl").exists)
        federation.clients[frozen].send_signal(signal.SIGCONT)
        assert set(federation.wait(120).values()) == {0}
    first, *others = lines_of(run)
    counted = [shard for shard in shards if step == "reveal" or shard.name != frozen]
    assert first["secure"][0]["hospitals"] == [shard.name for shard in counted]
    assert len(others[-1]["secure"][0]["hospitals"]) == 4
    recorded = [RoundRecord.model_validate(line) for line in lines_of(run)]
    plan = plan_of(rounds=8, seed=SEED)
    expected = parameters_of(federate_as_recorded(plan, shards, recorded))
    before = federate_as_recorded(plan, shards, [])
    after, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    off = max(np.abs(after[name] - array).max() for name, array in expected.items())
    assert off < 0.05 * max(np.abs(before[name] - array).max() for name, array in expected.items())


def test_a_site_that_wants_secure_sums_trains_in_no_other_run(tmp_path: Path) -> None:
    (shard,) = make_hospitals(tmp_path / "data", 1)
    (tmp_path / "policy.json").write_text('{"secure_aggregation": true}')
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.start_server(options(tmp_path / "run", 1, attempts=1))
        federation.start_client(shard, ["--policy", str(tmp_path / "policy.json")])
        assert federation.server is not None
        assert federation.server.wait(60) == 3
    (rejected,) = [each for each in events_of(tmp_path / "run") if each["event"] == "rejected"]
    assert (
        "training without --secure-aggregation, or a canary, is not allowed here"
        in rejected["reason"]
    )
    joined = [each for each in events_of(tmp_path / "run") if each["event"] == "joined"]
    assert joined[0]["examples"] == 1
