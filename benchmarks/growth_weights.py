"""What a round costs the server as the model grows; a part of :mod:`benchmarks.growth`.

The architecture of a federation is fixed, so the model is DenseNet-121's tensors several times
under other names. The real round loop runs with it: packing, hashing, checks, replies on disk, the
mean, the cosines and the checkpoint with fsync. The hospitals are in the same process and return
the received weights, since the transport refuses messages of more than 64 MiB.
"""

import resource
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.federation_overhead import EchoHospital
from common.model import build_model, state_of
from common.options import Training
from common.protocol import Greeting
from common.provenance import Provenance
from common.runtime.memory import keep_one_arena
from common.state import State
from experiments.launch.inprocess import InProcessHospitals
from server.members.admission import Admission
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.run.folder import RunFolder
from server.run.records import read_rounds
from server.strategies.settings import StrategySettings

HOSPITALS = 4
ROUNDS = 2


class Cost(NamedTuple):
    """What something costs.

    Attributes:
        seconds: It took.
        memory: At its peak, in bytes.
    """

    seconds: float
    memory: int


def model_of(copies: int) -> State:
    """Return DenseNet-121's state so many times under different names."""
    state = state_of(build_model("densenet121"))
    return {f"{i}.{name}": a.copy() for i in range(copies) for name, a in state.items()}


def weights_in(state: State) -> int:
    """Return the number of values in a state."""
    return sum(array.size for array in state.values())


def round_of(copies: int) -> tuple[int, Cost]:
    """Return the number of weights, and the cost of the fastest round; needs its own process."""
    keep_one_arena()
    state = model_of(copies)
    plan = Plan(
        run="growth",
        architecture="densenet121",
        training=Training(),
        rounds=ROUNDS,
        min_clients=HOSPITALS,
        quorum=None,
        attempts=1,
        strategy=StrategySettings(),
        norm_limit=0,
        round_timeout=600,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder.create(Path(temporary) / "run", {})
        admission = Admission(Greeting(run=plan.run, seed=plan.seed), 64, folder)
        echoes = [EchoHospital(f"hospital-{number}") for number in range(HOSPITALS)]
        hospitals = InProcessHospitals(echoes, admission)  # type: ignore[arg-type]
        start = Provenance(method="random")
        Rounds(plan, hospitals, folder, state, Provenance(method="fedavg", start=start), None).run()
        seconds = min(r.seconds.total + r.seconds.save for r in read_rounds(folder.path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return weights_in(state), Cost(seconds, peak)
