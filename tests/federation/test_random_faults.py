"""Thirty rounds under a seeded schedule of kills and stops; the model must be the right one."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from common.audit import verify
from common.checkpoint import read_checkpoint
from tests.support.faults import IMPATIENT, FaultyFederation
from tests.support.federations import SEED, lines_of, log_of, options, status_of
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.hosts import Hosts, needs_hosts
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

ROUNDS = 30
FAULTS = 10
NAMES = ["hospital-00", "hospital-01", "hospital-02"]


class Schedule:
    """Does one fault after another to a federation, each a while after a round was done."""

    def __init__(self, federation: FaultyFederation, run: Path, shards: list[Path]) -> None:
        self._federation = federation
        self._run = run
        self._shards = dict(zip(NAMES, shards, strict=True))
        self._draws = np.random.default_rng(SEED)
        self._options = options(run, 3, rounds=ROUNDS, quorum=1, attempts=1000)
        self._options += ["--round-timeout", "20"]

    def start(self) -> None:
        self._federation.start_server(self._options)
        for shard in self._shards.values():
            self._federation.start_client(shard)

    def one_fault(self, wait_for_round: int) -> str:
        """Wait for a round, and for a part of the next one, and do something bad."""
        deadline = time.monotonic() + 120
        while self._done() < wait_for_round:
            assert time.monotonic() < deadline, log_of(self._federation, "server")[-2000:]
            time.sleep(0.02)
        time.sleep(float(self._draws.uniform(0, 0.5)))  # where in the round it hits is drawn
        kind = str(self._draws.choice(["kill server", "kill client", "stop client", "cut client"]))
        name = str(self._draws.choice(NAMES))
        getattr(self, f"_{kind.replace(' ', '_')}")(name)
        return f"{kind} {name}"

    def _done(self) -> int:
        file = self._run / "rounds.jsonl"
        return len(file.read_bytes().splitlines()) if file.exists() else 0

    def _kill_server(self, _name: str) -> None:
        server = self._federation.server
        assert server is not None
        if server.poll() is None:
            server.kill()
        server.wait()
        self._federation.start_server([*self._options, "--resume"])

    def _kill_client(self, name: str) -> None:
        self._federation.clients[name].kill()
        self._federation.clients[name].wait()
        self._federation.start_client(self._shards[name])

    def _stop_client(self, name: str) -> None:
        self._federation.clients[name].send_signal(signal.SIGSTOP)
        time.sleep(float(self._draws.uniform(0.1, 4)))
        self._federation.clients[name].send_signal(signal.SIGCONT)

    def _cut_client(self, name: str) -> None:
        self._federation.hosts[name].cut()
        time.sleep(float(self._draws.uniform(0.1, 4)))
        self._federation.hosts[name].heal()


@pytest.mark.long
@pytest.mark.fault(
    "thirty rounds under ten faults at random: server and clients killed, stopped, cut off",
    "the model is, bit for bit, that of an undisturbed run; history and audit log are whole",
)
@needs_hosts
def test_thirty_rounds_under_random_faults_end_with_the_right_model(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    run = tmp_path / "run"
    with Hosts(4) as hosts, FaultyFederation(tmp_path / "logs", hosts=hosts) as federation:
        for name in ("server", *NAMES):
            federation.preludes[name] = IMPATIENT
        schedule = Schedule(federation, run, shards)
        schedule.start()
        done = [schedule.one_fault(1 + 2 * number) for number in range(FAULTS)]
        assert len({fault.split()[0] + fault.split()[1] for fault in done}) == 4
        assert set(federation.wait(180).values()) == {0}, log_of(federation, "server")[-2000:]
    lines = lines_of(run)
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    for line in lines:
        assert sorted(line["hospitals"]) == NAMES
    state, _ = read_checkpoint(run / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, federate_by_hand(plan_of(seed=SEED, rounds=ROUNDS), shards, None))
    assert status_of(run)["state"] == "finished"
    verify(run / "audit.jsonl")
