"""What hospitals get back at the end of a run: real processes over TLS."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.audit import verify
from common.checkpoint import read_checkpoint
from common.wire import fingerprint, pack
from tests.support.disks import SmallDisk, needs_root, small_disk
from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import SEED, lines_of, log_of, options, status_of
from tests.support.provisioned import provision
from tests.support.states import same_bits
from tests.support.waiting import wait_until

NAMES = ["hospital-00", "hospital-01", "hospital-02"]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    with FaultyFederation(tmp_path / "logs", tls=provision(tmp_path / "kits", NAMES)) as federation:
        yield federation


def start(
    federation: FaultyFederation, tmp_path: Path, shards: list[Path], *more: str, **changes: object
) -> None:
    federation.start_server([*options(tmp_path / "run", 3, **changes), *more])
    for shard in shards:
        federation.start_client(shard, ["--state", str(tmp_path / "state" / shard.name)])


def given(tmp_path: Path, name: str) -> Path:
    """Return where a hospital has what it got back of the one run."""
    run = str(json.loads((tmp_path / "run" / "config.json").read_text())["run_id"])
    return tmp_path / "state" / name / "models" / run


def audit_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def spoils(number: int) -> str:
    """Return a prelude: the server's average after a round is no good, so it is not the best."""
    return (
        "import server.strategies.fedavg as module\n"
        "was, calls = module.FedAvg.combine, []\n"
        "def combine(self, *arguments):\n"
        "    calls.append(1)\n"
        "    after = was(self, *arguments)\n"
        f"    if len(calls) == {number}:\n"
        "        after['classifier.weight'] = 0 * after['classifier.weight']\n"
        "    return after\n"
        "module.FedAvg.combine = combine\n"
    )


def almost_fills(disk: SmallDisk) -> str:
    """Return a prelude: before a model is written, there is room for all but the model."""
    return (
        "import os, client.kept as module\n"
        "from tests.support.disks import SmallDisk\n"
        "was = module.write_checkpoint\n"
        "def write_checkpoint(*args):\n"
        f"    others = {str(disk.path / 'others')!r}\n"
        f"    SmallDisk(module.Path({str(disk.path)!r})).fill()\n"
        "    os.truncate(others, os.path.getsize(others) - 24576)\n"
        "    return was(*args)\n"
        "module.write_checkpoint = write_checkpoint\n"
    )


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_each_hospital_has_the_final_and_the_best_model_and_a_page_of_its_own(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path], mode: str
) -> None:
    run = tmp_path / "run"
    federation.preludes["server"] = spoils(3)
    start(federation, tmp_path, shards, rounds=3, mode=mode, quorum=1)
    assert set(federation.wait(120).values()) == {0}
    status, rounds = status_of(run), lines_of(run)
    best = status["best_round"]
    assert best < 3
    if mode == "linear":  # only the head travels after the first round
        received = [{h["bytes"]["received"] for h in line["hospitals"].values()} for line in rounds]
        assert min(received[0]) > 5 * max(received[1])
        assert received[1] == received[2]
    audit = audit_of(run)
    for name in NAMES:
        folder = given(tmp_path, name)
        files = {"final.pt", "final.json", "best.pt", "best.json", "report.html"}
        assert {file.name for file in folder.iterdir()} == files
        for model, number in (("final", 3), ("best", best)):
            theirs, _ = read_checkpoint(run / f"{model}.pt", "densenet-tiny", 0)
            ours, provenance = read_checkpoint(folder / f"{model}.pt", "densenet-tiny", 0)
            assert same_bits(ours, theirs)
            assert fingerprint(pack(ours)) == rounds[number - 1]["model_sha256"]
            assert provenance is not None
            assert (provenance.method, provenance.round, provenance.seed) == (
                *("fedavg", number),
                SEED,
            )
            assert (provenance.run or "") == folder.name
        mine = audit_of(tmp_path / "state" / name)
        handed = [line["keep"] for line in audit if line.get("site") == name and "keep" in line]
        assert [line["keep"] for line in mine if line["event"] == "kept"] == handed
        assert [keep["model"] for keep in handed] == ["final", "best"]
        told = [line["kept"] for line in audit if line.get("site") == name and "kept" in line]
        assert told == [True, True]
        text = (folder / "report.html").read_text()
        assert [other for other in NAMES if other in text] == [name]
        assert "counted in 3 of 3, rejected in 0, missing in 0" in text
        sent = sum(line["bytes"] for line in mine if line["event"] == "sent")
        assert f"3 models, {sent / 1e6:.1f} MB" in text
    log = log_of(federation, "server")
    assert log.count("model: kept by 3 of 3 hospitals") == 2
    assert "best model is not shared" not in log


