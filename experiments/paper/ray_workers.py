"""The grid's tasks on a Ray cluster, which decides where and when each of them runs.

Every machine of the cluster has this package, and the folders of the grid under the same path.
"""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from common.errors import BadInput
from common.runtime.cli import stop_on_signals

if TYPE_CHECKING:  # the module is imported by Ray's own processes too, which need no torch
    from experiments.paper.worker import Task


class RayWorkers:
    """Starts each task as one remote call; see :class:`experiments.paper.workers.Workers`.

    Args:
        address: HOST:PORT of the cluster's head, or ``auto`` for the cluster of this machine.
        jobs: Tasks in flight at most; 0: as many as the cluster has CPUs for.
        threads: CPUs of each task.
        gpus: Share of a GPU of each task; None: all GPUs of the cluster in equal shares.

    Raises:
        BadInput: There is no such cluster, or no machine of it is large enough for a task.
    """

    def __init__(self, address: str, jobs: int, threads: int, gpus: float | None) -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="WARNING")
        except (ConnectionError, RuntimeError, ValueError):
            raise BadInput(
                f"--ray {address}: no Ray cluster there; start one with 'ray start --head'"
            ) from None
        stop_on_signals()
        total = ray.cluster_resources()
        self.threads = threads
        self.jobs = jobs or max(1, int(total.get("CPU", 0)) // threads)
        if gpus is None:
            gpus = min(1.0, int(total.get("GPU", 0) / self.jobs * 1000) / 1000)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(n.get("CPU", 0) >= threads and n.get("GPU", 0) >= gpus for n in nodes):
            raise BadInput(
                f"--ray {address}: no machine of the cluster has {threads} CPUs and {gpus:g} GPUs; "
                "give less with --threads or --gpus-per-trial"
            )
        self._remote = ray.remote(_work).options(num_cpus=threads, num_gpus=gpus)

    def start(self, task: "Task", log: Path) -> "RayTask":
        """Hand a task to Ray."""
        return RayTask(self._remote.remote(task.model_dump_json(), str(log)), log)


class RayTask:
    """A task in Ray's hands; see :class:`experiments.paper.workers.Running`."""

    def __init__(self, reference: "ray.ObjectRef[int]", log: Path) -> None:
        self._reference = reference
        self._log = log

    def poll(self) -> int | None:
        """Return the exit code; 1 if Ray could not run the task, None while it waits or runs."""
        ready, _ = ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return int(ray.get(self._reference))
        except RayError as error:
            with self._log.open("a") as file:
                file.write(f"{type(error).__name__}: {error}\n")
            return 1

    def terminate(self) -> None:
        """End the task, wherever it runs or waits."""
        ray.cancel(self._reference, force=True)

    def wait(self) -> None:
        """Wait for its end."""
        ray.wait([self._reference])


def _work(task: str, log: str) -> int:
    """Do a task in a process of its own, as on one machine, and return its exit code."""
    with Path(log).open("ab") as file:
        command = [sys.executable, "-m", "experiments.paper.worker", task]
        return subprocess.run(command, stdout=file, stderr=file, check=False).returncode
