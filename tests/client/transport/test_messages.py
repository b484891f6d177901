"""Weights leave a hospital once, and only for the reply that they belong to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.transport_pb2 import ClientMessage, Parameters, Scalar, ServerMessage

from client import progress
from client.exchanged import exchanged
from client.state import ClientState
from client.transport.form import message_of, serialised
from client.transport.messages import MessageHandler
from common.envelope import Envelope
from common.message import Identity, Message, parse_message
from common.model import build_model, state_of
from common.protocol import PROGRESS, Fetch, Greeting, Hello, Progress, Reply
from common.wire import fingerprint, pack
from tests.support.hospitals import GREETING, hospital_of, instruction_of, plan_of
from tests.support.shards import make_shard

BLOB = pack(state_of(build_model("densenet-tiny", 1)))


def ask(
    handler: MessageHandler,
    kind: str,
    message: Message,
    *tensors: bytes,
    send: Callable[[Envelope[ClientMessage]], object] = print,
) -> ClientMessage:
    question = ServerMessage()
    part = getattr(question, kind)
    part.config["message"].CopyFrom(Scalar(string=message.model_dump_json()))
    if tensors:
        part.parameters.CopyFrom(Parameters(tensors=tensors))
    answer = handler.answer(message_of(question.SerializeToString()), lambda: True, send)
    return ClientMessage.FromString(serialised(answer))


def fetch(handler: MessageHandler, identity: Identity) -> list[bytes]:
    answer = ask(handler, "get_parameters_ins", Fetch(identity=identity))
    return list(answer.get_parameters_res.parameters.tensors)


def events(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]


def test_only_the_last_reply_has_weights_and_only_once(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    state = tmp_path / "state"
    handler = MessageHandler(hospital, ClientState(state))
    instruction = instruction_of(plan_of(), 1)
    other = instruction.identity.model_copy(update={"round": 7})
    assert fetch(handler, instruction.identity) == []

    ask(handler, "fit_ins", instruction, BLOB)
    assert fetch(handler, other) == []
    (weights,) = fetch(handler, instruction.identity)
    assert fetch(handler, instruction.identity) == []

    (answered,) = [e for e in events(state) if e["event"] == "answered"]
    sent = [e for e in events(state) if e["event"] == "sent"]
    assert [e["sha256"] for e in sent] == [fingerprint(weights)] == [answered["reply"]["weights"]]
    refused = [e["identity"]["round"] for e in events(state) if e["event"] == "not sent"]
    assert refused == [1, 7, 1]


def test_the_status_says_where_the_hospital_computes_now(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    state = tmp_path / "state"
    handler = MessageHandler(hospital, ClientState(state, device="cuda:0"))
    ask(handler, "fit_ins", instruction_of(plan_of(), 1), BLOB)  # the CPU has taken over
    status = json.loads((state / "status.json").read_text())
    assert (status["state"], status["device"]) == ("connected", "cpu")


def test_progress_is_told_while_the_hospital_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "TELL_SECONDS", 0)
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    state = tmp_path / "state"
    handler = MessageHandler(hospital, ClientState(state))
    told: list[Progress] = []
    standing: list[dict[str, Any]] = []

    def send(answer: Envelope[ClientMessage]) -> None:
        text = answer.message.get_properties_res.properties["message"].string
        told.append(parse_message(PROGRESS, text))
        standing.append(json.loads((state / "status.json").read_text()))

    instruction = instruction_of(plan_of(local_epochs=2), 1)
    ask(handler, "fit_ins", instruction, BLOB, send=send)
    assert {each.identity for each in told} == {instruction.identity}
    phases = [each.phase for each in told]
    assert phases == sorted(phases)
    assert set(phases) == {"scoring", "training"}
    training = [each.share for each in told if each.phase == "training"]
    steps = len(training)
    assert steps == instruction.training.steps(hospital.greet(GREETING).examples) > 2
    assert training == [step / steps for step in range(steps)]
    assert [(s["phase"], s["share"]) for s in standing[1:]] == [
        (each.phase, round(each.share, 3)) for each in told[:-1]
    ]
    assert {s["state"] for s in standing} == {"working"}
    last = json.loads((state / "status.json").read_text())
    assert (last["state"], last["round"]) == ("connected", 1)
    assert "share" not in last


def test_progress_is_told_every_two_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    told: list[float] = []
    tell = progress.now_and_then(lambda _phase, share: told.append(share))
    for step in range(100):
        clock[0] = 0.1 * step
        tell("training", clock[0])
    assert told == pytest.approx([2, 4, 6, 8], abs=0.11)


def test_what_was_exchanged_in_a_run_is_told_from_the_audit_log(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    state = tmp_path / "state"
    handler = MessageHandler(hospital, ClientState(state))
    for run in ("first", "test"):
        ask(handler, "get_properties_ins", Greeting(run=run, seed=5))
        assert handler.run == run
        for number in (1, 2):
            order = instruction_of(plan_of(run=run), number)
            ask(handler, "fit_ins", order, BLOB)
            if number == 1 or run == "first":
                fetch(handler, order.identity)
    (answered, *_) = [e["reply"] for e in events(state) if e["event"] == "answered"]
    found = exchanged(state / "audit.jsonl", "test")
    assert (found.hellos, found.replies, found.examples) == (1, 2, answered["examples"])
    assert (found.received, found.sent) == ((2, 2 * len(BLOB)), (1, len(BLOB)))
    assert found.hello_fields.keys() == Hello.model_fields.keys() - {"backbone", "holds"}
    everything = set(Reply.model_fields) - {"kind", "protocol"}
    assert found.reply_fields.keys() == everything - {"reason", "memory", "privacy", "keys"}
    assert found.reply_fields["validation"] == ["images", "loss", "auc", "auc_by_finding"]
    assert exchanged(state / "audit.jsonl", "tes").replies == 0
    assert exchanged(state / "audit.jsonl", "first").sent == (2, 2 * len(BLOB))


def test_an_audit_log_of_an_earlier_version_has_no_bytes(tmp_path: Path) -> None:
    identity = {"run": "r", "round": 1, "attempt": 1}
    state = ClientState(tmp_path)
    state.note("received", identity=identity, sha256="0" * 64)
    assert exchanged(tmp_path / "audit.jsonl", "r").received == (1, 0)
