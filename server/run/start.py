"""Where the rounds start: at the first model of a new run, or where a run in its folder stands."""

import platform
import secrets
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.checkpoint import read_checkpoint, read_strategy
from common.errors import BadInput
from common.initial import initial_state
from common.options import Architecture, Training
from common.provenance import Provenance
from common.scores import Scores
from common.state import State, returned
from common.wire import fingerprint, pack
from server.rounds.ask import Hospitals
from server.rounds.average import MovingAverage
from server.rounds.beside import Beside, take_apart
from server.rounds.loop import Rounds
from server.rounds.plan import Plan
from server.run.config import hashes_of, in_force, positives_of
from server.run.folder import NOISE_KEY, RunFolder
from server.run.options import RunOptions
from server.strategies import make_strategy
from server.strategies.base import Strategy

if TYPE_CHECKING:
    from server.cli import ServerSettings

SETTINGS = RunOptions.model_fields.keys() - {"strategy_args"}
"""That a checkpoint names; arguments of a strategy of one's own may be no one else's business."""


class Start(NamedTuple):
    """What the rounds start from."""

    folder: RunFolder
    resumed: bool
    plan: Plan
    state: State
    provenance: Provenance
    strategy: Strategy
    average: MovingAverage | None
    sent: State
    residual: State

    def rounds(self, hospitals: Hospitals, test: Callable[[State], Scores] | None) -> Rounds:
        """Return the rounds that are left.

        Args:
            hospitals: Those that take part.
            test: Scores a state on the test shard; None: there is none.
        """
        return Rounds(
            self.plan,
            hospitals,
            self.folder,
            self.state,
            self.provenance,
            test,
            self.strategy,
            self.average,
            self.sent,
            self.residual,
        )


def start_run(settings: "ServerSettings", size: int) -> Start:
    """Return a new run, or the one in the folder where it stands.

    Args:
        settings: What the run is to be.
        size: Pixels along each side of the images.

    Raises:
        BadInput: The folder has another run, or a file of it is missing or damaged.
    """
    versions = {name: version(name) for name in ("fedcxr", "flwr", "numpy", "torch")}
    versions["python"] = platform.python_version()
    config = settings.model_dump(mode="json", exclude={"debug", "log_format"})
    config |= {"run_id": secrets.token_hex(6), "image_size": size, "versions": versions}
    config |= hashes_of(settings.init, settings.test)
    resumed = settings.resume and not RunFolder.is_new(settings.run)
    if resumed:
        folder = RunFolder.reopen(settings.run, config)
        settings = _changed(settings, folder)
    elif settings.change:
        raise BadInput(f"--change: there is no run in {settings.run}; leave the option out")
    done = len(folder.rounds()) if resumed else 0
    if done > settings.rounds:
        raise BadInput(
            f"--rounds {settings.rounds}: the run has done {done} rounds already; "
            f"give {done} or more"
        )
    if done:
        state, origin = _last_model(folder, done, settings.architecture)
    else:
        state, origin = initial_state(
            settings.init, settings.architecture, settings.seed, settings.head
        )
    strategy = make_strategy(
        settings.combining,
        returned(state, settings.training),
        settings.run / NOISE_KEY if settings.dp == "site" else None,
    )
    if not resumed:
        first = {"test_positives": positives_of(settings.test)}
        if origin is not None:
            first["origin"] = origin.model_dump(mode="json", exclude_none=True)
        folder = RunFolder.create(settings.run, config | first)
    run = folder.config["run_id"]
    plan = Plan(
        run=run,
        architecture=settings.architecture,
        training=settings.training,
        rounds=settings.rounds,
        min_clients=settings.min_clients,
        quorum=settings.quorum,
        attempts=settings.attempts,
        strategy=settings.combining,
        norm_limit=settings.norm_limit,
        round_timeout=settings.round_timeout,
        seed=settings.seed,
        share_model=settings.shares_model,
        early_stop=settings.early_stop,
        min_gain=settings.min_gain,
        canary=settings.canary,
        participation=settings.participation,
        schedule=settings.rates,
        ema=settings.ema,
        secure=settings.secure,
        most_films=settings.max_examples,
    )
    init = Path(settings.init).name
    provenance = Provenance(
        method=settings.strategy,
        local=settings.local,
        # The server's model is whole if what is not shared is frozen.
        shared="all" if settings.training.one_model else settings.shared,
        run=run,
        init=init,
        start=origin,
        seed=settings.seed,
        settings=settings.model_dump(mode="json", include=SETTINGS) | {"image_size": size},
    )
    if done:
        beside = take_apart(read_strategy(folder.checkpoint(done)))
        strategy.load_state_dict(beside.strategy)
    else:
        beside = Beside({}, state, {}, {})
    average = MovingAverage(plan.ema, beside.average) if plan.ema else None
    gone_out = beside.sent, beside.residual
    return Start(folder, resumed, plan, state, provenance, strategy, average, *gone_out)


def _changed(settings: "ServerSettings", folder: RunFolder) -> "ServerSettings":
    """Return the options with all changes, of earlier resumptions and of this one."""
    values = in_force(folder.config)
    for option, new in settings.change.items():
        if values.get(option, folder.config[option]) != new:
            folder.change(option, new)
            values[option] = new
    training = {**settings.training.model_dump(), **values}
    return settings.model_copy(update=Training.model_validate(training).model_dump())


def _last_model(
    folder: RunFolder, done: int, architecture: Architecture
) -> tuple[State, Provenance | None]:
    """Return the model of the last round that is done, and where the first one came from.

    Raises:
        BadInput: There is none, or it is not the one in ``rounds.jsonl``.
    """
    file = folder.checkpoint(done)
    if not file.exists():
        raise BadInput(f"{file}: no such file; restore it from a backup of the run")
    state, provenance = read_checkpoint(file, architecture, 0, part=True)
    if fingerprint(pack(state)) != folder.rounds()[-1].model_sha256:
        raise BadInput(
            f"{file}: not the model of the last round in rounds.jsonl; restore both from a backup "
            "of the run"
        )
    return state, provenance.start
