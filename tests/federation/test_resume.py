import json
import os
import signal
from pathlib import Path

import pytest

from common.audit import verify
from common.checkpoint import read_checkpoint
from server.rounds.testing import Tester
from server.run.histograms import read_histograms
from tests.support.commands import assert_one_line, run
from tests.support.faults import FaultyFederation, dies_before, dies_within_line, stops_before
from tests.support.federations import SEED, lines_of, log_of, options, status_of
from tests.support.hospitals import federate_by_hand, models_by_hand, plan_of
from tests.support.shards import make_hospitals, make_shard
from tests.support.states import same_bits, slow_average
from tests.support.waiting import wait_until

RENAME = "str(args[1]).endswith('{}')"
LINE = "args[1].round == {}"

KILLS = [
    # Each server dies in the round after the last whole one.
    dies_before("server.rounds.attempt:Attempt._check", "len(args[0].collected.hospitals) == 1"),
    dies_before("pathlib:Path.replace", RENAME.format("round-0001.pt")),
    dies_before("server.run.folder:RunFolder.write_round", LINE.format(1)),
    dies_within_line(1),
    dies_before("pathlib:Path.replace", "args[1].parent.name == 'histograms'"),
    dies_before("server.rounds.best:BestCopy.update", "args[0]._progress.round == 1"),
    dies_before("pathlib:Path.replace", RENAME.format("best.pt")),
    dies_before("common.runtime.status:StatusFile.write", "args[1].round == 3"),
    dies_before("server.rounds.closing:Closing._score_final"),
    dies_before("pathlib:Path.replace", RENAME.format("ema.pt")),
]


@pytest.mark.fault(
    "the server is killed between replies, while it writes a checkpoint, before, within and after "
    "the line of a round, or in the closing evaluation",
    "--resume does the open round again; the result is bit for bit that of an undisturbed run",
)
def test_a_server_that_is_killed_anywhere_goes_on_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    folder = tmp_path / "run"
    start = options(folder, 3, rounds=4, quorum=1)
    start += ["--ema", "0.5", "--schedule", "steps", "--lr-steps", "1,3", "--lr-factor", "0.5"]
    with FaultyFederation(tmp_path / "logs") as federation:
        for shard in shards:
            federation.start_client(shard)
        for number, kill in enumerate(KILLS):
            federation.preludes["server"] = kill
            federation.start_server([*start, *(["--resume"] if number else [])])
            assert federation.server is not None
            assert federation.server.wait(60) == -signal.SIGKILL, number
            assert status_of(folder)["state"] == "running"
        federation.preludes.clear()
        federation.start_server([*start, "--resume"])
        assert set(federation.wait(60).values()) == {0}
    lines = lines_of(folder)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert len(line["hospitals"]) == 3
        assert (line["missing"], line["rejected"]) == ([], {})
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    plan = plan_of(seed=SEED, rounds=4, schedule="steps", lr_steps=[1, 3], lr_factor=0.5, lr=0.05)
    models = models_by_hand(plan, shards, None)
    assert same_bits(state, models[-1])
    average, _ = read_checkpoint(folder / "ema.pt", "densenet-tiny", 0)
    assert same_bits(average, slow_average(models, 0.5))
    assert [line["lr"] for line in lines] == [0.05, 0.025, 0.025, 0.0125]
    assert status_of(folder)["state"] == "finished"
    aucs = {line["round"] - 1: line["pooled"]["auc"] for line in lines[1:]}
    aucs[4] = status_of(folder)["pooled"]["auc"]
    best = max(aucs, key=lambda number: (aucs[number], -number))
    _, provenance = read_checkpoint(folder / "best.pt", "densenet-tiny", 0)
    assert provenance is not None
    assert (provenance.round, status_of(folder)["best_round"]) == (best, best)
    assert not list(folder.rglob("*.tmp"))
    assert all(read_histograms(folder, number) for number in range(1, 6))
    assert not (folder / "replies").exists()
    verify(folder / "audit.jsonl")


