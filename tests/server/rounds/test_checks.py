import numpy as np
import pytest

from common.findings import FINDINGS
from common.histograms import histograms_of
from common.message import Identity
from common.options import Training
from common.scores import Scores
from common.state import State
from common.wire import fingerprint, pack
from server.rounds.checks import Rejected, check_reply, check_weights
from server.rounds.pace import norm_of, squared_change
from tests.support.histograms import some_films
from tests.support.messages import GOOD, HELLO, INSTRUCTION

IDENTITY = Identity(run="r", round=3, attempt=1)
STATE = {"w": np.ones((2, 2), np.float32), "n": np.array(4)}


def scores_of(images: int) -> Scores:
    by_finding = dict.fromkeys(FINDINGS, 0.5)
    return Scores(images=images, loss=0.3, auc=0.5, auc_by_finding=by_finding)


def check(blob: bytes) -> State:
    sha256 = fingerprint(blob)
    reply = GOOD.model_copy(update={"weights": sha256})
    return check_weights(reply, blob, sha256, STATE, INSTRUCTION)


def test_a_good_reply_passes() -> None:
    check_reply(GOOD.model_copy(update={"validation": scores_of(10)}), HELLO, INSTRUCTION)


def test_validation_images_are_bounded_in_the_closing_evaluation_too() -> None:
    evaluate = INSTRUCTION.model_copy(update={"task": "evaluate"})
    with pytest.raises(Rejected, match="claims 11 validation images"):
        check_reply(GOOD.model_copy(update={"validation": scores_of(11)}), HELLO, evaluate)


@pytest.mark.parametrize("task", ["train", "evaluate"])
@pytest.mark.parametrize("scores", [None, scores_of(9)])
def test_histograms_of_more_films_than_the_scores_are_of_are_rejected(
    task: str, scores: Scores | None
) -> None:
    text = histograms_of(*some_films(10, 0, unknown=0)).to_text()
    instruction = INSTRUCTION.model_copy(update={"task": task})
    good = {"validation": scores_of(10), "histograms": text}
    check_reply(GOOD.model_copy(update=good), HELLO, instruction)
    with pytest.raises(Rejected, match=r"its histograms are of 10 images, its scores of [09]"):
        check_reply(GOOD.model_copy(update={**good, "validation": scores}), HELLO, instruction)


@pytest.mark.fault(
    "a reply claims no example, or more than were announced",
    "it is rejected",
)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"identity": Identity(run="r", round=2, attempt=1)}, "another attempt"),
        ({"identity": Identity(run="r", round=3, attempt=2)}, "another attempt"),
        ({"identity": Identity(run="q", round=3, attempt=1)}, "another attempt"),
        ({"status": "failed", "reason": "ValueError"}, "ValueError"),
        ({"examples": 0}, "claims 0"),
        ({"examples": 101}, "claims 101"),
        ({"loss": None}, "no training loss"),
        ({"validation": scores_of(11)}, "claims 11 validation images, having announced 10"),
    ],
)
def test_a_bad_reply_is_rejected(change: dict[str, object], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        check_reply(GOOD.model_copy(update=change), HELLO, INSTRUCTION)


@pytest.mark.fault(
    "a reply lacks a tensor, or has another one, or another shape or dtype",
    "it is rejected with the tensor's name",
)
@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"w": np.ones((2, 1), np.float32), "n": np.array(4)}, "w is float32"),
        ({"w": np.ones((2, 2), np.float64), "n": np.array(4)}, "w is float64"),
        ({"w": np.ones((2, 2), np.float32)}, "n is missing"),
        ({**STATE, "x": np.array(1)}, "'x' does not belong"),
        ({**STATE, "w": np.full((2, 2), np.nan, np.float32)}, "w is not finite"),
    ],
)
def test_wrong_weights_are_rejected(state: dict[str, np.ndarray], why: str) -> None:
    blob = pack(state)
    with pytest.raises(Rejected, match=why):
        check(blob)


def test_other_bytes_than_announced_are_rejected() -> None:
    with pytest.raises(Rejected, match="hash"):
        check_weights(GOOD, pack(STATE), fingerprint(pack(STATE)), STATE, INSTRUCTION)


def test_the_norm_is_over_floats_alone() -> None:
    after = {"w": STATE["w"] + np.float32(2), "n": np.array(400)}
    assert norm_of(squared_change(STATE, after)) == pytest.approx(4)


def test_a_negative_variance_is_rejected() -> None:
    state = {"bn.running_var": np.array([1, -1], np.float32)}
    blob = pack(state)
    reply = GOOD.model_copy(update={"weights": fingerprint(blob)})
    with pytest.raises(Rejected, match="running_var is negative"):
        check_weights(reply, blob, fingerprint(blob), state, INSTRUCTION)


@pytest.mark.parametrize(
    ("counter", "good"),
    [(4, True), (18, True), (19, False), (3, False), (2**63 - 1, False), (-(2**63), False)],
)
def test_a_counter_goes_up_by_no_more_than_the_steps_taken(counter: int, good: bool) -> None:
    blob = pack({**STATE, "n": np.array(counter)})
    reply = GOOD.model_copy(update={"weights": fingerprint(blob)})
    # 100 examples in batches of 16 are 7 steps an epoch.
    training = Training(batch_size=16, local_epochs=2)
    twice = INSTRUCTION.model_copy(update={"training": training})
    if good:
        check_weights(reply, blob, fingerprint(blob), STATE, twice)
    else:
        with pytest.raises(Rejected, match=f"n went from 4 to {counter} in 14 steps"):
            check_weights(reply, blob, fingerprint(blob), STATE, twice)
