"""Drawn cohorts, and rounds that end before the last reply, between processes."""

import signal
from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint
from server.rounds.cohort import draw
from server.rounds.participation import Participation
from server.run.records import read_rounds
from tests.support.faults import FaultyFederation, dies_before, trains_after
from tests.support.federations import SEED, events_of, log_of, options, start
from tests.support.hospitals import federate_as_recorded, plan_of
from tests.support.shards import make_hospitals
from tests.support.states import same_bits


@pytest.mark.fault(
    "with --fraction, the server is killed before the line of a round",
    "--resume draws the same cohorts; the model is bit for bit that of an undisturbed run",
)
def test_a_run_of_drawn_cohorts_goes_on_with_the_same_ones(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 4)
    folder = tmp_path / "run"
    chosen = options(folder, 4, rounds=3, fraction=0.5, sample="size")
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = dies_before(
            "server.run.folder:RunFolder.write_round", "args[1].round == 2"
        )
        federation.start_server(chosen)
        for shard in shards:
            federation.start_client(shard)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        federation.start_server([*chosen, "--resume"])
        assert set(federation.wait(60).values()) == {0}
    lines = read_rounds(folder)
    plan = plan_of(
        rounds=3,
        min_clients=4,
        seed=SEED,
        quorum=None,
        participation=Participation(fraction=0.5, sample="size"),
    )
    joined = [event for event in events_of(folder) if event["event"] == "joined"]
    examples = {event["site"]: event["examples"] for event in joined}
    for line in lines:
        assert line.drawn == draw(examples, 0.5, "size", plan.needed, SEED, line.round, 1)
        assert (list(line.hospitals), line.missing) == ([*line.drawn], [])
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_as_recorded(plan, shards, lines, None))


def test_rounds_end_without_a_slow_hospital_and_its_update_counts_later(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    folder = tmp_path / "run"
    after_two = f"os.path.exists({str(folder / 'checkpoints' / 'round-0002.pt')!r})"
    audit = str(folder / "audit.jsonl")
    came = f"any('received' in line and 'hospital-02' in line for line in open({audit!r}))"
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["hospital-02"] = trains_after(after_two, "number == 1")
        for name in ("hospital-00", "hospital-01"):
            federation.preludes[name] = trains_after(came, "number == 4")
        start(federation, folder, shards, rounds=5, rounds_end=2)
        assert set(federation.wait(60).values()) == {0}
        log = log_of(federation, "server")
    lines = read_rounds(folder)
    assert [line.busy for line in lines[:2]] == [["hospital-02"]] * 2
    late = next(line for line in lines if "hospital-02" in line.hospitals)
    assert late.round in (3, 4)
    assert late.hospitals["hospital-02"].stale == late.round - 1
    assert f"{late.round - 1} rounds behind" in log
    assert not [event for event in events_of(folder) if event["event"] in ("lost", "rejected")]
    assert all(line.missing == [] for line in lines)
    plan = plan_of(rounds=5, seed=SEED)
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_as_recorded(plan, shards, lines, None))


@pytest.mark.fault(
    "with --rounds-end, the server is killed while hospitals are busy with an earlier model",
    "--resume asks everybody anew; what was under way is lost, and no round that is done",
)
def test_what_was_under_way_when_the_server_was_killed_is_asked_anew(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    folder = tmp_path / "run"
    chosen = options(folder, 3, rounds=3, rounds_end=2)
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = dies_before(
            "server.run.folder:RunFolder.write_round", "args[1].round == 2"
        )
        server_is_back = f"os.path.exists({str(tmp_path / 'back')!r})"
        federation.preludes["hospital-02"] = trains_after(server_is_back)
        federation.start_server(chosen)
        for shard in shards:
            federation.start_client(shard)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        (tmp_path / "back").touch()
        federation.start_server([*chosen, "--resume"])
        assert set(federation.wait(60).values()) == {0}
    lines = read_rounds(folder)
    assert [line.round for line in lines] == [1, 2, 3]
    assert lines[0].busy == ["hospital-02"]
    assert {each.stale for each in lines[1].hospitals.values()} == {0}
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    plan = plan_of(rounds=3, seed=SEED)
    assert same_bits(state, federate_as_recorded(plan, shards, lines, None))
