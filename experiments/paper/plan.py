"""What a grid costs on this machine: hours and gigabytes, from a minute's measurement."""

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from client.batches import Batch
from client.training import train_epoch
from common.images import crop_size
from common.model import build_model, choose_device, fastest_precision, set_training_mode, to_input
from common.options import Mode
from common.runtime.memory import free_memory, training_memory
from experiments.paper.cells import Cell, FirstModel, Table
from experiments.paper.methods import METHODS
from experiments.paper.scales import PRETRAINED, Scale, cells_of

log = logging.getLogger(__name__)

SECONDS = 15.0
"""For which each rate is measured."""

VIEWS = 3.0
"""Forward and backward passes of a film in pretraining, in those of training, about: two views and
the slow encoder of MoCo-v2 and BYOL."""

CHECKPOINT_BYTES = 28e6

TRIAL_MEMORY = 1_000_000_000
"""Bytes that a trial takes besides a step of training: torch, ten hospitals' models, the films."""


class Rates(NamedTuple):
    """Images per second of one process: trained in each mode, and scored."""

    finetune: float
    linear: float
    scored: float


class Films(NamedTuple):
    """How many films there are: public, at all hospitals, and for testing."""

    public: int
    hospitals: int
    test: int


def measure(scale: Scale) -> Rates:
    """Return the rates on this machine, each process on one thread or the GPU."""
    torch.set_num_threads(1)
    device = choose_device("auto")
    model = build_model(scale.architecture).to(device)
    size = crop_size(scale.image_size)
    images = torch.zeros((scale.batch_size, size, size), dtype=torch.uint8, device=device)
    batch = Batch(to_input(images), torch.zeros((scale.batch_size, 14), device=device))
    precision = fastest_precision(device)

    def training(mode: Mode) -> Callable[[], object]:
        parameters = set_training_mode(model, mode)
        optimizer = torch.optim.SGD(parameters, lr=0.0)
        return lambda: train_epoch(model, optimizer, [batch], precision)

    finetune = _rate(training("finetune"), scale.batch_size)
    linear = _rate(training("linear"), scale.batch_size)
    model.eval()
    with torch.inference_mode():
        scored = _rate(lambda: float(model(batch.inputs).sum()), scale.batch_size)
    return Rates(finetune, linear, scored)


def _rate(step: Callable[[], object], images: int) -> float:
    step()
    start, steps = time.monotonic(), 0
    while steps < 3 or time.monotonic() < start + SECONDS:
        step()
        steps += 1
    return steps * images / (time.monotonic() - start)


def trial_memory(scale: Scale) -> int:
    """Return the bytes that a trial may take on a CPU."""
    return TRIAL_MEMORY + training_memory(scale.image_size)


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def jobs_here(scale: Scale, threads: int = 0) -> int:
    """Return how many trials this machine has cores and free memory for; one at least.

    On a GPU, trials share it, and its memory counts too.

    Args:
        scale: Of the experiments.
        threads: Of each trial; 0: one.
    """
    most = max(1, cores() // max(1, threads))
    each, free = trial_memory(scale), free_memory()
    if torch.cuda.is_available():
        gpu_each, gpu_free = training_memory(scale.image_size), torch.cuda.mem_get_info()[0]
        if gpu_free // gpu_each < free // each:
            each, free = gpu_each, gpu_free
    jobs = max(1, min(most, free // each))
    if jobs < most:
        log.warning(
            "%d trials at once, not %d: each may take %.1f GB, and %.1f GB are free; "
            "--jobs overrides it",
            *(jobs, most, each / 1e9, free / 1e9),
        )
    return jobs


def cells_of_all(scale: Scale, table: Table) -> list[Cell]:
    """Return the cells of a table as many as there will be, at the first rate and setting."""
    models: set[FirstModel] = {*scale.table1, *scale.table2, *scale.table3}
    modes: tuple[Mode, ...] = ("finetune", "linear")
    rates = {(mode, model): scale.lrs[mode][0] for mode in modes for model in models}
    tuned = {(method, m): METHODS[method].tries[0] for method in scale.methods for m in models}
    return cells_of(scale, table, rates, tuned)


def hours_of(cell: Cell, films: Films, hospitals: int, rates: Rates) -> float:
    """Return how long one process takes for a trial."""
    share = 1 / hospitals if isinstance(cell.hospitals, int) else 1.0
    trained = 0.9 * share * films.hospitals * cell.label_fraction
    scored = 0.1 * share * films.hospitals + films.test
    rate = rates.linear if cell.mode == "linear" else rates.finetune
    return cell.rounds * (trained / rate + scored / rates.scored) / 3600


def rows(scale: Scale, films: Films, rates: Rates, jobs: int) -> list[str]:
    """Return the plan as the lines of a table.

    Args:
        scale: Of the experiments.
        films: How many there are.
        rates: Of one process.
        jobs: Processes at once; a GPU is not faster for several.
    """
    speed = 1 if torch.cuda.is_available() else jobs
    pretraining = [model for model in (*PRETRAINED, "scrambled") if model in scale.table2]
    passes = scale.pretrain_epochs * films.public * VIEWS
    each = passes / rates.finetune / 3600
    hours = {"pretraining": len(pretraining) * each / max(1, min(speed, len(pretraining)))}
    counts = {"pretraining": len(pretraining)}
    seen: set[Cell] = set()
    tables: tuple[Table, ...] = ("table2", "strategies", "wires", "table1", "bounds", "table3")
    for table in tables:
        cells = [cell for cell in cells_of_all(scale, table) if cell not in seen]
        seen.update(cells)
        counts[table] = len(cells)
        hours[table] = sum(hours_of(cell, films, scale.hospitals, rates) for cell in cells) / speed
    # Public films and scrambled ones; four splits with their test films, the union, the test.
    shards = (2 * films.public + 5 * films.hospitals + 5 * films.test) * scale.image_size**2
    models = (len(pretraining) + 6 * jobs) * CHECKPOINT_BYTES
    lines = [f"  {'':<12} {'trials':>7} {'hours':>8}"]
    lines += [f"  {name:<12} {counts[name]:>7} {hours[name]:>8.1f}" for name in hours]
    lines += [f"  {'all':<12} {sum(counts.values()):>7} {sum(hours.values()):>8.1f}"]
    lines += [
        f"  {jobs} at once; a process trains {rates.finetune:.0f} images/s, in linear mode "
        f"{rates.linear:.0f}, and scores {rates.scored:.0f}",
        f"  disk: {(shards + models) / 1e9:.1f} GB",
    ]
    return lines
