"""The command as a process of its own."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.runtime.cli import Stopped
from common.shard import Entry, create_shard
from experiments.launch.local import SERVER, free_port
from experiments.launch.processes import Process
from pretrain.cli import _terminal_status
from pretrain.run_folder import RunFolder, precision_of
from tests.support.commands import assert_one_line, run
from tests.support.faults import STUCK, hangs
from tests.support.pretrain_commands import SECONDS, lines_of, options, pretrain, start, wait_until
from tests.support.shards import make_shard
from tests.support.states import same_bits


def status_of(out: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((out.with_suffix(".run") / "status.json").read_text())
    return status


def test_a_run_from_the_outside(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=40).path
    out = tmp_path / "models" / "simclr.pt"
    result = pretrain(data, out, "--epochs", 2, "--probe", data, "--probe-every", 1)
    assert result.returncode == 0, result.stderr
    for fragment in (
        "40 images of noise, 40 x 40 pixels",
        "labels are ignored",
        "temperature=0.1",
        "8 images per step, 10 steps on cpu",
        "epoch 2 of 2: loss",
        "k-NN AUC",
    ):
        assert fragment in result.stderr
    folder = out.with_suffix(".run")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "metrics.jsonl", "status.json", "tensorboard", "trainer.pt",
    }  # fmt: skip
    assert status_of(out)["state"] == "finished"
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [5, 10]
    names = {
        "step",
        "epoch",
        "loss",
        "lr",
        "images_per_second",
        "embedding_std",
        "rankme",
        "knn_auc",
    }
    assert names | {"positive_similarity", "negative_similarity"} == lines[0].keys()
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [5, 10]
    assert board.Scalars("loss")[1].value == pytest.approx(lines[1]["loss"])


def test_kill_9_again_and_again_and_the_curve_is_the_same(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=160, labelled=False).path
    more = ("--epochs", 12, "--queue", 32)
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    assert pretrain(data, whole, *more, method="mocov2").returncode == 0
    for lines in (3, 13):
        # --resume begins where there is nothing yet.
        given = options(data, cut, *more, "--resume", method="mocov2")
        process = start(tmp_path / "log", *given)
        try:
            wait_until(lambda lines=lines: len(lines_of_torn(cut)) >= lines, process)  # type: ignore[misc]
        finally:
            process.kill()
        process.wait(20)
        assert status_of(cut)["state"] == "running"
    result = pretrain(data, cut, *more, "--resume", method="mocov2")
    assert result.returncode == 0, result.stderr
    assert "continuing after step" in result.stderr
    assert status_of(cut)["state"] == "finished"
    curves = [
        [(line["step"], line["loss"], line["queue_similarity"]) for line in lines_of(out)]
        for out in (cut, whole)
    ]
    assert curves[0] == curves[1]
    states = [read_checkpoint(out, "densenet-tiny", 0)[0] for out in (cut, whole)]
    assert same_bits(*states)
    assert not list(tmp_path.rglob("*.tmp"))
    boards = [
        [(event.step, event.value) for event in EventAccumulator(
            str(out.with_suffix(".run") / "tensorboard")).Reload().Scalars("loss")]
        for out in (cut, whole)
    ]  # fmt: skip
    assert boards[0] == boards[1]


def lines_of_torn(out: Path) -> list[str]:
    file = out.with_suffix(".run") / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=160, labelled=False).path
    out = tmp_path / "c.pt"
    process = start(tmp_path / "log", *options(data, out, "--epochs", 1000))
    try:
        wait_until(lambda: len(lines_of_torn(out)) >= 3, process)
        process.terminate()
        assert process.wait(20) == 143
    finally:
        process.kill()
    assert (tmp_path / "log").read_text().splitlines()[-1] == "flower-pretrain: stopped by SIGTERM"
    assert status_of(out)["state"] == "stopped"
    assert read_checkpoint(out, "densenet-tiny", 0)


def test_sigterm_ends_it_in_a_call_that_never_returns(tmp_path: Path) -> None:
    # A driver's, or a collective operation's that waits for a process that is no more.
    data = make_shard(tmp_path / "shard", images=24).path
    out = tmp_path / "c.pt"
    log, stuck = tmp_path / "log", hangs("pretrain.trainer:Trainer.take_step")
    process = start(log, *options(data, out), prelude=stuck)
    wait_until(lambda: STUCK in log.read_text(), process)
    process.terminate()
    try:
        assert process.wait(15) == 143
    finally:
        process.kill()
    assert (
        log.read_text()
        .splitlines()[-1]
        .endswith("stopped by SIGTERM, in the middle of a call that does not return")
    )
    assert status_of(out) | {"state": "stopped", "reason": "SIGTERM"} == status_of(out)


@pytest.mark.parametrize(
    "error",
    [
        "torch.OutOfMemoryError('CUDA out of memory')",
        "next(setattr(e, 'error_code', 2) or e for e in [torch.AcceleratorError('out of memory')])",
    ],
)
def test_too_little_memory_on_the_gpu_is_one_line(tmp_path: Path, error: str) -> None:
    data = make_shard(tmp_path / "shard", images=24).path
    prelude = f"""
