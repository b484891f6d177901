"""What a hospital refuses, whatever the server asks."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from client.secure.sums import SecureSums
from common.message import Identity
from common.secure.keys import BadKeys, SignedKeys, Signer, check_keys
from common.secure.messages import (
    ConfirmCall,
    Confirmed,
    Declined,
    MaskCall,
    Masked,
    RevealCall,
    Revealed,
    SecureAnswer,
    SecureCall,
    ShareCall,
    Shares,
)
from common.secure.terms import terms_of
from server.secure.aggregation import Aggregation, NoSum
from server.secure.options import SecureOptions
from tests.support.hospitals import STATE, instruction_of, plan_of
from tests.support.secure import (
    SETTINGS,
    Sums,
    identity_of,
    names_of,
    plain_sum,
    random_updates,
    signers_of,
)

SECURE = SecureOptions(secure_aggregation=True)
NAMES = names_of(5)
UPDATES = random_updates(NAMES, 4)


def refused(answer: SecureAnswer) -> str:
    assert isinstance(answer, Declined)
    return answer.reason


def test_hospitals_with_certificates_come_to_a_sum() -> None:
    words, summed, _ = Sums.of(NAMES, signers_of(NAMES)).aggregate(UPDATES, {NAMES[1]: 2})
    assert (words == plain_sum(UPDATES, summed)).all()


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (
            lambda own, _old: own.model_copy(update={"mask": bytes(31) + b"9"}),
            "the keys of hospital-03 are not signed by it for this attempt",
        ),
        (
            lambda own, _old: own.model_copy(update={"certificate": b"", "signature": b""}),
            "the keys of hospital-03 come without a certificate of the CA",
        ),
        (
            lambda _own, old: old,
            "the keys of hospital-03 are not signed by it for this attempt",
        ),
    ],
    ids=["other keys", "no certificate", "an earlier attempt"],
)
def test_a_server_cannot_play_a_hospital(
    forge: Callable[[SignedKeys, SignedKeys], SignedKeys], said: str
) -> None:
    sums = Sums.of(NAMES, signers_of(NAMES))
    old = sums.begin(UPDATES, identity_of(1))["hospital-03"]

    def changed(name: str, call: SecureCall) -> SecureCall:
        if name == "hospital-00" and isinstance(call, ShareCall):
            forged = forge(call.keys["hospital-03"], old)
            return call.model_copy(update={"keys": {**call.keys, "hospital-03": forged}})
        return call

    words, summed, _ = sums.aggregate(UPDATES, identity=identity_of(2), changed=changed)
    assert sums.declined["hospital-00"].reason == said
    assert sums.declined["hospital-00"].because_of == "hospital-03"
    assert summed == NAMES[1:]
    assert (words == plain_sum(UPDATES, summed)).all()


def test_certificates_of_another_hospital_another_ca_or_another_time_prove_nothing() -> None:
    signers, strangers = signers_of(NAMES), signers_of(NAMES)
    attempt, now = identity_of().model_dump(), datetime.now(UTC)
    sums = Sums.of(NAMES, {**signers, NAMES[1]: signers[NAMES[2]], NAMES[3]: strangers[NAMES[3]]})
    keys, ca = sums.begin(UPDATES, identity_of()), signers[NAMES[0]].ca
    check_keys(keys[NAMES[0]], NAMES[0], attempt, ca, now)
    with pytest.raises(BadKeys, match="keys of hospital-01 come with another's certificate"):
        check_keys(keys[NAMES[1]], NAMES[1], attempt, ca, now)
    with pytest.raises(BadKeys, match="hospital-03 come without a certificate of the CA"):
        check_keys(keys[NAMES[3]], NAMES[3], attempt, ca, now)
    with pytest.raises(BadKeys, match="the certificate of hospital-00 is not valid now"):
        check_keys(keys[NAMES[0]], NAMES[0], attempt, ca, now + timedelta(days=31))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ("hospital-00", "hospital-01")}, "a sum is of 3 hospitals at least"),
        ({"names": (*NAMES[1:], "hospital-99")}, "a sum is of 3 hospitals at least"),
        ({"names": (*NAMES, "hospital-99")}, "the keys are not those of the hospital's neighbours"),
    ],
)
def test_a_sum_of_too_few_or_of_others_is_refused(change: dict[str, object], said: str) -> None:
    sums = Sums.of(NAMES)
    call = sums.started(UPDATES, identity_of()).share_calls()["hospital-00"]
    answer, _ = sums.hospitals["hospital-00"].answer(call.model_copy(update=change))
    assert refused(answer).startswith(said)


def test_shares_that_were_sealed_for_other_keys_or_names_are_refused() -> None:
    """The server shows two hospitals different cohorts: they have no key in common."""
    sums = Sums.of(NAMES)
    server = sums.started(UPDATES, identity_of())

    def changed(name: str, call: SecureCall) -> SecureCall:
        if name == "hospital-00" and isinstance(call, ShareCall):
            kept = {other: keys for other, keys in call.keys.items() if other != "hospital-04"}
            return call.model_copy(update={"names": call.names[:4], "keys": kept})
        return call

    calls = server.share_calls()
    for name, call in calls.items():
        answer, _ = sums.hospitals[name].answer(changed(name, call))
        assert isinstance(answer, Shares)
        if name != "hospital-00":
            server.add_shares(name, answer)
        else:
            first = answer
    boxes = server.mask_calls()["hospital-01"].sealed
    boxes = {**boxes, "hospital-00": first.sealed["hospital-01"]}
    mask_call = MaskCall(identity=identity_of(), sealed=boxes)
    answer, _ = sums.hospitals["hospital-01"].answer(mask_call)
    assert refused(answer) == "the shares of hospital-00 cannot be opened"


def test_an_update_is_masked_once_and_with_enough_others() -> None:
    sums = Sums.of(NAMES)
    server = sums.started(UPDATES, identity_of())
    for name, call in server.share_calls().items():
        answer, _ = sums.hospitals[name].answer(call)
        assert isinstance(answer, Shares)
        server.add_shares(name, answer)
    whole = server.mask_calls()["hospital-00"]
    few = whole.model_copy(update={"sealed": {name: whole.sealed[name] for name in NAMES[1:3]}})
    answer, blob = sums.hospitals["hospital-00"].answer(few)
    assert refused(answer) == "only 3 of 4 neighbours have made shares"
    assert not blob
    answer, _ = sums.hospitals["hospital-00"].answer(whole)
    assert refused(answer) == "there is no update to be masked in this attempt"
    for expected in (Masked, Declined):
        answer, blob = sums.hospitals["hospital-01"].answer(server.mask_calls()["hospital-01"])
        assert isinstance(answer, expected)
        assert len(blob) == (28 if expected is Masked else 0)


@pytest.mark.parametrize(
    ("survivors", "said"),
    [
        (NAMES[:3], "the sum is of too few hospitals: 3, and 4 are needed"),
        (NAMES[1:], "the sum is of others than those who were named"),
        ([*NAMES, "hospital-99"], "the sum is of others than those who were named"),
    ],
)
def test_a_sum_of_too_few_or_of_others_is_not_confirmed(survivors: list[str], said: str) -> None:
    sums = Sums.of(NAMES)
    server = sums.started(UPDATES, identity_of())
    sums.until_revealed(server, dict.fromkeys(NAMES, 3))
    call = ConfirmCall(identity=identity_of(), survivors=tuple(survivors))
    answer, _ = sums.hospitals["hospital-00"].answer(call)
    assert refused(answer) == said


def masked(signers: dict[str, Signer] | None = None) -> Sums:
    """Return hospitals that have sent their masked updates, and know of no sum yet."""
    sums = Sums.of(NAMES, signers)
    server = sums.started(UPDATES, identity_of())
    sums.until_revealed(server, dict.fromkeys(NAMES, 3))
    return sums


def confirmed(sums: Sums, lists: dict[str, list[str]]) -> dict[str, bytes]:
    """Return the signatures of hospitals, each under the list that it was shown."""
    signatures = {}
    for name, survivors in lists.items():
        call = ConfirmCall(identity=identity_of(), survivors=tuple(survivors))
        answer, _ = sums.hospitals[name].answer(call)
        assert isinstance(answer, Confirmed)
        signatures[name] = answer.signature
    return signatures


def test_a_seed_and_a_key_of_one_hospital_are_never_both_revealed() -> None:
    sums = masked()
    signatures = confirmed(sums, dict.fromkeys(NAMES[:4], NAMES[:4]))
    hospital = sums.hospitals["hospital-00"]
    call = RevealCall(identity=identity_of(), confirmed=signatures)
    answer, _ = hospital.answer(call)
    assert isinstance(answer, Revealed)
    assert sorted(answer.seeds) == NAMES[:4]
    assert sorted(answer.keys) == NAMES[4:]
    again, _ = hospital.answer(call)
    assert refused(again).startswith("there is nothing, or nothing more, to be revealed")
    for survivors in (NAMES, NAMES[:4]):
        other = ConfirmCall(identity=identity_of(), survivors=tuple(survivors))
        assert refused(hospital.answer(other)[0]).startswith("there is nothing, or nothing more")


def test_two_lists_of_hospitals_are_never_both_enough() -> None:
    """With a list for each hospital, the server could have the masks of one taken away."""
    sums = masked(signers_of(NAMES))
    one, other = NAMES[:4], NAMES
    signatures = confirmed(
        sums, {**dict.fromkeys(NAMES[:2], one), **dict.fromkeys(NAMES[2:], other)}
    )
    for name in NAMES:
        call = RevealCall(identity=identity_of(), confirmed=signatures)
        answer, _ = sums.hospitals[name].answer(call)
        count = 2 if name in NAMES[:2] else 3
        assert refused(answer) == f"only {count} of 4 neighbours have confirmed the same list"


def test_with_some_neighbours_alone_a_low_threshold_is_refused() -> None:
    names, chosen = names_of(51), SETTINGS.model_copy(update={"threshold": 0.6})
    sums = Sums.of(names)
    calls = sums.started(random_updates(names, 1), identity_of(), chosen).share_calls()
    answer, _ = sums.hospitals[names[0]].answer(calls[names[0]])
    assert refused(answer) == "with so many hospitals the threshold is above 0.6"


def test_unsigned_confirmations_are_enough_without_certificates_alone() -> None:
    for signers in (None, signers_of(NAMES)):
        sums = masked(signers)
        confirmed(sums, dict.fromkeys(NAMES, NAMES))
        call = RevealCall(identity=identity_of(), confirmed=dict.fromkeys(NAMES, b""))
        answer, _ = sums.hospitals["hospital-00"].answer(call)
        assert isinstance(answer, Declined if signers else Revealed)


def test_a_hospital_that_signs_another_list_is_found() -> None:
    sums = Sums.of(NAMES, signers_of(NAMES))
    server = sums.started(UPDATES, identity_of())

    def tamper(name: str, answer: SecureAnswer, blob: bytes) -> tuple[SecureAnswer, bytes]:
        if name == NAMES[2] and isinstance(answer, Confirmed):
            answer = answer.model_copy(update={"signature": bytes(70)})
        return answer, blob

    sums.until_revealed(server, {}, tamper)
    assert sums.improper == {NAMES[2]: "signed another list of hospitals than it was shown"}
    words, summed = server.result()
    assert summed == NAMES
    assert (words == plain_sum(UPDATES, NAMES)).all()


@pytest.mark.parametrize("told", ["clip", "training", "model", "backbone"])
def test_hospitals_that_were_told_something_else_have_no_key_in_common(told: str) -> None:
    """A server could have all others count for nothing, and read one update off the sum."""
    instruction = instruction_of(plan_of(secure=SECURE), 1, secure=SETTINGS)
    state, backbone = dict(STATE), "a" * 64
    own = terms_of(instruction, state, backbone)
    match told:
        case "clip":
            other = SETTINGS.model_copy(update={"clip": 2.0**20})
            instruction = instruction.model_copy(update={"secure": other})
        case "training":
            training = instruction.training.model_copy(update={"lr": 1e-9})
            instruction = instruction.model_copy(update={"training": training})
        case "model":
            state["classifier.bias"] = state["classifier.bias"] + 1
        case "backbone":
            backbone = "b" * 64
    others = terms_of(instruction, state, backbone)
    assert own != others
    sums = Sums.of(NAMES)
    keys = sums.begin(UPDATES, identity_of(), terms=others)
    keys |= sums.begin({NAMES[0]: UPDATES[NAMES[0]]}, identity_of(), terms=own)
    server = Aggregation(identity_of(), keys, SETTINGS, 5, others.digest, 7)
    with pytest.raises(NoSum):
        sums.until_revealed(server, {})
    assert sums.declined[NAMES[1]].reason == "the shares of hospital-00 cannot be opened"


def test_a_hospital_warns_of_another_sum_of_a_model_and_has_no_part_in_a_third(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same model is trained alike: from sums over several sets single updates follow."""
    sums = Sums.of(NAMES)

    def warned(gone: dict[str, int], identity: Identity) -> int:
        caplog.clear()
        sums.aggregate(UPDATES, gone, identity=identity)
        return sum(text.startswith("another sum from the same model") for text in caplog.messages)

    assert warned({}, identity_of(1)) == 0
    assert warned({}, identity_of(2)) == 0, "the same hospitals"
    assert warned({NAMES[3]: 2}, identity_of(3)) == 4
    assert warned({}, identity_of(1, number=2)) == 4, "in whatever round"
    with pytest.raises(NoSum):
        sums.aggregate(UPDATES, {NAMES[1]: 2}, identity=identity_of(4))
    said = "2 other sums from the same model were unmasked"
    assert {name: sums.declined[name].reason for name in (NAMES[0], NAMES[2], NAMES[4])} == {
        NAMES[0]: said,
        NAMES[2]: said,
        NAMES[4]: said,
    }


