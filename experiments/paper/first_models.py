"""The first models: pretrained checkpoints, and the two controls made from random weights."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.checkpoint import write_checkpoint
from common.images import centre_crops, to_device
from common.model import build_model, state_of, to_input
from common.provenance import Provenance
from common.seeds import generator
from common.shard import Bytes, Shard, create_shard, open_shard
from experiments.paper.cells import FirstModel
from experiments.paper.scales import Scale
from pretrain.cli import pretrain

BATCH = 64


def checkpoint_of(
    model: FirstModel, scale: Scale, data: Path, folder: Path, curves: Path, threads: int
) -> str:
    """Return what ``--init`` takes for a first model; make it, or go on with making it.

    Args:
        model: Which.
        scale: Of the experiments.
        data: Has the public films.
        folder: Where checkpoints are kept.
        curves: Gets ``METHOD.jsonl``, the curve of a pretraining.
        threads: CPU threads.

    Raises:
        BadInput: The weights cannot be made or are not available on this machine.
    """
    if model in ("random", "imagenet"):
        return model
    file = folder / f"{model}.pt"
    if file.exists():
        return str(file)
    if model == "statistics":
        _write_statistics(scale, open_shard(data / "public"), file)
        return str(file)
    shard = data / "public"
    if model == "scrambled":
        shard = data / "scrambled"
        if not shard.exists():
            _write_scrambled(open_shard(data / "public"), shard)
    # Elsewhere until it is done: a pretraining writes its checkpoint after each epoch.
    unfinished = folder / "unfinished" / f"{model}.pt"
    unfinished.parent.mkdir(exist_ok=True)
    method = "mocov2" if model == "scrambled" else model
    options = (*scale.pretrain_options, *scale.method_options.get(method, ()))
    pretrain(
        [
            *("--data", str(shard), "--method", method, "--out", str(unfinished), "--resume"),
            *("--epochs", str(scale.pretrain_epochs), "--threads", str(threads), *options),
        ]
    )
    curves.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(unfinished.with_suffix(".run") / "metrics.jsonl", curves / f"{model}.jsonl")
    unfinished.rename(file)
    return str(file)


def _write_statistics(scale: Scale, shard: Shard, file: Path) -> None:
    """Write random weights with BatchNorm's statistics of all public films (central crops)."""
    model = build_model(scale.architecture, 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    model.train()
    with torch.inference_mode():
        for start in range(0, len(shard), BATCH):
            crops = centre_crops(shard.images[start : start + BATCH])
            model(to_input(to_device(crops, torch.device("cpu"))))
    state = state_of(model)
    write_checkpoint(file, state, scale.architecture, Provenance(method="statistics", seed=0))


def _write_scrambled(shard: Shard, path: Path) -> None:
    """Write the films of a shard with their phases scrambled: same spectrum, no anatomy."""
    size = shard.manifest.size
    made = create_shard(path, entries=shard.entries, labels=None, size=size, source="scrambled")
    with made as images:
        for index, image in enumerate(shard.images):
            images[index] = scrambled(image, generator(0, "scramble", index))


def scrambled(image: Bytes, rng: np.random.Generator) -> Bytes:
    """Return a film with the amplitudes of its spectrum and random phases.

    The phases are those of white noise, so the result is real: Oppenheim and Lim, "The importance
    of phase in signals", 1981.

    Args:
        image: uint8, S x S.
        rng: Draws the noise.
    """
    noise = np.fft.fft2(rng.standard_normal(image.shape))
    spectrum = np.abs(np.fft.fft2(image)) * noise / np.abs(noise)
    spectrum[0, 0] = np.fft.fft2(image)[0, 0]
    return np.real(np.fft.ifft2(spectrum)).round().clip(0, 255).astype(np.uint8)