import torch, pretrain.trainer
def fail(*_): raise {error}
pretrain.trainer.Trainer.take_step = fail
"""
    process = start(tmp_path / "log", *options(data, tmp_path / "c.pt"), prelude=prelude)
    assert process.wait(SECONDS) == 2
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        "flower-pretrain: error: out of GPU memory; free memory and go on with --resume, or start "
        "again with another --out and a smaller --batch-size"
    )


@pytest.mark.parametrize("ends", [Stopped(signal.SIGTERM), BadInput("step 3: the loss is nan")])
def test_the_end_of_a_run_is_told_though_its_status_cannot_be_written(
    tmp_path: Path, ends: BaseException
) -> None:
    folder = RunFolder(tmp_path / "c.run")
    folder.path.mkdir()

    def run_to_its_end() -> None:
        with _terminal_status(folder):
            shutil.rmtree(folder.path)
            raise ends

    with pytest.raises(type(ends), match=str(ends)):
        run_to_its_end()


def test_without_a_compiler_it_does_not_begin_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_shard(tmp_path / "shard", images=24).path
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    result = pretrain(data, tmp_path / "c.pt", "--compile")
    assert_one_line(result, 2, "--compile", "C++ compiler")


def test_the_server_takes_the_checkpoint_and_says_what_it_is(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=24).path
    out = tmp_path / "moco.pt"
    result = pretrain(data, out, "--epochs", 2, "--queue", 16, method="mocov2")
    assert result.returncode == 0, result.stderr
    given = ["--init", str(out), "--run", str(tmp_path / "run"), "--insecure"]
    given += ["--architecture", "densenet-tiny", "--listen", f"127.0.0.1:{free_port()}"]
    log = tmp_path / "log"
    server = Process(SERVER, given, {}, (log, log))
    try:
        wait_until(lambda: "initial model" in log.read_text(), server)
    finally:
        server.terminate()
        server.wait(30)
    (line,) = [line for line in log.read_text().splitlines() if "initial model" in line]
    assert "mocov2 (preset cxr), 2 epochs on 24 images of noise (manifest " in line


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=16, labelled=False).path
    out = tmp_path / "c.pt"
    assert pretrain(data, out, "--epochs", 1).returncode == 0
    before = out.read_bytes()
    assert_one_line(pretrain(data, out, "--epochs", 1), 2, str(out), "already", "--resume")
    assert_one_line(
        pretrain(data, out, "--epochs", 2, "--resume"),
        2,
        *("--resume: epochs was 1", "is 2 now", f"give --init {out} and another --out"),
    )
    other = make_shard(tmp_path / "other", images=16, labelled=False, seed=1).path
    assert_one_line(pretrain(other, out, "--epochs", 1, "--resume"), 2, "--resume: data was")
    config = out.with_suffix(".run") / "config.json"
    begun = config.read_text()
    config.write_text(begun.replace('"fp32"', '"bf16"'))  # as it was on another device
    assert precision_of(config.parent) == "bf16"  # which --resume takes
    given = pretrain(data, out, "--epochs", 1, "--resume", "--precision", "fp32")
    assert_one_line(given, 2, "--resume: precision was bf16 when the run was begun")
    config.write_text(begun)
    (out.with_suffix(".run") / "trainer.pt").write_bytes(b"cut")
    assert_one_line(pretrain(data, out, "--epochs", 1, "--resume"), 2, "trainer.pt", "damaged")
    (out.with_suffix(".run") / "trainer.pt").unlink()
    assert_one_line(pretrain(data, out, "--epochs", 1, "--resume"), 2, str(out), "no state")
    refused = pretrain(data, out, "--epochs", 1)
    assert_one_line(refused, 2, f"{out}: is there already; choose another --out")
    assert "--resume" not in refused.stderr
    assert out.read_bytes() == before


def test_a_disk_that_is_full_is_no_fault_of_ours(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=16, labelled=False).path
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    )
    given = options(data, tmp_path / "c.pt", "--epochs", 1)
    code = start(tmp_path / "log", *given, prelude=limited).wait(SECONDS)
    result = subprocess.CompletedProcess(given, code, "", (tmp_path / "log").read_text())
    assert_one_line(result, 2, "File too large", "--resume")
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=160, labelled=False).path
    out = tmp_path / "c.pt"
    process = start(tmp_path / "log", *options(data, out, "--epochs", 1000))
    try:
        wait_until(lambda: len(lines_of_torn(out)) >= 1, process)
        second = pretrain(data, out, "--epochs", 1000, "--resume")
        assert_one_line(second, 2, str(out), "another process")
    finally:
        process.kill()


def test_a_diverging_run_says_at_which_step(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=16, labelled=False).path
    result = pretrain(data, tmp_path / "c.pt", "--epochs", 2, "--lr", 1e30)
    assert_one_line(result, 2, "step 2 of 4", "nan", "no epoch was finished", "--lr")
    assert status_of(tmp_path / "c.pt")["state"] == "failed"
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (["--batch-size", 64], ["--batch-size 64", "the shard has 16"]),
        (["--image-size", 64], ["--image-size 64", "40 pixels"]),
        (["--init", "nowhere.pt"], ["nowhere.pt: no such file"]),
        (["--init", "imagenet"], ["--init imagenet", "densenet-tiny"]),
        (["--device", "cuda:7"], ["--device cuda:7"]),
        (["--device", "meta"], ["--device meta", "cpu or cuda"]),
        (["--lr", "inf"], ["--lr", "finite", "inf"]),
        (["--init", Path(__file__)], ["test_cli.py: cut, damaged or no checkpoint"]),
        (["--out", "c.bin"], ["--out c.bin", ".pt"]),
        (["--out", "."], ["--out .", ".pt"]),
        (["--out", "c" * 300 + ".pt"], ["--out cc", "File name too long"]),
        (["--method", "mocov2", "--queue", 10**12], ["out of memory", "--queue"]),
        (["--probe", "nowhere"], ["nowhere: no shard here"]),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, more: list[object], fragments: list[str]
) -> None:
    data = make_shard(tmp_path / "shard", images=16, labelled=False).path
    result = pretrain(data, tmp_path / "c.pt", *more)
    assert_one_line(result, 2, *fragments)
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_test_images_are_not_pretrained_on(tmp_path: Path) -> None:
    entries = [Entry(f"{i}.png", str(i), "test" if i > 12 else "train_val") for i in range(16)]
    with create_shard(tmp_path / "s", entries=entries, labels=None, size=40, source="x") as images:
        images[:] = 1
    result = pretrain(tmp_path / "s", tmp_path / "c.pt")
    assert_one_line(result, 2, "3 of its images", "'test'")


@pytest.mark.long
def test_compiled_networks_learn_the_same(tmp_path: Path) -> None:
    data = make_shard(tmp_path / "shard", images=16, labelled=False).path
    more = ("--epochs", 2, "--queue", 16)
    plain, compiled = tmp_path / "plain.pt", tmp_path / "compiled.pt"
    assert pretrain(data, plain, *more, method="mocov2").returncode == 0
    result = run(
        "flower-pretrain",
        *options(data, compiled, *more, "--compile", method="mocov2"),
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    for one, other in zip(lines_of(plain), lines_of(compiled), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    content = torch.load(compiled, weights_only=True)
    assert not any("_orig_mod" in name for name in content["state_dict"])
