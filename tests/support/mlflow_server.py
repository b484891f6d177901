"""A real MLflow server on this machine, and how to look at what it was sent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Run

from experiments.launch.local import free_port

START_SECONDS = 120


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """Run a server that keeps everything in a folder; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    variables = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            urlopen(address, timeout=5).close()  # noqa: S310 - on loopback
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return


def runs_of(client: MlflowClient, name: str) -> list[Run]:
    """Return the runs of this name in the experiment ``fedcxr``."""
    experiment = client.get_experiment_by_name("fedcxr")
    identity = [experiment.experiment_id] if experiment else []
    return list(client.search_runs(identity, f"tags.`mlflow.runName` = '{name}'"))


def curve_of(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    """Return the points of a curve, in the order in which they were sent."""
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
