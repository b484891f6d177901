"""Compiled training, with compilers that cost no minutes: torch traces the model as for any."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from client.hospital import Hospital
from common.shard import Shard
from common.wire import pack
from tests.support.hospitals import GREETING, STATE, instruction_of, plan_of
from tests.support.shards import make_shard

ROUNDS: list[dict[str, Any]] = [
    {},
    {"augment": "light", "mixup": 0.4, "local": "fedprox"},
    {"mode": "linear"},
]


def use(backend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function compile, which knows nothing from other tests."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def answers(shard: Shard, rounds: int, *, compiled: bool) -> list[bytes]:
    hospital = Hospital("a", shard, torch.device("cpu"), compiled=compiled)
    hospital.greet(GREETING)
    found = []
    for number in range(rounds):
        instruction = instruction_of(plan_of(**ROUNDS[number % 3]), number)
        reply, blob = hospital.answer(instruction, pack(STATE))
        assert reply.status == "ok"
        found.append(blob)
    return found


def test_the_training_is_compiled_once_and_every_byte_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    use(backend, monkeypatch)
    shard = make_shard(tmp_path / "a")
    assert answers(shard, 6, compiled=True) == answers(shard, 6, compiled=False)
    assert len(compiled) == 2, "one for each mode"


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_model_whose_gradients_cannot_be_compiled_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dynamic: bool
) -> None:
    def backward(_graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        raise OSError("no kernel")

    backend = aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=backward)
    use(backend, monkeypatch)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, dynamic=dynamic))
    shard = make_shard(tmp_path / "a")
    with caplog.at_level(logging.INFO, "client"):
        assert answers(shard, 1, compiled=True) == answers(shard, 1, compiled=False)
    assert "--compile: the model cannot be compiled here" in caplog.text


def test_a_model_that_cannot_be_compiled_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend(_graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        raise FileNotFoundError("g++")

    use(backend, monkeypatch)
    shard = make_shard(tmp_path / "a")
    with caplog.at_level(logging.INFO, "client"):
        assert answers(shard, 3, compiled=True) == answers(shard, 3, compiled=False)
    (warning,) = [record for record in caplog.records if "--compile" in record.message]
    assert warning.levelname == "WARNING"
    assert "cannot be compiled here (BackendCompilerFailed)" in warning.message
    assert "\n" not in warning.message