@pytest.mark.fault(
    "the server is killed while it saves or scores a round's model beside the next round",
    "--resume does a round again that was not saved, and scores one that was; model and scores are "
    "bit for bit those of an undisturbed run",
)
def test_a_server_that_is_killed_beside_the_next_round_loses_nothing(tmp_path: Path) -> None:
    shards, test = make_hospitals(tmp_path / "data", 2), make_shard(tmp_path / "test").path
    folder = tmp_path / "run"
    start = options(folder, 2, rounds=3, quorum=1, test=test)
    sent = (
        "import json, time\n"
        "def sent(number):\n"
        f"    while f'\"round\": {{number}}' not in open({str(folder / 'audit.jsonl')!r}).read():\n"
        "        time.sleep(0.01)\n"
        "    return True\n"
    )
    left = f"open({str(folder / 'open.json')!r})"
    kills = [
        dies_before("pathlib:Path.replace", RENAME.format("round-0002.pt") + " and sent(3)"),
        dies_before(
            "server.rounds.testing:Tester.__call__",
            f"os.path.exists({left[5:-1]}) and json.load({left})['round'] == 2 and sent(3)",
        ),
    ]
    with FaultyFederation(tmp_path / "logs") as federation:
        for shard in shards:
            federation.start_client(shard)
        for number, kill in enumerate(kills):
            federation.preludes["server"] = sent + kill
            federation.start_server([*start, *(["--resume"] if number else [])])
            assert federation.server is not None
            assert federation.server.wait(60) == -signal.SIGKILL, number
            assert [line["round"] for line in lines_of(folder)] == [1]
            assert (folder / "open.json").exists() == bool(number)
        federation.preludes.clear()
        federation.start_server([*start, "--resume"])
        assert set(federation.wait(60).values()) == {0}
    models = models_by_hand(plan_of(seed=SEED, rounds=3, lr=0.05), shards, None)
    final, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert same_bits(final, models[-1])
    tester = Tester(test, "densenet-tiny", "cpu", 1)
    assert [line["test"] for line in lines_of(folder)] == [
        tester(model).model_dump(mode="json") for model in models[1:]
    ]
    assert not (folder / "open.json").exists()
    verify(folder / "audit.jsonl")


@pytest.mark.fault(
    "the server is killed, and a hospital beyond --min-clients is slow to come back",
    "the resumed round waits for it, up to a minute",
)
@pytest.mark.parametrize("number", [1, 2], ids=["first round", "later round"])
def test_hospitals_beyond_the_least_number_are_waited_for_too(tmp_path: Path, number: int) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    folder = tmp_path / "run"
    checkpoint = RENAME.format(f"round-{number:04}.pt")
    with FaultyFederation(tmp_path / "logs") as federation:
        for shard in shards:
            federation.start_client(shard)
        federation.preludes["server"] = dies_before("pathlib:Path.replace", checkpoint)
        federation.start_server(options(folder, 3, rounds=2, quorum=1))
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        slow = federation.clients["hospital-02"]
        os.kill(slow.pid, signal.SIGSTOP)
        federation.start_server([*options(folder, 2, rounds=2, quorum=1), "--resume"])
        wait_until(lambda: "for hospital-02" in log_of(federation, "server"))
        os.kill(slow.pid, signal.SIGCONT)
        assert set(federation.wait(60).values()) == {0}
    assert [len(line["hospitals"]) for line in lines_of(folder)] == [3, 3]


@pytest.mark.fault(
    "the server is killed after the run is finished, before it has told anybody",
    "--resume waits up to three minutes for all who ever took part and tells them (exit code 0)",
)
def test_a_finished_run_tells_who_has_not_heard_of_it(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 2)
    folder = tmp_path / "run"
    start = options(folder, 2, rounds=2, quorum=0.5)
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = dies_before("server.members.roster:Roster.say_farewell")
        in_round_2 = "args[1].identity.round == 2"
        federation.preludes["hospital-01"] = dies_before(
            "client.hospital:Hospital.answer", in_round_2
        )
        federation.start_server(start)
        for shard in shards:
            federation.start_client(shard)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        federation.preludes.clear()
        assert federation.clients.pop("hospital-01").wait(10) == -signal.SIGKILL
        assert list(lines_of(folder)[-1]["hospitals"]) == ["hospital-00"]
        federation.start_server([*start, "--resume"])
        assert federation.clients["hospital-00"].wait(30) == 0
        assert federation.server.poll() is None
        federation.server.terminate()  # while it waits for the other one
        assert federation.server.wait(10) == 143
        assert status_of(folder)["state"] == "finished"
        federation.start_server([*start, "--resume"])
        for shard in shards:
            federation.start_client(shard)
        assert set(federation.wait(30).values()) == {0}