def test_what_was_signed_before_an_attempt_began_anew_is_of_no_use_in_it() -> None:
    """A server may let a hospital begin an attempt again, and has then signatures of both."""
    sums = Sums.of(NAMES, signers_of(NAMES))
    confirmed: list[dict[str, bytes]] = []
    for _ in range(2):
        server = sums.started(UPDATES, identity_of())
        sums.until_revealed(server, dict.fromkeys(NAMES, 4))
        call = server.reveal_calls()[NAMES[0]]
        confirmed.append(call.confirmed)
    assert len(confirmed[0]) == len(NAMES) - 1
    old, _ = sums.hospitals[NAMES[0]].answer(
        RevealCall(identity=identity_of(), confirmed=confirmed[0])
    )
    assert refused(old) == "only 1 of 4 neighbours have confirmed the same list"
    new, _ = sums.hospitals[NAMES[0]].answer(
        RevealCall(identity=identity_of(), confirmed=confirmed[1])
    )
    assert isinstance(new, Revealed)


@pytest.mark.fault(
    "a call of an earlier attempt at a secure sum comes late",
    "the hospital declines; nothing of that attempt is left",
)
def test_a_call_of_another_attempt_is_declined() -> None:
    sums = Sums.of(NAMES)
    call = sums.started(UPDATES, identity_of(1)).share_calls()["hospital-00"]
    sums.begin(UPDATES, identity_of(2))
    answer, _ = sums.hospitals["hospital-00"].answer(call)
    assert refused(answer) == "this attempt is not, or not any more, known here"
    fresh = SecureSums("hospital-00", lambda: None)
    assert refused(fresh.answer(call)[0]) == "this attempt is not, or not any more, known here"


def test_each_attempt_has_keys_of_its_own() -> None:
    sums = Sums.of(NAMES)
    first, second = (sums.begin(UPDATES, identity_of(1)) for _ in range(2))
    for name in NAMES:
        assert {first[name].mask, first[name].seal}.isdisjoint(
            {second[name].mask, second[name].seal}
        )
