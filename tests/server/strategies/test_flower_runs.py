"""Strategies of Flower's two interfaces in whole runs."""

from pathlib import Path

import pytest

from common.checkpoint import read_checkpoint, read_strategy
from common.model import build_model, state_of
from common.options import Mode, Part
from common.provenance import Provenance
from common.state import State, returned
from server.rounds.beside import take_apart
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.run.folder import RunFolder
from server.strategies import make_strategy
from tests.support.hospitals import LocalHospitals, plan_of
from tests.support.shards import make_hospitals
from tests.support.states import same_bits

INTERFACES = ["flwr.server.strategy", "flwr.serverapp.strategy"]
FIRST = state_of(build_model("densenet-tiny", 5))


def run(
    plan: Plan, shards: list[Path], folder: RunFolder, state: State, kept: State | None = None
) -> State:
    """Run what is left of a run; return the final model."""
    strategy = make_strategy(plan.strategy, returned(state, plan.training))
    if kept is not None:
        strategy.load_state_dict(take_apart(kept).strategy)
    hospitals = LocalHospitals(shards, plan.seed, {})
    provenance = Provenance(method=plan.strategy.strategy, run="test")
    Rounds(plan, hospitals, folder, state, provenance, None, strategy).run()
    folder.log.close()
    return read_checkpoint(folder.checkpoint(plan.rounds), "densenet-tiny", 0)[0]


@pytest.mark.parametrize("interface", INTERFACES)
def test_flowers_fedadam_survives_the_server(tmp_path: Path, interface: str) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    adam = {"strategy": f"{interface}:FedAdam", "strategy_args": {"eta": 0.001}}
    three, two = (plan_of(rounds=rounds, **adam) for rounds in (3, 2))
    whole = run(three, shards, RunFolder.create(tmp_path / "whole", {}), FIRST)

    for kept, same in ((True, True), (False, False)):
        half = tmp_path / f"kept-{kept}"
        run(two, shards, RunFolder.create(half, {}), FIRST)
        again = RunFolder.reopen(half, {})
        file = again.checkpoint(2)
        state, provenance = read_checkpoint(file, "densenet-tiny", 0)
        assert provenance.method == f"{interface}:FedAdam"
        final = run(three, shards, again, state, read_strategy(file) if kept else None)
        assert same_bits(final, whole) == same


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(
    ("mode", "shared"), [("linear", "all"), ("finetune", "backbone"), ("finetune", "no-batchnorm")]
)
def test_a_part_of_the_model_is_averaged_as_by_fedavg(
    tmp_path: Path, interface: str, mode: Mode, shared: Part
) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    finals = [
        run(
            plan_of(rounds=1, mode=mode, shared=shared, strategy=strategy),
            shards,
            RunFolder.create(tmp_path / strategy, {}),
            FIRST,
        )
        for strategy in ("fedavg", f"{interface}:FedAvg")
    ]
    ours, theirs = finals
    assert all(abs(ours[name] - theirs[name]).max() < 1e-6 for name in ours)
    assert not same_bits(theirs, FIRST)
