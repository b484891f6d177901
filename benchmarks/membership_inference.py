"""Does a model tell whether a film was trained on, and what does each protection leave of that?

    python -m benchmarks.membership_inference DATA --init CHECKPOINT

DATA is the folder ``data`` of ``flower-experiments`` at scale small. Four hospitals train on the
films of half of their patients by the client's own code, and the server's own strategies combine
what they return. The attacker knows the films of the first hospital's other half too, and tries to
tell the halves apart:

- the server by that hospital's update, or, under secure aggregation, by the sum of all updates
- another hospital by the model that goes out next

It scores a film by the model's loss on it (Yeom et al., CSF 2018), and by how likely that loss is
among shadow models that were trained with the film and without it (LiRA, Carlini et al., S&P 2022,
section V, with one variance for all films). A shadow model begins at the model that the hospital
received and trains as it does, on a random half of its films.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.instructions import to_train
from client.private.training import noisy_steps
from client.training import train
from common.accounting import DELTA, Noisy, epsilon_of
from common.checkpoint import read_checkpoint
from common.evaluation import evaluate, predict
from common.findings import UNKNOWN
from common.model import build_model, fastest_precision, load_state, state_of
from common.options import Training
from common.secret_stream import SecretStream
from common.shard import Shard, open_for_training, open_shard
from common.state import State, returned, spec_of
from common.wire import pack
from server.run.spool import Spool
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, UpdateInfo, weighted_mean
from server.strategies.settings import StrategySettings

CPU = torch.device("cpu")
HOSPITALS = 4
FALSE_POSITIVES = 0.01
LEAST_LOSS = 1e-6
"""What is below is as good as this: LiRA takes logs."""

Indices = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

MECHANISMS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "finetune, `--dp sample`, noise 0.5": {"dp": "sample", "dp_noise": 0.5},
    "finetune, `--dp sample`, noise 1": {"dp": "sample", "dp_noise": 1.0},
    "linear": {"mode": "linear"},
    "linear, `--dp sample`, noise 0.5": {"mode": "linear", "dp": "sample", "dp_noise": 0.5},
    "linear, `--dp sample`, noise 1": {"mode": "linear", "dp": "sample", "dp_noise": 1.0},
    "linear, `--dp sample`, noise 4": {"mode": "linear", "dp": "sample", "dp_noise": 4.0},
    "linear, `--dp site`, noise 1": {"mode": "linear", "dp": "site", "dp_noise": 1.0},
}


class Hospital(NamedTuple):
    """A hospital's films: those that it trains on, and as many others, of other patients."""

    name: str
    shard: Shard
    members: Indices
    others: Indices


