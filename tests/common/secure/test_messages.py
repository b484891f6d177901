import json

import pytest

from common.message import LONGEST, ProtocolError, parse_message
from common.secure.graph import neighbourhoods
from common.secure.messages import (
    ANY_CALL,
    SECURE_ANSWER,
    ConfirmCall,
    Confirmed,
    MaskCall,
    RevealCall,
    Revealed,
    SealedShares,
    ShareCall,
    Shares,
)
from tests.support.secure import Sums, identity_of, names_of, random_updates, signers_of

NAMES = names_of(3)
CALL = ConfirmCall(identity=identity_of(), survivors=tuple(NAMES))
SEALED = SealedShares(box=bytes(48), of_seed=bytes(32), of_key=bytes(32))


def test_messages_of_a_thousand_hospitals_are_short_enough() -> None:
    names = [f"{i:04d}".ljust(63, "x") for i in range(1000)]
    near = neighbourhoods(names, 1, 1, 1)[names[0]]
    (signer,) = signers_of(names[:1]).values()
    sums = Sums.of(names[:1], {names[0]: signer})
    (keys,) = sums.begin(random_updates(names[:1], 1), identity_of()).values()
    sealed = dict.fromkeys(near, SEALED)
    shares = dict.fromkeys(near, bytes(16))
    identity = identity_of(2**31 - 1, 2**31 - 1).model_copy(update={"run": "r" * 64})
    told = dict.fromkeys(near, keys)
    for call in (
        ShareCall(identity=identity, names=tuple(names), keys=told),
        MaskCall(identity=identity, sealed=sealed),
        ConfirmCall(identity=identity, survivors=tuple(names)),
        RevealCall(identity=identity, confirmed=dict.fromkeys(near, bytes(128))),
    ):
        assert parse_message(ANY_CALL, call.model_dump_json()) == call
        assert len(call.model_dump_json()) < LONGEST
    for answer in (
        Confirmed(identity=identity, signature=bytes(128)),
        Shares(identity=identity, sealed=sealed, seed=bytes(32)),
        Revealed(identity=identity, seeds=shares, keys=shares),
    ):
        assert parse_message(SECURE_ANSWER, answer.model_dump_json()) == answer
        assert len(answer.model_dump_json()) < LONGEST


@pytest.mark.parametrize("protocol", [8, 10])
def test_steps_of_another_version_are_refused(protocol: int) -> None:
    words = {**CALL.model_dump(mode="json"), "protocol": protocol}
    with pytest.raises(ProtocolError, match="another version of protocol 9"):
        parse_message(ANY_CALL, json.dumps(words))


@pytest.mark.parametrize(
    "change",
    [
        {"survivors": ["a b"]},
        {"survivors": ["a"] * 1001},
        {"more": 1},
        {"kind": "unmask"},
    ],
)
def test_a_step_with_what_cannot_be_is_no_message(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(ANY_CALL, json.dumps({**CALL.model_dump(mode="json"), **change}))


def test_a_share_of_another_length_is_no_message() -> None:
    revealed = Revealed(identity=identity_of(), seeds={"a": bytes(16)}, keys={})
    text = revealed.model_dump_json()
    assert parse_message(SECURE_ANSWER, text) == revealed
    with pytest.raises(ProtocolError, match="no message"):
        parse_message(SECURE_ANSWER, text.replace("AAAA", "", 1))
