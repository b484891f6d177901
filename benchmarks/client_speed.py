"""The speed of a hospital's training, compared with a bare loop, the GPU's memory and its turns.

    python -m benchmarks.client_speed [--films N] [--size S] [--batch B] [--rounds R] [--clients K]
                                      [--threads T] [--compile]

It measures, on the GPU if there is one, with a DenseNet-121 and a shard of noise,

- training: images/s of a local epoch by the client's own code, compared with a bare torch loop on
  inputs that lie ready in the device's memory, and on a GPU with the bound from memory traffic;
- evaluation: the same, forward alone;
- turns: images/s of all clients of a machine together, each a process that scores and trains in
  its turn, packs and waits for the next, compared with one client alone.

All sides of a ratio take turns in each round. Ratios are medians over the rounds.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.instructions import RUN, to_train
from benchmarks.pretrain_speed import TRAFFIC_MB, bandwidth
from client.accelerator import ResidentFilms
from client.cancellation import NEVER
from client.compiled import Compiled
from client.hospital import Hospital
from client.training import train
from common.evaluation import evaluation_batch, predict
from common.images import crop_size
from common.model import build_model, choose_device, state_of
from common.options import Precision, Training
from common.protocol import Greeting, Instruction
from common.runtime.memory import keep_freed_memory
from common.shard import Entry, Shard, create_shard, open_shard
from common.wire import pack

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
SEED = 0


class Options(argparse.Namespace):
    """What is measured."""

    films: int
    size: int
    batch: int
    rounds: int
    clients: int
    threads: int
    compile: bool


def options_for(device: torch.device) -> Options:
    """Read the command line; the defaults suit the device."""
    gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default, what in (
        ("films", 4096 if gpu else 128, "in the shard"),
        ("size", 256 if gpu else 72, "pixels along each side of a film"),
        ("batch", 64 if gpu else 32, "films in a step"),
        ("rounds", 5, "measurements of each"),
        ("clients", 10, "that take turns; 0: none"),
        ("threads", 1, "of a CPU"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--compile", action="store_true", help="also compiled; minutes on a CPU")
    return parser.parse_args(namespace=Options())


def make_shard(folder: Path, films: int, size: int) -> Shard:
    """Write a shard of noise; the speed does not depend on the images."""
    rng = np.random.default_rng(SEED)
    with create_shard(
        folder,
        entries=[Entry(str(i), str(i), "train") for i in range(films)],
        labels=rng.integers(0, 2, (films, 14), dtype=np.uint8),
        size=size,
        source="benchmark",
    ) as pixels:
        pixels[:] = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    return open_shard(folder)


def instruction_of(number: int, batch: int) -> Instruction:
    """Return what the server asks for in a round."""
    return to_train(Training(batch_size=batch), number, SEED)


def bare_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    batch: int,
    precision: Precision,
) -> None:
    """Train on inputs that lie ready, with nothing that could be left out."""
    for images, known in zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        nn.functional.binary_cross_entropy_with_logits(logits.float(), known).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def bare_evaluation(model: nn.Module, inputs: Tensor, batch: int) -> None:
    """Score inputs that lie ready."""
    with torch.inference_mode():
        for images in torch.split(inputs, batch):
            model(images)


Way = Callable[[], object]


def training_ways(
    shard: Shard, device: torch.device, precision: Precision, compiled: bool, options: Options
) -> dict[str, Way]:
    """Return what trains an epoch: the bare loop, and the client's code."""
    crop, cuda = crop_size(options.size), device.type == "cuda"
    inputs = torch.randn(options.films, 3, crop, crop, device=device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (options.films, 14), device=device).float()
    bare = build_model("densenet121", SEED).to(device).train()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.001, momentum=0.9, fused=cuda)
    if compiled:
        bare.compile()
    ways: dict[str, Way] = {
        "bare loop": partial(bare_epoch, bare, optimizer, inputs, labels, options.batch, precision)
    }
    shards = {"client": shard}
    if cuda:
        shards = {
            "client": with_resident(shard, device),
            "client, films on disk": shard,
        }
    model = build_model("densenet121", SEED).to(device)
    forward = Compiled(model) if compiled else None
    indices = np.arange(options.films)
    instruction = instruction_of(1, options.batch)
    for name, films in shards.items():
        given = (films, indices, instruction, "a", device, precision, NEVER, None, forward)
        ways[name] = partial(train, model, *given)
    return ways


def with_resident(shard: Shard, device: torch.device) -> Shard:
    """Return a shard as a hospital has it in its turn."""
    return replace(shard, resident=ResidentFilms(shard.images).on(device))


