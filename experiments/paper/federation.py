"""A trial's federation: in this process, or over gRPC between processes.

Both leave the same run in its folder, up to its final model and ``status.json``.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from client.hospital import Hospital
from client.own import OwnStates
from common.errors import FedCXRError
from common.model import choose_device
from common.protocol import Greeting
from common.shard import open_for_training
from experiments.launch.inprocess import InProcessHospitals
from experiments.launch.local import LocalFederation
from server.cli import ServerSettings
from server.members.admission import Admission
from server.rounds.testing import Tester
from server.run.records import RunStatus
from server.run.start import start_run

POLL_SECONDS = 0.2


def run_in_process(settings: ServerSettings, shards: Sequence[Path]) -> None:
    """Run a federation in this process, or go on with it.

    Args:
        settings: Of the server; ``test`` is given.
        shards: Of the hospitals, which are named as the folders.

    Raises:
        BadInput: A file cannot be used.
    """
    assert settings.test is not None  # noqa: S101 - given
    tester = Tester(
        settings.test, settings.architecture, settings.device, settings.threads, settings.mode
    )
    start = start_run(settings, tester.image_size)
    folder, plan = start.folder, start.plan
    admission = Admission(
        Greeting(run=plan.run, seed=plan.seed, training=plan.training), tester.image_size, folder
    )
    device = choose_device(settings.device)
    states = states_of(settings.run)
    hospitals = [
        Hospital(
            path.name,
            open_for_training(path),
            device,
            precision=None,
            own=OwnStates(states / path.name / "own"),
        )
        for path in shards
    ]
    federation = InProcessHospitals(hospitals, admission)
    rounds = start.rounds(federation, tester)
    folder.status.end(RunStatus(state="finished", **dict(rounds.run())))
    folder.log.close()


def run_over_grpc(settings: ServerSettings, shards: Sequence[Path]) -> None:
    """Run ``flower-server`` and a ``flower-client`` for each shard, or go on with their run.

    As many clients compute at once as this process has threads.

    Args:
        settings: Of the server, with ``insecure`` and ``resume``.
        shards: Of the hospitals.

    Raises:
        FedCXRError: A process failed.
    """
    values = settings.model_dump(
        mode="json", exclude_unset=True, exclude_none=True, exclude={"insecure", "resume", "listen"}
    )
    options = [
        text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", value)
    ]
    with (
        TemporaryDirectory() as logs,
        LocalFederation(Path(logs), torch.get_num_threads()) as federation,
    ):
        federation.start_server([*map(str, options), "--resume"])
        for shard in shards:
            state = ("--state", str(states_of(settings.run) / shard.name))
            federation.start_client(shard, state if settings.training.keeps_state else ())
        _wait(federation)


def states_of(run: Path) -> Path:
    """Return the folder of what hospitals keep of their own, with which a run can go on."""
    return run.with_name(f"{run.name}.states")


def _wait(federation: LocalFederation) -> None:
    """Wait until all have ended, or one has failed: the server would wait for it for days."""
    processes = {"server": federation.server, **federation.clients}
    while True:
        codes = {name: process.poll() for name, process in processes.items() if process}
        for name, code in codes.items():
            if code:
                lines = (federation.logs / f"{name}.log").read_text(errors="replace").split("\n")
                reason = next((line for line in reversed(lines) if line.strip()), "")
                raise FedCXRError(f"{name} ended with exit code {code}: {reason}")
        if None not in codes.values():
            return
        time.sleep(POLL_SECONDS)
