"""What every stack does the same: the settings, the films, the model and the local training."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn
from torchvision.models import DenseNet

from common.findings import FINDINGS
from common.model import to_input

FOLDER = "FEDCXR_PEERS"
"""Environment variable: the folder of one stack's run."""

SETTINGS = "settings.json"
TIMES = "times.jsonl"

LOOPBACK = Path("/proc/net/dev")


class Settings(BaseModel):
    """Of a federation; the same for every stack.

    Attributes:
        hospitals: How many there are.
        films: Of each.
        rounds: How many are run; the first one warms up.
        epochs: Of local training in a round.
        batch: Films in a step.
        size: Of a film, pixels along each side.
        data: Folder with a shard for each hospital.
    """

    hospitals: int
    films: int
    rounds: int
    epochs: int
    batch: int
    size: int
    data: Path


class Network(DenseNet):  # type: ignore[misc]
    """torchvision's DenseNet-121 with a head for the findings."""

    def __init__(self) -> None:
        super().__init__(num_classes=len(FINDINGS))


class Training(BaseModel):
    """A line of ``times.jsonl``: one hospital's training in one round.

    Attributes:
        hospital: Its name.
        start: When it began, in seconds by :func:`time.monotonic`.
        cpu: Seconds of the processor that it took.
        traffic: Bytes on the loopback interface until it began.
    """

    hospital: str
    start: float
    cpu: float
    traffic: int


def folder() -> Path:
    """Return the folder of this run."""
    return Path(os.environ[FOLDER])


def settings() -> Settings:
    """Return the settings of this run."""
    return Settings.model_validate_json((folder() / SETTINGS).read_bytes())


def name_of(number: int) -> str:
    """Return a hospital's name."""
    return f"hospital-{number:02d}"


def train(model: nn.Module, hospital: str) -> float:
    """Train a model in place on a hospital's films, and note when; return the mean loss.

    Args:
        model: With the weights of the round.
        hospital: Its name.
    """
    known = settings()
    images = np.load(known.data / hospital / "images.npy", mmap_mode="r")
    labels = torch.from_numpy(np.load(known.data / hospital / "labels.npy")).float()
    start, traffic, cpu = time.monotonic(), loopback_bytes(), time.thread_time()
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(known.epochs):
        for chosen in np.split(
            np.arange(len(images)), range(known.batch, len(images), known.batch)
        ):
            optimizer.zero_grad()
            logits = model(to_input(torch.from_numpy(np.array(images[chosen]))))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    took = time.thread_time() - cpu
    line = Training(hospital=hospital, start=start, cpu=took, traffic=traffic)
    with (folder() / TIMES).open("a", encoding="utf-8") as file:
        file.write(line.model_dump_json() + "\n")
    return sum(losses) / len(losses)


def loopback_bytes() -> int:
    """Return the bytes that have gone over the loopback interface of this network."""
    lines = LOOPBACK.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def trainings(run: Path) -> list[list[Training]]:
    """Return what was noted in a run, by round.

    Args:
        run: Its folder.
    """
    by_hospital: dict[str, list[Training]] = {}
    if not (run / TIMES).exists():
        return []
    for line in (run / TIMES).read_text(encoding="utf-8").splitlines():
        each = Training.model_validate_json(line)
        by_hospital.setdefault(each.hospital, []).append(each)
    return [list(turn) for turn in zip(*by_hospital.values(), strict=False)]
