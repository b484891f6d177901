"""Weights & Biases: a run with curves and settings, and a version of a model artifact.

Account, project and mode come from its own variables. Everything that it collects by itself is
turned off: the machine, its load, the code, git, the installed packages and the console.
"""

import os

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
os.environ.setdefault("WANDB_SILENT", "true")

import wandb

from common.track.base import End, Model, Points, TrackedRun

INIT_SECONDS = 30.0
LAST = "last/"
"""Prefix of the summary's entries with the last step of each series."""


def has_account() -> bool:
    """Return whether runs can be sent without asking for a key, or are kept on this machine."""
    return bool(wandb.login(prompt=False)) or os.environ.get("WANDB_MODE") in (
        "offline",
        "disabled",
    )


class WandB:
    """Sends to Weights & Biases; see :class:`common.track.base.Tracker`.

    A run that is resumed offline gets another folder, in which it is whole.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._unit = run.unit
        self._run = wandb.init(
            id=run.id,
            name=run.name,
            project=os.environ.get("WANDB_PROJECT", "fedcxr"),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=dict(run.config),
            allow_val_change=True,
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                host="",
                init_timeout=INIT_SECONDS,
                save_code=False,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric=run.unit)

    def last(self, series: str) -> int:
        """Return what the run's summary says."""
        return int(self._run.summary.get(LAST + series, -1))  # type: ignore[no-untyped-call]

    def write(self, points: Points) -> None:
        """Log a row."""
        self._run.log({self._unit: points.step, **points.named})
        self._run.summary[LAST + points.series] = points.step

    def register(self, model: Model) -> None:
        """Log an artifact; one with the same content does not become another version."""
        artifact = wandb.Artifact(model.name, "model", description=model.text)
        for file in model.files:
            artifact.add_file(str(file))
        with artifact.new_file("README.md") as readme:
            readme.write(model.text)
        self._run.log_artifact(artifact)

    def close(self, end: End) -> None:
        """End the run, and wait until everything is sent."""
        self._run.finish(exit_code=0 if end == "finished" else 1)
