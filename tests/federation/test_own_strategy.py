"""A strategy of one's own, from a file in the current folder, with real processes."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import read_checkpoint
from common.model import build_model, state_of
from common.state import State, is_parameter, spec_of
from common.wire import pack, unpack
from experiments.launch.local import SERVER
from tests.support.commands import assert_one_line, run
from tests.support.doc_commands import program_in
from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import SEED, lines_of, log_of, options, status_of
from tests.support.hospitals import hospital_of, instruction_of, plan_of
from tests.support.states import slow_mean


def within(folder: Path) -> str:
    """Return a prelude: the process is started in a folder, as the command is."""
    return f"import os, sys\nos.chdir({str(folder)!r})\nsys.path[:] = [p for p in sys.path if p]\n"


def by_square_roots(shards: list[Path], rounds: int) -> State:
    """Return the model of the docs' strategy, computed one hospital after another."""
    state = state_of(build_model("densenet-tiny", SEED))
    plan = plan_of(seed=SEED)
    hospitals = [hospital_of(path) for path in shards]
    for number in range(1, rounds + 1):
        replies = []
        for hospital in hospitals:
            reply, blob = hospital.answer(instruction_of(plan, number), pack(state))
            replies.append((unpack(blob, spec_of(state)), reply.examples))
        roots = [(each, float(examples) ** 0.5) for each, examples in replies]
        total = sum(root for _, root in roots)
        parameters = {
            name: np.asarray(sum(root * each[name] for each, root in roots) / total, array.dtype)
            for name, array in state.items()
            if is_parameter(name)
        }
        state = slow_mean(replies) | parameters
    return state


def test_the_strategy_of_the_docs_runs_from_its_file_and_survives_a_kill(
    federation: FaultyFederation, shards: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(program_in("own-strategy.md"))
    folder = tmp_path / "run"
    start = options(folder, 3, strategy="mine:SquareRoot")
    killed = dies_before("server.run.folder:RunFolder.write_round", "args[1].round == 2")
    federation.preludes["server"] = within(tmp_path) + killed
    federation.start_server(start)
    for shard in shards:
        federation.start_client(shard)
    assert federation.server is not None
    assert federation.server.wait(60) == -signal.SIGKILL
    federation.preludes["server"] = within(tmp_path)
    federation.start_server([*start, "--resume"], code=SERVER)
    assert set(federation.wait(60).values()) == {0}
    assert status_of(folder)["state"] == "finished"
    assert json.loads((folder / "config.json").read_text())["strategy"] == "mine:SquareRoot"
    final, provenance = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert provenance.method == "mine:SquareRoot"
    assert len(lines_of(folder)) == 2
    expected = by_square_roots(shards, 2)
    assert all(np.allclose(final[n], expected[n], rtol=1e-4, atol=1e-5) for n in final)
    assert "fit_metrics_aggregation_fn" not in log_of(federation, "server")


BROKEN = """
from flwr.server.strategy import FedAvg

class Broken(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        return None, {}
"""


def test_a_strategy_that_makes_no_model_ends_the_run_and_is_mended(
    federation: FaultyFederation, shards: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    folder = tmp_path / "run"
    start = options(folder, 3, strategy="mine:Broken", rounds=1)
    federation.preludes["server"] = within(tmp_path)
    federation.start_server(start)
    for shard in shards:
        federation.start_client(shard)
    assert federation.server is not None
    assert federation.server.wait(60) == 1
    reason = "--strategy mine:Broken: its aggregate_fit returned NoneType"
    assert reason in status_of(folder)["reason"]
    log = log_of(federation, "server")
    assert reason in log.splitlines()[-1]
    assert "Traceback" not in log
    (tmp_path / "mine.py").write_text(
        BROKEN.replace(
            "return None, {}", "return super().aggregate_fit(server_round, results, failures)"
        )
    )
    federation.start_server([*start, "--resume"])
    assert set(federation.wait(60).values()) == {0}
    assert status_of(folder)["state"] == "finished"


@pytest.mark.parametrize(
    ("strategy", "more", "fragments"),
    [
        ("nowhere:Mine", [], ["there is no module nowhere; give a file"]),
        (
            "flwr.serverapp.strategy:FedAdam",
            ["--strategy-args", "etta=0.1"],
            ["'etta'; --strategy-args NAME=VALUE takes", "eta_l"],
        ),
        ("fedavg", ["--strategy-args", "eta=0.1"], ["--strategy-args are of", "leave them out"]),
    ],
)
def test_a_strategy_that_cannot_be_made(
    tmp_path: Path, strategy: str, more: list[str], fragments: list[str]
) -> None:
    arguments = ["--insecure", *options(tmp_path / "run", 1, strategy=strategy), *more]
    assert_one_line(run("flower-server", *arguments), 2, *fragments)
    assert not (tmp_path / "run").exists()