@pytest.mark.fault(
    "SIGTERM at the server after the last round, while it says farewell",
    "the run is finished all the same; the model and the report are there",
)
def test_a_run_that_is_done_stays_finished_when_its_farewell_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = stops_before("server.members.roster:Roster.say_farewell")
        federation.start_server(options(folder, 1, rounds=1))
        federation.start_client(make_hospitals(tmp_path / "data", 1)[0])
        assert federation.server is not None
        assert federation.server.wait(60) == 143
    assert status_of(folder)["state"] == "finished"
    assert (folder / "final.pt").exists()
    assert (folder / "report.html").exists()


def test_what_a_run_was_started_with_cannot_be_changed_on_the_way(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 1)
    folder = tmp_path / "run"
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.start_server(options(folder, 1))
        federation.start_client(shards[0])
        assert set(federation.wait(60).values()) == {0}
        other = run("flower-server", "--insecure", "--resume", *options(folder, 1, lr=0.1))
        assert_one_line(other, 2, "--lr is 0.1, but the run was started with 0.05")
        fewer = run("flower-server", "--insecure", "--resume", *options(folder, 1, rounds=1))
        assert_one_line(fewer, 2, "--rounds 1: the run has done 2 rounds already")
        federation.start_server([*options(folder, 1), "--resume"])
        federation.start_client(shards[0])
        assert set(federation.wait(60).values()) == {0}
        assert "all 2 rounds of this run are done" in log_of(federation, "server")
        assert status_of(folder)["state"] == "finished"
        # More rounds may be asked for.
        federation.start_server([*options(folder, 1, rounds=3, quorum=1), "--resume"])
        federation.start_client(shards[0])
        assert set(federation.wait(60).values()) == {0}
    assert "3 of 3" in (folder / "report.html").read_text()
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=3), shards, None))


@pytest.mark.parametrize("content", ["{", "{}", "[]", "5"])
def test_a_run_must_be_whole_to_go_on_with(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(content)
    result = run("flower-server", "--insecure", "--resume", *options(folder, 1))
    assert_one_line(result, 2, "config.json", "--resume needs the folder")


def test_where_there_is_no_run_resume_begins_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.start_server([*options(folder, 1, rounds=1), "--resume"])
        federation.start_client(make_hospitals(tmp_path / "data", 1)[0])
        assert set(federation.wait(60).values()) == {0}
    assert len(lines_of(folder)) == 1
    first = json.loads((folder / "audit.jsonl").read_text().splitlines()[0])
    assert first["event"] == "started"
    assert "round 1" in (folder / "server.log").read_text()


@pytest.mark.parametrize("again", [[], ["--resume"]], ids=["anew", "resume"])
@pytest.mark.fault(
    "the server is killed while it makes the folder of a run",
    "both --resume and a start without it take the folder and begin the run",
)
def test_a_folder_in_which_nothing_was_begun_is_taken(tmp_path: Path, again: list[str]) -> None:
    folder = tmp_path / "run"
    start = options(folder, 1, rounds=1)
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.preludes["server"] = dies_before("pathlib:Path.replace")
        federation.start_server(start)
        assert federation.server is not None
        assert federation.server.wait(60) == -signal.SIGKILL
        assert (folder / "checkpoints").is_dir()
        assert not (folder / "config.json").exists()
        federation.preludes.clear()
        federation.start_server([*start, *again])
        federation.start_client(make_hospitals(tmp_path / "data", 1)[0])
        assert set(federation.wait(60).values()) == {0}
    assert status_of(folder)["state"] == "finished"
    assert not list(folder.glob(".*"))


def test_two_servers_cannot_have_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FaultyFederation(tmp_path / "logs") as federation:
        federation.start_server(options(folder, 1))
        federation.start_client(make_hospitals(tmp_path / "data", 1)[0])
        federation.wait(60)
        federation.start_server([*options(folder, 1, rounds=1000), "--resume"])
        wait_until(lambda: "waiting for" in (federation.logs / "server.log").read_text()[-200:])
        other = options(folder, 1, rounds=1000)
        result = run("flower-server", "--insecure", "--resume", *other)
        assert_one_line(result, 2, "another process is writing it")