def evaluation_ways(shard: Shard, device: torch.device, options: Options) -> dict[str, Way]:
    """Return what scores all films: the bare loop, and the client's code."""
    crop, together = crop_size(options.size), evaluation_batch(options.size, device)
    inputs = torch.randn(options.films, 3, crop, crop, device=device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    model = build_model("densenet121", SEED).to(device).eval()
    indices, held = np.arange(options.films), with_resident(shard, device)
    return {
        "bare loop": partial(bare_evaluation, model, inputs, together),
        "client": lambda: predict(model, held, indices, device).cpu(),
    }


def rates_of(
    ways: dict[str, Way], images: int, rounds: int, device: torch.device
) -> list[dict[str, float]]:
    """Return images/s of each way in each round; the first round of all is left out."""
    rates = []
    for _ in range(rounds + 1):
        rate = {}
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            rate[name] = images / (time.perf_counter() - start)
        rates.append(rate)
    return rates[1:]


def rows_of(what: str, rates: list[dict[str, float]], bound: float | None) -> None:
    """Print a row for each way: images/s, and its share of the first way and of the bound."""
    first = next(iter(rates[0]))
    for name in rates[0]:
        rate = statistics.median(each[name] for each in rates)
        shares = [each[name] / each[first] for each in rates]
        share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
        of_bound = "" if bound is None else f"{rate / bound:.2f}"
        print(f"| {what} | {name} | {rate:,.1f} | {share} | {of_bound} |", flush=True)


def answer_when_asked(pipe: Connection, path: Path, turns: Path, options: Options) -> None:
    """Be a client: answer an instruction each time that the pipe says so."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    shard, device = open_shard(path), choose_device("auto")
    hospital = Hospital(path.name, shard, device, 1, turns, precision=None)
    hospital.greet(Greeting(run=RUN, seed=SEED))
    blob, number = pack(state_of(build_model("densenet121", SEED))), 0
    while True:
        number += 1
        reply, _ = hospital.answer(instruction_of(number, options.batch), blob)
        pipe.send(reply.examples)
        if not pipe.recv():
            return


def turns_of(shard: Shard, folder: Path, options: Options) -> list[dict[str, float]]:
    """Return images/s in each round of one client alone, and of all of them together."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(options.clients):
        here, there = spawn.Pipe()
        given = there, shard.path, folder / "turns", options
        processes.append(spawn.Process(target=answer_when_asked, args=given))
        processes[-1].start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()  # a first answer of each, which sets up libraries
    rates = []
    for _ in range(options.rounds):
        rate = {}
        for name, asked in (("one client alone", pipes[:1]), ("all clients", pipes)):
            start = time.perf_counter()
            for pipe in asked:
                pipe.send(True)
            images = sum(pipe.recv() for pipe in asked)
            rate[name] = images / (time.perf_counter() - start)
        rates.append(rate)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(False)
        process.join()
    return rates


def main() -> None:
    """Print a table."""
    keep_freed_memory()  # as the client does
    device = choose_device("auto")
    options = options_for(device)
    torch.set_num_threads(options.threads)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"CPU, {options.threads} threads"
    print(
        f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}: {options.films} films, "
        f"crops of {crop_size(options.size)} pixels, batches of {options.batch}, "
        f"{options.rounds} rounds"
    )
    speed = bandwidth(device) if cuda else None
    if speed is not None:
        print(f"memory {speed / 1e9:,.0f} GB/s by copying")
    print("\n| | | images/s | of the first | of the bound |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shard = make_shard(folder / "shard", options.films, options.size)
        for compiled in (False, True) if options.compile else (False,):
            way = "compiled" if compiled else "eager"
            for precision in PRECISIONS:
                bound = None
                if speed is not None:
                    area = (crop_size(options.size) / 224) ** 2
                    size = TRAFFIC_MB[way] * 1e6 * area * (2 if precision == "fp32" else 1)
                    bound = speed / size
                ways = training_ways(shard, device, precision, compiled, options)
                rates = rates_of(ways, options.films, options.rounds, device)
                rows_of(f"training, {precision}, {way}", rates, bound)
        ways = evaluation_ways(shard, device, options)
        rows_of("evaluation", rates_of(ways, options.films, options.rounds, device), None)
        del ways
        if options.clients:
            if cuda:
                torch.cuda.empty_cache()
            rows_of(f"{options.clients} clients", turns_of(shard, folder, options), None)


if __name__ == "__main__":
    main()
