"""Can the server paint films from one update?

    python -m benchmarks.gradient_inversion SHARD --init CHECKPOINT --out PICTURE.png

A hospital takes one step of plain SGD on two films, by the client's own code; the server computes
their gradient from the update and looks for films that have the same one, by the cosine of the
gradients and with a preference for smooth pictures (Geiping et al., "Inverting Gradients", NeurIPS
2020, equation 4). It is helped: it knows how many films there are, their labels, and the learning
rate. The picture has the films, and beside them what was found without and with noise.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks.instructions import to_train
from client.training import train
from common.checkpoint import read_checkpoint
from common.evaluation import loss_of
from common.images import random_crops
from common.model import build_model, load_state, normalised, set_training_mode, state_of
from common.options import Training
from common.secret_stream import SecretStream
from common.shard import Shard, open_for_training
from common.state import State, is_parameter

mpl.use("agg")

from matplotlib import pyplot as plt

CPU = torch.device("cpu")
SMOOTH = 1e-2
"""Weight of the pictures' total variation."""

CASES: dict[str, dict[str, object]] = {
    "one step": {},
    "BatchNorm's statistics frozen": {"dp": "site"},
    "--dp sample, noise 1": {"dp": "sample", "dp_noise": 1.0, "dp_clip": 1.0},
}


def update_of(shard: Shard, films: np.ndarray, before: State, training: Training) -> State:
    """Return the gradient that the server reads off a hospital's update."""
    model = build_model("densenet121")
    load_state(model, before)
    instruction = to_train(training)
    secret = SecretStream(bytes(32), b"inversion")
    train(model, shard, films, instruction, "hospital", CPU, secret=secret)
    return {
        name: (before[name].astype(np.float64) - array) / training.lr
        for name, array in state_of(model).items()
        if is_parameter(name)
    }


def painted(
    gradient: State, labels: Tensor, side: int, before: State, training: Training, steps: int
) -> Tensor:
    """Return films, in [0, 1], whose gradient is like this one."""
    model = build_model("densenet121")
    load_state(model, before)
    set_training_mode(model, "finetune", statistics=training.dp == "none")
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    parameters = dict(model.named_parameters())
    wanted = {name: torch.from_numpy(array).float() for name, array in gradient.items()}
    length = torch.cat([each.flatten() for each in wanted.values()]).norm()
    films = torch.full((len(labels), side, side), 0.5)
    films += 0.05 * torch.randn(films.shape, generator=torch.Generator().manual_seed(0))
    films.requires_grad_()
    optimizer = torch.optim.Adam([films], lr=0.05)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        logits = functional_call(model, {**parameters, **buffers}, (normalised(films),))
        loss = loss_of(logits, labels)
        found = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        named = dict(zip(parameters, found, strict=True))
        along = sum((named[name] * wanted[name]).sum() for name in wanted)
        norm = torch.cat([each.flatten() for each in found]).norm()
        variation = films.diff(dim=1).abs().mean() + films.diff(dim=2).abs().mean()
        optimizer.zero_grad()
        (1 - along / (norm * length) + SMOOTH * variation).backward()
        films.grad = films.grad.sign() if films.grad is not None else None
        optimizer.step()
        rates.step()
        with torch.no_grad():
            films.clamp_(0, 1)
    return films.detach()


def alike(found: Tensor, films: Tensor) -> float:
    """Return the mean correlation of pictures, 1 if they are the same."""
    pairs = zip(found.flatten(1), films.flatten(1), strict=True)
    return float(np.mean([np.corrcoef(a.numpy(), b.numpy())[0, 1] for a, b in pairs]))


def main() -> None:
    """Paint, print how like the films the pictures are, and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shard", type=Path)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shard = open_for_training(options.shard)
    before, _ = read_checkpoint(options.init, "densenet121", 0)
    films = np.arange(options.films)
    rows: dict[str, Tensor] = {}
    for name, fields in CASES.items():
        training = Training.model_validate(
            {"lr": 0.01, "momentum": 0.0, "batch_size": options.films, **fields}
        )
        gradient = update_of(shard, films, before, training)
        labels = torch.from_numpy(shard.labelled()[films])
        side = random_crops(shard.images[films], np.random.default_rng(0)).shape[1]
        rows[name] = painted(gradient, labels, side, before, training, options.steps)
    centre = (shard.manifest.size - side) // 2
    true = torch.from_numpy(
        shard.images[films][:, centre : centre + side, centre : centre + side] / 255
    ).float()
    for name, found in rows.items():
        print(f"{name}: correlation {alike(found, true):.3f}")
    figure, axes = plt.subplots(options.films, 1 + len(rows), figsize=(8, 2 * options.films))
    for column, (name, pictures) in enumerate({"the films": true, **rows}.items()):
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes[row, column].axis("off")
        axes[0, column].set_title(name, fontsize=8)
    figure.savefig(options.out, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