def test_a_model_that_came_back_begins_another_run(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    start(federation, tmp_path, shards, rounds=1)
    assert set(federation.wait(120).values()) == {0}
    model = given(tmp_path, "hospital-00") / "final.pt"
    with FaultyFederation(tmp_path / "more-logs") as second:
        second.start_server(options(tmp_path / "second", 1, rounds=1, init=model))
        second.start_client(shards[0])
        assert set(second.wait(120).values()) == {0}
    _, provenance = read_checkpoint(tmp_path / "second" / "final.pt", "densenet-tiny", 0)
    assert provenance is not None
    assert provenance.start is not None
    assert provenance.start.round == 1


def test_without_share_model_nothing_is_left_and_nothing_told(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    start(federation, tmp_path, shards, "--no-share-model", rounds=1)
    assert set(federation.wait(120).values()) == {0}
    for name in NAMES:
        assert not (tmp_path / "state" / name / "models").exists()
    assert status_of(tmp_path / "run")["shared"] is None
    assert not any("keep" in line for line in audit_of(tmp_path / "run"))


@pytest.mark.fault(
    "the model that the server shares at the end is not the one that it announces",
    "the hospital says so and keeps nothing of it; the run and the client end as they would have",
)
def test_a_model_with_another_hash_is_told_and_not_kept(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["server"] = (
        "import server.rounds.sharing as sharing\nsharing.fingerprint = lambda blob: 'f' * 64\n"
    )
    start(federation, tmp_path, shards, rounds=1)
    assert set(federation.wait(120).values()) == {0}
    assert "final model: kept by 0 of 3 hospitals" in log_of(federation, "server")
    for name in NAMES:
        assert "is not kept: it does not have the hash that the server" in log_of(federation, name)
        folder = given(tmp_path, name)
        assert [file.name for file in folder.iterdir()] == ["report.html"]
        assert "not kept here" in (folder / "report.html").read_text()
        (line,) = [
            line for line in audit_of(tmp_path / "state" / name) if line["event"] == "not kept"
        ]
        assert line["keep"]["sha256"] == "f" * 64
        verify(tmp_path / "state" / name / "audit.jsonl")


@needs_root
@pytest.mark.fault(
    "a hospital's disk is full when it is given the final model",
    "nothing is half-written; it says so, and the run and the client end as they would have",
)
def test_a_disk_without_room_for_the_model_ends_nothing(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        federation.preludes["hospital-00"] = almost_fills(disk)
        federation.start_server(options(tmp_path / "run", 3, rounds=1))
        for shard in shards[1:]:
            federation.start_client(shard)
        federation.start_client(shards[0], ["--state", str(disk.path / "state")])
        assert set(federation.wait(120).values()) == {0}
        assert "is not kept: No space left on device" in log_of(federation, "hospital-00")
        (run,) = (disk.path / "state" / "models").iterdir()
        assert [file.name for file in run.iterdir()] == ["report.html"]
        assert json.loads((disk.path / "state" / "status.json").read_text())["state"] == "finished"
        verify(disk.path / "state" / "audit.jsonl")


@pytest.mark.fault(
    "a hospital is killed while it writes the final model",
    "nothing is half-written; started again it hears that the run is over and gets its page",
)
def test_a_client_that_is_killed_while_it_writes_leaves_nothing_half_written(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["hospital-00"] = dies_before("pathlib:Path.replace", "'.pt' in str(args)")
    start(federation, tmp_path, shards, rounds=1)
    wait_until(lambda: federation.clients["hospital-00"].poll() is not None)
    folder = given(tmp_path, "hospital-00")
    assert not (folder / "final.pt").exists()
    assert list(folder.glob(".new-final.pt.*"))
    del federation.preludes["hospital-00"]
    federation.start_client(shards[0], ["--state", str(tmp_path / "state" / "hospital-00")])
    assert set(federation.wait(120).values()) == {0}
    assert {file.name for file in folder.iterdir()} == {"report.html"}
    assert (given(tmp_path, "hospital-01") / "final.pt").exists()


@pytest.mark.fault(
    "the server is killed after it has shared the final model, before it has told anybody",
    "after --resume the hospitals hear what came of the run, and get their pages",
)
def test_a_server_that_is_killed_before_it_has_told_anybody_tells_them_when_it_is_back(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    federation.preludes["server"] = dies_before("server.members.roster:Roster.say_farewell")
    start(federation, tmp_path, shards, rounds=1)
    assert federation.server is not None
    assert federation.server.wait(60) == -signal.SIGKILL
    del federation.preludes["server"]
    federation.start_server([*options(tmp_path / "run", 3, rounds=1), "--resume", "--share-model"])
    assert set(federation.wait(60).values()) == {0}
    for name in NAMES:
        text = (given(tmp_path, name) / "report.html").read_text()
        assert "counted in 1 of 1" in text
        assert "over 3 hospitals" in text
