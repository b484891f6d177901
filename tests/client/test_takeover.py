"""An accelerator fails, or others wait for it: who computes, and what becomes of its memory."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from client import computing
from client.hospital import Hospital
from client.slots import slot
from common import frozen
from common.codec.change import sent
from common.model import build_model, state_of
from common.options import Mode
from common.protocol import Instruction
from common.seeds import generator
from common.wire import fingerprint, pack
from tests.support.hospitals import GREETING, STATE, hospital_of, instruction_of, plan_of, rounds_in
from tests.support.shards import make_shard


def hospital_answers(hospital: Hospital, rounds: list[tuple[Instruction, bytes]]) -> list[bytes]:
    return [hospital.answer(instruction, blob)[1] for instruction, blob in rounds]


class FakeAccelerator:
    """Stands for a GPU as the device ``meta``, and computes on the CPU until it has an error.

    It shows what a hospital does about an error that is raised where torch would raise it. It
    shows neither that a GPU raises these, nor that its memory is free again afterwards.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.device = torch.device("meta")
        to = torch.nn.Module.to

        def moved(model: torch.nn.Module, *target: Any, **how: Any) -> torch.nn.Module:
            return model if target == (self.device,) else to(model, *target, **how)

        monkeypatch.setattr(torch.nn.Module, "to", moved)
        for module, name in ((frozen, "predict"), (computing, "train")):
            monkeypatch.setattr(module, name, self._work(getattr(module, name)))

    def _work(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def work(model: torch.nn.Module, *given: Any) -> Any:
            here = [isinstance(a, torch.device) and a == self.device for a in given]
            if not any(here):
                return function(model, *given)
            if self.error is not None and function.__name__ == "train":
                with torch.no_grad():  # what was in its memory is lost
                    for tensor in model.state_dict().values():
                        tensor.fill_(0)
                raise self.error
            cpu = torch.device("cpu")
            return function(
                model, *(cpu if is_device else a for a, is_device in zip(given, here, strict=True))
            )

        return work


FAILS_FOR_GOOD = torch.AcceleratorError("CUDA error: device lost")
KERNEL_DOES_NOT_FIT = torch.AcceleratorError("CUDA error: out of memory")
KERNEL_DOES_NOT_FIT.error_code = 2  # type: ignore[attr-defined]
FAILS_ONCE = [
    torch.OutOfMemoryError("CUDA out of memory"),
    KERNEL_DOES_NOT_FIT,
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.fault(
    "a hospital's GPU fails in mid-round",
    "the CPU takes over, in that round and later ones",
)
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_when_the_accelerator_fails_the_cpu_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: Mode
) -> None:
    path = make_shard(tmp_path / "a").path
    rounds = rounds_in(mode)
    expected = [hospital_answers(hospital_of(path), rounds)]
    accelerator = FakeAccelerator(monkeypatch)
    hospital = hospital_of(path, "meta")
    first = hospital.answer(*rounds[0])
    assert "takes over" not in caplog.text
    accelerator.error = FAILS_FOR_GOOD
    second = hospital.answer(*rounds[1])
    assert "meta failed (AcceleratorError); the CPU takes over" in caplog.text
    assert [second[0].status, hospital.device.type] == ["ok", "cpu"]
    caplog.clear()
    assert [[first[1], second[1], hospital.answer(*rounds[2])[1]]] == expected
    assert "takes over" not in caplog.text


@pytest.mark.fault(
    "a hospital's GPU is out of memory, or cuDNN fails",
    "the CPU takes over for that round; the next one is tried on the GPU again",
)
@pytest.mark.parametrize("error", FAILS_ONCE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_when_the_accelerator_fails_once_the_cpu_takes_over_for_a_round(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: Mode,
    error: Exception,
) -> None:
    path = make_shard(tmp_path / "a").path
    rounds = rounds_in(mode)
    expected = hospital_answers(hospital_of(path), rounds)
    accelerator = FakeAccelerator(monkeypatch)
    hospital = hospital_of(path, "meta")
    answers = []
    for instruction, blob in rounds:
        accelerator.error = error if instruction.identity.round == 2 else None
        caplog.clear()
        answers.append(hospital.answer(instruction, blob)[1])
        assert ("takes over" in caplog.text) == (instruction.identity.round == 2)
    assert answers == expected
    assert hospital.device.type == "meta"


def test_the_cpu_takes_over_a_round_whose_model_came_as_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_shard(tmp_path / "a").path
    plan = plan_of(wire="int8")
    change = sent(
        STATE, state_of(build_model("densenet-tiny", 2)), {}, "int8", generator(5, "wire")
    ).blob
    rounds = [
        (instruction_of(plan, 1), pack(STATE)),
        (instruction_of(plan, 2, base=fingerprint(pack(STATE)), counted=1), change),
    ]
    expected = hospital_answers(hospital_of(path), rounds)
    accelerator = FakeAccelerator(monkeypatch)
    hospital = hospital_of(path, "meta")
    first = hospital.answer(*rounds[0])[1]
    accelerator.error = FAILS_ONCE[0]
    reply, second = hospital.answer(*rounds[1])
    assert (reply.status, [first, second]) == ("ok", expected)


def test_whose_turn_it_is_has_the_memory_of_the_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = tmp_path / "turns"
    given_back: list[bool] = []

    def empty_cache() -> None:
        with (turns / "slot-0.lock").open() as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                given_back.append(True)  # before the next one may begin
            else:
                given_back.append(False)

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    accelerator = FakeAccelerator(monkeypatch)
    shard = make_shard(tmp_path / "a")
    for device, error, expected in (
        ("cpu", None, []),
        ("meta", None, [True]),
        ("meta", FAILS_ONCE[0], [False]),  # what an error holds is free after its turn only
        ("meta", ValueError(), [False]),
        ("meta", FAILS_FOR_GOOD, []),  # it cannot be asked for anything any more
    ):
        hospital = Hospital("a", shard, torch.device(device), 1, turns)
        hospital.greet(GREETING)
        accelerator.error = error
        given_back.clear()
        hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
        assert given_back == expected, (device, error)


def test_a_hospital_on_the_cpu_keeps_nobody_from_the_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, shard = tmp_path / "turns", make_shard(tmp_path / "a")
    accelerator = FakeAccelerator(monkeypatch)
    hospital = Hospital("a", shard, torch.device("meta"), 1, turns, precision="bf16")
    hospital.greet(GREETING)
    accelerator.error = FAILS_FOR_GOOD
    assert hospital.answer(instruction_of(plan_of(), 1), pack(STATE))[0].status == "ok"
    monkeypatch.setattr("common.model.is_fast_in_bf16", lambda _device: False)
    assert hospital.precision == "fp32"
    with slot(turns, 1):
        assert hospital.answer(instruction_of(plan_of(), 2), pack(STATE))[0].status == "ok"


def test_an_accelerator_that_cannot_give_memory_back_costs_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty_cache() -> None:
        raise FAILS_FOR_GOOD

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    accelerator = FakeAccelerator(monkeypatch)
    shard = make_shard(tmp_path / "a")
    for error, status in ((FAILS_ONCE[0], "ok"), (ValueError(), "failed")):
        hospital = Hospital("a", shard, torch.device("meta"), 1, tmp_path / "turns")
        hospital.greet(GREETING)
        accelerator.error = error
        reply, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
        assert reply.status == status


def test_a_fault_that_the_cpu_has_too_is_a_failed_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr("client.computing.train", fail)
    for device in ("cpu", "meta"):
        hospital = hospital_of(make_shard(tmp_path / device).path, device)
        reply, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
        assert (reply.status, reply.reason) == ("failed", "RuntimeError")
