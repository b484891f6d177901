"""Every strategy between processes that are killed."""

import signal
from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint, read_strategy
from common.model import build_model, state_of
from server.run.folder import RunFolder
from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import SEED, events_of, lines_of, options
from tests.support.hospitals import METHODS, LocalHospitals, copy_secrets, plan_of, run_strategy
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

ALWAYS = ("scaffold without batchnorm", "int8")


@pytest.mark.fault(
    "the server is killed before the line of a round, and a hospital when it has trained and "
    "before it replies, under every strategy",
    "both go on from the last round that counted; model and what both ends remember are bit for "
    "bit those of an undisturbed run",
)
@pytest.mark.parametrize(
    "method",
    [
        *ALWAYS,
        *(pytest.param(name, marks=pytest.mark.long) for name in METHODS if name not in ALWAYS),
    ],
)
def test_both_ends_of_a_strategy_may_be_killed(tmp_path: Path, method: str) -> None:
    shards = make_hospitals(tmp_path / "data", 2)
    folder, own = tmp_path / "run", tmp_path / "state"
    start = options(folder, 2, rounds=3, quorum=1.0, **METHODS[method])
    with FaultyFederation(tmp_path / "logs") as federation:

        def start_client(shard: Path) -> None:
            state = ["--state", str(own / shard.name), "--precision", "fp32"]
            federation.start_client(shard, state)

        federation.preludes["server"] = dies_before(
            "server.run.folder:RunFolder.write_round", "args[1].round == 2"
        )
        federation.preludes["hospital-01"] = dies_before(
            "client.transport.messages:MessageHandler._say", "args[1].identity.round == 3"
        )
        federation.start_server(start)
        for shard in shards:
            start_client(shard)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.pop("server")
        federation.start_server([*start, "--resume"])
        assert federation.clients.pop("hospital-01").wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        start_client(shards[1])
        assert set(federation.wait(60).values()) == {0}
    attempts = [(line["round"], line["attempt"]) for line in lines_of(folder)]
    assert attempts == [(1, 1), (2, 1), (3, 2)]
    assert not [event for event in events_of(folder) if event["event"] == "own state lost"]

    plan = plan_of(rounds=3, seed=SEED, min_clients=2, **METHODS[method])
    whole = RunFolder.create(tmp_path / "whole", {})
    copy_secrets(folder, whole.path, own, tmp_path / "undisturbed")
    hospitals = LocalHospitals(shards, SEED, {}, tmp_path / "undisturbed")
    run_strategy(plan, whole, hospitals, state_of(build_model("densenet-tiny", SEED)), {})
    files = [path / "checkpoints" / "round-0003.pt" for path in (folder, whole.path)]
    assert same_bits(*(read_checkpoint(f, "densenet-tiny", 0, part=True)[0] for f in files))
    assert same_bits(*(read_strategy(file) for file in files))
    for shard in shards:
        kept = [
            [file.read_bytes() for file in (root / shard.name).rglob("round-0003.safetensors")]
            for root in (own, tmp_path / "undisturbed")
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) == plan.training.keeps_state
