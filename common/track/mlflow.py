"""MLflow: a run with curves and parameters, and a version in the model registry.

The server's address and credentials come from MLflow's own variables. The low-level client is used:
the fluent one would also send the user's name and the program's path.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the worker tries again by itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from common.runtime.files import sha256_of
from common.track.base import End, Model, Points, TrackedRun

RUN_TAG = "fedcxr.run"
LAST_TAG = "fedcxr.last."
"""With the series' name: the last step that was sent. It goes with the points, in one request."""

ARTIFACTS = "model"
"""Folder of the models, each in one of its own: MLflow notes where a version's files are."""

MOST_METRICS = 900
"""In a request; MLflow takes 1,000 metrics and tags together."""

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """Sends to an MLflow server; see :class:`common.track.base.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        self._client = MlflowClient()
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'")
        if found:
            ours = found[0]
            self._client.update_run(ours.info.run_id, status="RUNNING")
        else:
            ours = self._client.create_run(experiment, run_name=run.name, tags={RUN_TAG: run.id})
        self._id = ours.info.run_id
        self._tags = dict(ours.data.tags)
        self._send_config(run, dict(ours.data.params))

    def _experiment(self) -> str:
        """Return the id of the experiment that the variables name; ``fedcxr`` if they name none."""
        if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedcxr")
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _send_config(self, run: TrackedRun, known: dict[str, str]) -> None:
        """Send parameters; MLflow never changes one, so a new value becomes a tag."""
        texts = {name: str(value) for name, value in run.config.items()}
        params = [Param(name, text) for name, text in texts.items() if name not in known]
        changed = {name: text for name, text in texts.items() if known.get(name, text) != text}
        self._client.log_batch(
            self._id, params=params, tags=[RunTag(name, text) for name, text in changed.items()]
        )

    def last(self, series: str) -> int:
        """Return what the run's tag says."""
        return int(self._tags.get(LAST_TAG + series, -1))

    def write(self, points: Points) -> None:
        """Send the points, and that they were sent."""
        metrics = [
            Metric(name, value, int(points.time * 1000), points.step)
            for name, value in points.named.items()
        ]
        while len(metrics) > MOST_METRICS:
            self._client.log_batch(self._id, metrics=metrics[:MOST_METRICS])
            metrics = metrics[MOST_METRICS:]
        tag = RunTag(LAST_TAG + points.series, str(points.step))
        self._client.log_batch(self._id, metrics=metrics, tags=[tag])

    def register(self, model: Model) -> None:
        """Upload the files, and make a version of the registered model from them."""
        sha256 = sha256_of(model.files[0])
        versions = self._client.search_model_versions(f"run_id='{self._id}'")
        if any(version.tags.get("sha256") == sha256 for version in versions):
            return  # from before a resumption
        place = f"{ARTIFACTS}/{sha256[:12]}"
        for file in model.files:
            self._client.log_artifact(self._id, str(file), place)
        with TemporaryDirectory() as folder:
            text = Path(folder) / "README.md"
            text.write_text(model.text, encoding="utf-8")
            self._client.log_artifact(self._id, str(text), place)
        if not self._client.search_registered_models(f"name='{model.name}'"):
            self._client.create_registered_model(model.name)
        self._client.create_model_version(
            model.name,
            f"runs:/{self._id}/{place}",
            self._id,
            tags={"sha256": sha256},
            description=model.text,
            await_creation_for=0,
        )

    def close(self, end: End) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._id, STATUS[end])
