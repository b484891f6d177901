"""A first model of another tool at the server: taken and told, asked about, or refused."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from experiments.launch.local import SERVER, free_port
from experiments.launch.processes import Process
from tests.support.commands import assert_one_line, run
from tests.support.federations import options
from tests.support.foreign import FEATURES, head, old_names, uncounted, under
from tests.support.waiting import wait_until


def server(folder: Path, init: Path, *more: str) -> list[str]:
    listen = f"127.0.0.1:{free_port()}"
    return ["--insecure", *options(folder, 1, init=init, listen=listen), *more]


def first_lines(folder: Path, init: Path, *more: str) -> str:
    """Return what a server says until it waits for hospitals, and what server.log says."""
    log, output = folder / "server.log", folder.with_name("output")
    process = Process(SERVER, server(folder, init, *more), {}, (output, output))
    try:
        wait_until(
            lambda: (
                process.poll() is not None or (log.exists() and "initial model" in log.read_text())
            )
        )
    finally:
        process.terminate()
        process.wait(30)
    said = output.read_text()
    assert "initial model" in said
    return said


def test_a_known_head_is_kept_and_the_log_says_what_was_taken(tmp_path: Path) -> None:
    features = old_names(uncounted(FEATURES))
    tensors = under("module.densenet121.", {**features, **head(14, "classifier.0")})
    torch.save({"epoch": 1, "state_dict": tensors}, tmp_path / "chexnet.pth.tar")
    said = first_lines(tmp_path / "run", tmp_path / "chexnet.pth.tar")
    assert (
        "initial model: chexnet.pth.tar: checkpoint (state_dict, prefix module.densenet121., head "
        "kept: classifier.0.weight, in CheXNet's order)"
    ) in (tmp_path / "run" / "server.log").read_text()
    assert "replaces it" not in said


@pytest.mark.parametrize("choice", ["keep", "replace"])
def test_an_unknown_head_is_asked_about_and_the_answer_taken(tmp_path: Path, choice: str) -> None:
    safetensors.torch.save_file({**FEATURES, **head(14)}, tmp_path / "c.safetensors")
    asked = run("flower-server", *server(tmp_path / "run", tmp_path / "c.safetensors"))
    assert_one_line(asked, 2, "c.safetensors: its head has 14 outputs", "--head keep", "replace")
    assert not (tmp_path / "run").exists()
    said = first_lines(tmp_path / "run", tmp_path / "c.safetensors", "--head", choice)
    decision = {"keep": "head kept", "replace": "head replaced"}[choice]
    assert f"checkpoint (a plain state dict, prefix none, {decision})" in said
    with_another = server(tmp_path / "run", tmp_path / "c.safetensors", "--resume")
    assert_one_line(run("flower-server", *with_another), 2, "--head is None", choice)


def test_a_head_of_18_is_replaced_with_a_warning(tmp_path: Path) -> None:
    torch.save({**FEATURES, **head(18)}, tmp_path / "c.pt")
    said = first_lines(tmp_path / "run", tmp_path / "c.pt")
    lines = [line for line in said.splitlines() if "a random one replaces it" in line]
    assert len(lines) == 1
    assert "c.pt: its head has 18 outputs, not the 14 findings" in lines[0]


class Anything:
    """Stands for whatever object a training program pickles."""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (Anything(), ("holds objects", "torch.save(model.state_dict()")),
        ({"conv1.weight": torch.ones(3)}, ("key conv1.weight does not belong", "densenet-tiny?")),
        ({**FEATURES, **head(18)}, ("--head keep", "18 outputs", "--head replace")),
    ],
)
def test_what_cannot_be_taken_is_one_line(
    tmp_path: Path, content: Any, why: tuple[str, ...]
) -> None:
    torch.save(content, tmp_path / "c.pt")
    result = run("flower-server", *server(tmp_path / "run", tmp_path / "c.pt", "--head", "keep"))
    assert_one_line(result, 2, "c.pt", *why)
