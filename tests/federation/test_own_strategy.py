"""A strategy of one's own, from a file in the current folder, with real processes."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import read_checkpoint
from common.state import State, parameters_of
from tests.support.commands import assert_one_line, run
from tests.support.doc_commands import program_in
from tests.support.faults import FaultyFederation
from tests.support.federations import SEED, log_of, options, start, status_of
from tests.support.hospitals import federate_by_hand, plan_of
from tests.support.states import slow_mean


def within(folder: Path) -> str:
    """Return a prelude: the process is started in a folder, as the command is."""
    return f"import os, sys\nos.chdir({str(folder)!r})\nsys.path[:] = [p for p in sys.path if p]\n"


def by_square_roots(replies: list[tuple[State, int]]) -> State:
    """Return what the docs' strategy makes of replies."""
    roots = [(state, float(examples) ** 0.5) for state, examples in replies]
    total = sum(root for _, root in roots)
    parameters = {
        name: np.asarray(sum(root * state[name] for state, root in roots) / total, np.float32)
        for name in parameters_of(replies[0][0])
    }
    return slow_mean(replies) | parameters


def test_the_strategy_of_the_docs_runs_from_its_file(
    federation: FaultyFederation, shards: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(program_in("own-strategy.md"))
    folder = tmp_path / "run"
    federation.preludes["server"] = within(tmp_path)
    start(federation, folder, shards, strategy="mine:SquareRoot", rounds=1)
    assert set(federation.wait(60).values()) == {0}
    assert json.loads((folder / "config.json").read_text())["strategy"] == "mine:SquareRoot"
    final, provenance = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert provenance.method == "mine:SquareRoot"
    expected = federate_by_hand(plan_of(seed=SEED, rounds=1), shards, None, by_square_roots)
    assert all(np.allclose(final[n], expected[n], rtol=1e-4, atol=1e-6) for n in final)
    plain = federate_by_hand(plan_of(seed=SEED, rounds=1), shards, None)
    assert not np.allclose(final["classifier.bias"], plain["classifier.bias"], rtol=1e-4, atol=1e-6)
    assert "fit_metrics_aggregation_fn" not in log_of(federation, "server")  # Flower's own lines


BROKEN = """
from flwr.server.strategy import FedAvg

class Broken(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        return None, {}
"""


@pytest.mark.fault(
    "a strategy of the operator's own makes no model",
    "the run ends with exit code 1 and the reason; once it is mended, --resume goes on",
)
def test_a_strategy_that_makes_no_model_ends_the_run_and_is_mended(
    federation: FaultyFederation, shards: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    folder = tmp_path / "run"
    federation.preludes["server"] = within(tmp_path)
    start(federation, folder, shards, strategy="mine:Broken", rounds=1)
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
    again = options(folder, 3, strategy="mine:Broken", rounds=1)
    federation.start_server([*again, "--resume"])
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
