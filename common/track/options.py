"""The option ``--track``; imports a tracker's package only if that tracker is chosen."""

import os
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from common.errors import BadInput
from common.runtime.cli import check_distinct, split_commas

TrackerName = Literal["tensorboard", "mlflow", "wandb"]

Track = Annotated[
    list[TrackerName], NoDecode, BeforeValidator(split_commas), AfterValidator(check_distinct)
]
"""Trackers, separated by commas."""

TRACK_HELP = (
    "send curves, settings and the final model to tensorboard, mlflow, wandb or several of them, "
    "each configured by its own variables, such as MLFLOW_TRACKING_URI"
)


def check_usable(names: list[TrackerName]) -> None:
    """Check early what the trackers need on this machine; none is connected to.

    Raises:
        BadInput: A package is not installed, or a tracker is not configured.
    """
    for name in names:
        if find_spec(name) is None:
            raise BadInput(
                f"--track {name}: its client is not installed; pip install 'fedcxr[{name}]'"
            )
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInput(
            "--track mlflow: MLFLOW_TRACKING_URI is not set; set it to the MLflow server's "
            "address, such as http://mlflow.example.org:5000"
        )
    if "wandb" in names:
        from common.track.wandb import has_account

        if not has_account():
            raise BadInput(
                "--track wandb: there is no API key; set WANDB_API_KEY, or WANDB_MODE=offline to "
                "keep everything on this machine"
            )