def halved(path: Path, seed: int) -> Hospital:
    """Return a hospital whose patients are divided at random."""
    shard = open_for_training(path)
    known = (shard.labelled() != UNKNOWN).any(axis=1)
    patients = np.array([entry.patient for entry in shard.entries])
    names = np.random.default_rng(seed).permutation(np.unique(patients))
    first = np.isin(patients, names[: len(names) // 2])
    return Hospital(path.name, shard, np.flatnonzero(first & known), np.flatnonzero(~first & known))


def trained(
    hospital: Hospital, films: Indices, before: State, training: Training, number: int, draw: int
) -> State:
    """Return what the hospital's client makes of a model.

    Args:
        hospital: Trains.
        films: To train on.
        before: The model.
        training: Settings.
        number: The round's.
        draw: Another one has other noise.
    """
    model = build_model("densenet121")
    load_state(model, before)
    instruction = to_train(training, number, draw)
    secret = SecretStream(bytes(32), f"{hospital.name} {number} {draw}".encode())
    precision = fastest_precision(CPU)
    train(model, hospital.shard, films, instruction, hospital.name, CPU, precision, secret=secret)
    return state_of(model)


class Views(NamedTuple):
    """What attackers hold after the last round.

    Attributes:
        received: What the hospitals trained.
        updates: What they returned, by name.
        model: What goes out next.
        seconds: Of a round.
    """

    received: State
    updates: dict[str, State]
    model: State
    seconds: float


def federate(
    hospitals: Sequence[Hospital], first: State, training: Training, rounds: int, folder: Path
) -> Views:
    """Run the rounds."""
    key = folder / "noise.key" if training.dp == "site" else None
    strategy = make_strategy(StrategySettings(), noise_key=key)
    spool = Spool(folder / "replies", spec_of(returned(first, training)))
    names = [each.name for each in hospitals]
    model, start = first, time.monotonic()
    for number in range(1, rounds + 1):
        received = model
        updates = {
            each.name: trained(each, each.members, received, training, number, 0)
            for each in hospitals
        }
        for each in hospitals:
            info = UpdateInfo(len(each.members), 1.0)  # no strategy here asks for the norm
            spool.put(each.name, pack(returned(updates[each.name], training)), info)
        about = RoundInfo(number, training, len(hospitals))
        after = strategy.combine(returned(received, training), spool.updates(names), about)
        model = {**received, **after}
    return Views(received, updates, model, (time.monotonic() - start) / rounds)


def losses(hospital: Hospital, state: State) -> Floats:
    """Return the loss of each of the hospital's films, members first."""
    model = build_model("densenet121")
    load_state(model, state)
    films = np.concatenate([hospital.members, hospital.others])
    logits = predict(model, hospital.shard, films, CPU).clone()
    labels = torch.from_numpy(hospital.shard.labelled()[films])
    known = (labels != UNKNOWN).float()
    each = binary_cross_entropy_with_logits(logits, (labels == 1).float(), known, reduction="none")
    return (each.sum(1) / known.sum(1)).double().clamp(min=LEAST_LOSS).numpy()


def likelihoods(found: Floats, shadows: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    """Return the log of how much likelier each loss is with the film than without.

    Args:
        found: Logs of the target's losses, F.
        shadows: The same of the shadow models, S x F.
        inside: Whether a shadow model was trained with a film, S x F.
    """
    means = [
        np.where(part, shadows, 0).sum(0) / np.maximum(part.sum(0), 1) for part in (inside, ~inside)
    ]
    apart = np.where(inside, shadows - means[0], shadows - means[1])
    variance = np.mean(apart**2)
    return np.asarray(((found - means[1]) ** 2 - (found - means[0]) ** 2) / (2 * variance))


def success(scores: Floats, members: int) -> str:
    """Return AUC and true-positive rate of an attack: two cells of the table."""
    truth = np.arange(len(scores)) < members
    false, true, _ = roc_curve(truth, scores)
    rate = float(true[false <= FALSE_POSITIVES].max())
    return f"{roc_auc_score(truth, scores):.3f} | {rate:.1%}"


def attack(
    hospitals: Sequence[Hospital], views: Views, training: Training, rounds: int, count: int
) -> dict[str, str]:
    """Return what each attacker reaches, by who it is: four cells each, loss and LiRA."""
    target, *rest = hospitals
    members, films = len(target.members), np.concatenate([target.members, target.others])
    rng = np.random.default_rng(1)
    inside = np.array([rng.random(len(films)) < 0.5 for _ in range(count)])
    others = [views.updates[each.name] for each in rest]
    weights = [members, *(len(each.members) for each in rest)]
    alone, summed = [], []
    for number, chosen in enumerate(inside):
        shadow = trained(
            target, np.sort(films[chosen]), views.received, training, rounds, number + 1
        )
        alone.append(np.log(losses(target, shadow)))
        terms = zip([shadow, *others], weights, strict=True)
        summed.append(np.log(losses(target, weighted_mean(shadow, terms))))
    # What the server learns under secure aggregation.
    mean = weighted_mean(views.model, zip(views.updates.values(), weights, strict=True))
    targets = {
        "server, one update": (views.updates[target.name], np.array(alone)),
        "server, the sum": (mean, np.array(summed)),
        "hospital, the next model": (views.model, np.array(summed)),
    }
    found = {}
    for name, (state, shadows) in targets.items():
        own = np.log(losses(target, state))
        by_likelihood = likelihoods(own, shadows, inside)
        found[name] = f"{success(-own, members)} | {success(by_likelihood, members)}"
    return found


def epsilon(training: Training, films: int, rounds: int) -> str:
    """Return what a run promises at :data:`common.accounting.DELTA`."""
    if training.dp == "none":
        return "-"
    if training.dp == "site":
        cost = Noisy(noise=training.dp_noise, rate=1, steps=1)
    else:
        cost = noisy_steps(training, films)
    return f"{epsilon_of([cost] * rounds, DELTA):.1f}"


def main() -> None:
    """Print a row for each mechanism and attacker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--shadows", type=int, default=16)
    parser.add_argument("--mechanisms", nargs="*", default=list(MECHANISMS), choices=MECHANISMS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hospitals = [halved(options.data / "spread" / f"hospital-{i:02}", i) for i in range(HOSPITALS)]
    test = open_shard(options.data / "test")
    first, _ = read_checkpoint(options.init, "densenet121", 0)
    print(
        f"{options.rounds} rounds of {options.epochs} epochs, {options.shadows} shadow models, "
        f"{len(hospitals[0].members)} films of the target and {len(hospitals[0].others)} others\n"
    )
    print(
        "| training | epsilon | attacker sees | loss: AUC | TPR at 1 % FPR | LiRA: AUC | TPR at "
        "1 % FPR | model AUC | s / round |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.mechanisms:
        rate = {"lr": 0.2} if "linear" in name else {"lr": 0.05}
        fields = {**rate, "batch_size": 32, "local_epochs": options.epochs, **MECHANISMS[name]}
        training = Training.model_validate(fields)
        with TemporaryDirectory() as folder:
            views = federate(hospitals, first, training, options.rounds, Path(folder))
        model = build_model("densenet121")
        load_state(model, views.model)
        auc = evaluate(model, test, np.arange(len(test)), CPU).auc
        promised = epsilon(training, len(hospitals[0].members), options.rounds)
        found = attack(hospitals, views, training, options.rounds, options.shadows)
        for who, cells in found.items():
            print(
                f"| {name} | {promised} | {who} | {cells} | {auc:.3f} | {views.seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
