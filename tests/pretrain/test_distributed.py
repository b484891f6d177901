"""Two processes over gloo, started as ``torchrun`` starts them."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from common.checkpoint import read_checkpoint
from common.state import State
from tests.support.shards import make_shard
from tests.support.states import same_bits

ROOT = Path(__file__).parents[2]
COMMAND = "from pretrain.cli import main; main()"


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    # Else it leaves a folder of its own behind.
    with TemporaryDirectory() as logs:
        return subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--local-addr", "127.0.0.1", "--nproc-per-node", "2", "--log-dir", logs),
                *map(str, arguments),
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=False,
        )


def options(data: Path, out: Path, method: str, *more: object) -> list[object]:
    return [
        *("--data", data, "--out", out, "--method", method, "--epochs", 4, "--batch-size", 16),
        *("--architecture", "densenet-tiny", "--image-size", 32, "--device", "cpu", *more),
    ]


def pretrain(out: Path, data: Path, method: str, *more: object) -> State:
    result = torchrun(
        *("--no-python", sys.executable, "-c", COMMAND), *options(data, out, method, *more)
    )
    assert result.returncode == 0, result.stderr
    return read_checkpoint(out, "densenet-tiny", 0)[0]


def losses(out: Path) -> list[float]:
    lines = (out.with_suffix(".run") / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_losses_and_gradients_are_those_of_one_process() -> None:
    result = torchrun("-m", "tests.pretrain.two_processes")
    assert result.returncode == 0, result.stderr
    # The two share a pipe, so that their lines may run together.
    assert all(f"process {number} agrees" in result.stdout for number in range(2))


@pytest.mark.long
def test_a_run_of_two_processes_goes_on(tmp_path: Path) -> None:
    # What each process has of its own comes back: BatchNorm's statistics, and MoCo's queue. What
    # they share comes back from the first: the key encoder, which only stays the same if it was.
    method = ("mocov2", "--queue", 32)
    data = make_shard(tmp_path / "shard", images=64, labelled=False).path
    whole = pretrain(tmp_path / "whole.pt", data, *method)
    cut = tmp_path / "cut.pt"
    result = torchrun(
        *("--no-python", sys.executable, "-c", DIES_AFTER_TWO_EPOCHS),
        *options(data, cut, *method),
    )
    assert result.returncode != 0
    assert len(losses(cut)) == 2
    again = pretrain(cut, data, *method, "--resume")
    assert losses(cut) == losses(tmp_path / "whole.pt")
    assert same_bits(again, whole)


@pytest.mark.long
def test_two_processes_train_together_and_end_together(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=64, labelled=False).path
    out = tmp_path / "c.pt"
    pretrain(out, data, "simclr")
    assert len(losses(out)) == 4
    assert json.loads((tmp_path / "c.run" / "status.json").read_text())["state"] == "finished"
    # What the first process finds wrong ends the other too.
    other = options(data, out, "simclr", "--seed", 5, "--resume")
    refused = torchrun("--no-python", sys.executable, "-c", COMMAND, *other)
    assert refused.returncode != 0
    assert "--resume: seed was 0 when the run was begun and is 5 now" in refused.stderr


DIES_AFTER_TWO_EPOCHS = """
import os, signal
from pretrain.engine import Engine
from pretrain.cli import main
save = Engine._save
def save_and_die(self):
    save(self)
    if self.trainer.step == 8 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
Engine._save = save_and_die
main()
"""
