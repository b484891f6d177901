"""Every number of a message has bounds, and every text can stand in a log."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from common.findings import FINDINGS
from common.histograms import BINS, SHAPE, Histograms, histograms_of
from common.message import VERSION, ProtocolError, parse_message
from common.options import Training
from common.protocol import CALL, HELLO, INSTRUCTION, REPLY, Farewell, Hello
from common.scores import MOST_IMAGES
from tests.support.histograms import some_films
from tests.support.messages import HELLO_WORDS, REPLY_WORDS, SCORES
from tests.support.messages import INSTRUCTION as ORDER

IDENTITY = {"run": "r", "round": 3, "attempt": 1}
SECONDS = {"wait": 0, "evaluate": 1, "train": 1}


TEXT = histograms_of(*some_films(10, 0)).to_text()


def test_ordinary_words_are_understood() -> None:
    hello = parse_message(HELLO, json.dumps(HELLO_WORDS))
    assert isinstance(hello, Hello)
    assert hello.validation == 0
    reply = parse_message(REPLY, json.dumps(REPLY_WORDS))
    assert reply.validation is not None
    assert tuple(reply.validation.auc_by_finding) == FINDINGS
    told = parse_message(REPLY, json.dumps({**REPLY_WORDS, "histograms": TEXT}))
    assert told.histograms == TEXT


def test_histograms_of_any_counts_fit_into_a_message() -> None:
    counts = np.random.default_rng(0).integers(0, MOST_IMAGES // BINS // 2, SHAPE)
    counts[:, :, :200] *= 2
    text = Histograms(*counts).to_text()
    assert parse_message(REPLY, json.dumps({**REPLY_WORDS, "histograms": text})).histograms == text


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 2**24 + 1},
        {"examples": 10**400},
        {"loss": 1.1e9},
        {"loss": 1e308},
        {"seconds": {**SECONDS, "train": 1.1e7}},
        {"identity": {**IDENTITY, "round": 2**31}},
        {"identity": {**IDENTITY, "attempt": 10**400}},
        {"identity": {**IDENTITY, "run": "r\n"}},
        {"validation": {**SCORES, "images": 2**24 + 1}},
        {"validation": {**SCORES, "loss": 1.1e9}},
        {"validation": {**SCORES, "auc": 1.01}},
        {"validation": {**SCORES, "auc_by_finding": dict.fromkeys(FINDINGS, 1.01)}},
        {"validation": {**SCORES, "auc_by_finding": dict.fromkeys(FINDINGS[1:], 0.5)}},
        {"validation": {**SCORES, "auc_by_finding": dict.fromkeys([*FINDINGS, "<b>"], 0.5)}},
        {"histograms": ""},
        {"histograms": "AAAA"},
        {"histograms": TEXT[:-8]},
        {"histograms": "A" * 200_000},
        {"memory": -1},
        {"memory": 2**50 + 1},
        {"reason": "two\nlines"},
        {"reason": "\x1b[31mred"},
        {"reason": "\u202eturned round"},
    ],
)
def test_a_reply_with_an_impossible_number_or_text_is_no_message(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        parse_message(REPLY, json.dumps({**REPLY_WORDS, **change}))


def test_what_is_too_long_is_not_looked_at() -> None:
    # A description of a million errors would take gigabytes.
    long = json.dumps({**REPLY_WORDS, **{str(number): 0 for number in range(20_000)}})
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(REPLY, long)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 2**24 + 1},
        {"validation": 2**24 + 1},
        {"image_size": 10**1000},
        {"version": "1\r"},
        {"server": "\x1b]0;title\x07"},
    ],
)
def test_a_hello_with_an_impossible_number_or_text_is_no_message(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        parse_message(HELLO, json.dumps({**HELLO_WORDS, **change}))


def test_an_instruction_holds_its_training_in_one_field() -> None:
    text = ORDER.model_dump_json()
    assert set(json.loads(text)["training"]) == set(Training.model_fields)
    assert parse_message(INSTRUCTION, text) == ORDER


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0},
        {"momentum": 1},
        {"batch_size": 0},
        {"local_epochs": 0},
        {"label_fraction": 1.01},
        {"mode": "other"},
        {"more": 1},
    ],
)
def test_an_instruction_with_an_impossible_setting_is_no_message(change: dict[str, Any]) -> None:
    words = ORDER.model_dump(mode="json")
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(INSTRUCTION, json.dumps({**words, "training": words["training"] | change}))


def test_an_instruction_of_protocol_1_is_told_from_no_message() -> None:
    words = ORDER.model_dump(mode="json")
    training = words.pop("training")
    flat = {**words, **training, "protocol": 1}
    with pytest.raises(ProtocolError, match=f"^another version of protocol {VERSION}$"):
        parse_message(INSTRUCTION, json.dumps(flat))


RESULT = {
    "rounds": 5,
    "best_round": 4,
    "hospitals": 3,
    "auc_by_finding": dict.fromkeys(FINDINGS, 0.5),
    "took_part": 5,
    "rejected": 0,
    "missing": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 2**31},
        {"took_part": -1},
        {"auc_by_finding": dict.fromkeys(FINDINGS, 1.01)},
        {"auc_by_finding": dict.fromkeys([*FINDINGS, "<b>"], 0.5)},
        {"hospital": "b"},
    ],
)
def test_a_farewell_with_an_impossible_result_is_no_message(change: dict[str, Any]) -> None:
    words = {"kind": "farewell", "outcome": "finished", "result": RESULT}
    assert isinstance(parse_message(CALL, json.dumps(words)), Farewell)
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(CALL, json.dumps({**words, "result": {**RESULT, **change}}))


@pytest.mark.parametrize(
    "change", [{"model": "../x"}, {"round": 2**31}, {"strategy": "mine"}, {"sha256": "0"}]
)
def test_a_model_to_keep_that_is_impossible_is_no_message(change: dict[str, Any]) -> None:
    words = ORDER.model_dump(mode="json")
    keep = {"model": "best", "round": 1, "strategy": "fedavg", "sha256": "0" * 64}
    parse_message(INSTRUCTION, json.dumps({**words, "keep": keep}))
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(INSTRUCTION, json.dumps({**words, "keep": {**keep, **change}}))
