"""A slot is for what needs the device: whoever is next does not wait for anything else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch

from client import hospital as hospital_module
from client import scoring, work
from client.exchange import Exchange
from client.hospital import Hospital
from client.slots import slot
from common.wire import pack
from tests.support.hospitals import GREETING, STATE, instruction_of, plan_of
from tests.support.shards import make_shard

SECONDS = 20.0


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (scoring, "scores_of"),  # AUCs of the received model
        (scoring, "histograms_of"),
        (work, "state_of"),
        (Exchange, "begin"),  # unpacks what was received
        (Exchange, "end"),  # encodes and packs what is sent, and writes what is its own
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_next_hospital_has_the_device_while_another_does_what_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    first = Thread(target=lambda: answers["a"](), name="a")
    answers: dict[str, Callable[[], Any]] = {}
    held, entered, waited = Event(), Event(), []
    original = getattr(owner, name)

    def holding(*given: Any, **named: Any) -> Any:
        if first.is_alive() and not held.is_set():
            held.set()
            waited.append(entered.wait(SECONDS))
        return original(*given, **named)

    @contextmanager
    def watched(*given: Any) -> Iterator[float]:
        with slot(*given) as seconds:
            if held.is_set():
                entered.set()
            yield seconds

    monkeypatch.setattr(hospital_module, "slot", watched)
    for site in ("a", "b"):
        shard = make_shard(tmp_path / site, images=80)
        hospital = Hospital(site, shard, torch.device("cpu"), 1, tmp_path / "turns")
        hospital.greet(GREETING)
        answers[site] = partial(hospital.answer, instruction_of(plan_of(), 1), pack(STATE))
    monkeypatch.setattr(owner, name, holding)
    first.start()
    assert held.wait(SECONDS)
    reply, _ = answers["b"]()
    first.join(2 * SECONDS)
    assert reply.status == "ok"
    assert waited == [True]
