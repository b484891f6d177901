import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.batches import Batch, batches
from client.cancellation import Cancellation
from client.examples import labelled_fraction
from client.hospital import Hospital
from client.own import OwnStates
from client.private.account import PrivacyAccount
from client.state import Unwritable
from client.training import train_epoch
from common.errors import BadInput
from common.evaluation import loss_of
from common.findings import UNKNOWN
from common.model import build_model, load_state, state_of, to_input
from common.options import Architecture, Mode, Precision, Training, Wire
from common.protocol import Greeting
from common.secure.settings import SecureSettings
from common.seeds import generator
from common.shard import Entry, Shard, create_shard, open_shard
from common.state import State, select, spec_of
from common.wire import fingerprint, pack, unpack
from server.rounds.pace import norm_of, squared_change
from server.strategies.base import weighted_mean
from tests.support.hospitals import GREETING, STATE, hospital_of, instruction_of, plan_of
from tests.support.shards import make_hospitals, make_shard
from tests.support.states import same_bits


def test_a_repeated_round_gives_the_same_bytes_and_another_round_does_not(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a").path
    first = hospital_of(shard)
    answers = [
        hospital.answer(instruction_of(plan_of(), number), pack(STATE))[1]
        for hospital, number in ((first, 1), (first, 1), (hospital_of(shard), 1), (first, 2))
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] != answers[3]


def test_the_received_model_is_scored_before_it_is_trained(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a", images=80).path)
    trained, weights = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
    scored, nothing = hospital.answer(instruction_of(plan_of(), 1, task="evaluate"), pack(STATE))
    assert trained.validation == scored.validation
    assert scored.validation is not None
    assert scored.validation.images > 0
    assert trained.weights == fingerprint(weights)
    assert (nothing, scored.weights, scored.examples) == (b"", None, 0)


def test_linear_mode_sends_a_head_and_keeps_every_bit_of_the_backbone(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    plan = plan_of(mode="linear")
    _, blob = hospital.answer(instruction_of(plan, 1), pack(STATE))
    head = unpack(blob, spec_of(select(STATE, "head")))
    assert not same_bits(head, select(STATE, "head"))
    hello = hospital.greet(GREETING)
    assert hello.backbone == fingerprint(pack(select(STATE, "backbone")))
    # With the head alone it goes on exactly as with everything.
    whole = {**STATE, **head}
    _, after_head = hospital.answer(instruction_of(plan, 2, weights="head"), pack(head))
    _, after_all = hospital.answer(instruction_of(plan, 2), pack(whole))
    assert after_head == after_all


def test_a_head_before_any_backbone_is_a_failed_reply(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    instruction = instruction_of(plan_of(mode="linear"), 1, weights="head")
    reply, blob = hospital.answer(instruction, pack(select(STATE, "head")))
    assert (reply.status, reply.reason, blob) == ("failed", "WireError", b"")


def test_a_fault_tells_the_server_its_type_alone_and_the_own_log_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("film 17 is empty")

    caplog.set_level(logging.INFO, "client")
    monkeypatch.setattr("client.computing.train", fail)
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    reply, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
    assert (reply.status, reply.reason) == ("failed", "ValueError")
    assert "ValueError: film 17 is empty" in caplog.text


def test_what_has_to_be_kept_and_cannot_be_ends_the_client_and_is_no_bad_reply(
    tmp_path: Path,
) -> None:
    place = tmp_path / "full"
    place.touch()  # not a folder: nothing can be written in it
    shard = open_shard(make_shard(tmp_path / "a").path)
    kept, account = OwnStates(place / "own"), PrivacyAccount(tmp_path / "gone" / "privacy.json")
    hospital = Hospital("a", shard, torch.device("cpu"), own=kept, privacy=account)
    hospital.greet(GREETING)
    for changes in ({"local": "feddyn", "strategy": "feddyn"}, {"dp": "sample", "dp_noise": 1.0}):
        order = instruction_of(plan_of(**changes), 1)
        with pytest.raises(Unwritable, match="give --state another folder, with all that is in"):
            hospital.answer(order, pack(STATE))


def test_no_message_has_room_for_a_patient(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    hospital = hospital_of(shard.path)
    reply, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
    words = reply.model_dump_json() + hospital.greet(GREETING).model_dump_json()
    for entry in shard.entries:
        assert entry.patient not in words
        assert entry.image not in words


def test_diverged_training_is_told_with_its_rate(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    reply, _ = hospital.answer(instruction_of(plan_of(lr=1e30), 1), pack(STATE))
    assert reply.status == "diverged"
    assert reply.reason == "the training diverged at learning rate 1e+30"


@pytest.mark.parametrize(
    ("size", "changes", "fits"),
    [
        (40, {}, True),
        (40, {"batch_size": 1}, False),
        (40, {"batch_size": 2}, True),
        (40, {"label_fraction": 0.001}, False),
        (40, {"label_fraction": 0.001, "mode": "linear"}, True),
        (80, {"label_fraction": 0.001}, True),
    ],
)
def test_a_hospital_whose_batches_are_too_small_says_so_when_it_is_greeted(
    tmp_path: Path, size: int, changes: dict[str, object], fits: bool
) -> None:
    shard = make_shard(tmp_path / "a", size=size)
    training = plan_of().training.model_copy(update=changes)
    greeting = GREETING.model_copy(update={"training": training})
    if not fits:
        with pytest.raises(BadInput, match=r"a batch would be a single image .* at 40 pixels"):
            hospital_of(shard.path, greeting=greeting)
    hospital = hospital_of(shard.path, greeting=GREETING)
    instruction = instruction_of(replace(plan_of(), training=training), 1)
    reply, _ = hospital.answer(instruction, pack(STATE))
    assert reply.status == ("ok" if fits else "failed"), "the greeting's check agrees with torch"


def test_a_shard_whose_patients_are_all_kept_for_validation_is_refused(tmp_path: Path) -> None:
    held_out = next(seed for seed in range(1000) if not len(make_one(tmp_path, seed).split(5)[0]))
    shard = open_shard(tmp_path / f"one-{held_out}")
    with pytest.raises(BadInput, match="no image is left for training"):
        hospital_of(shard.path)


def make_one(folder: Path, number: int) -> Shard:
    path = folder / f"one-{number}"
    entries = [Entry("i", f"patient-{number}", "train")]
    with create_shard(
        path, entries=entries, labels=np.zeros((1, 14), np.uint8), size=40, source="x"
    ):
        pass
    return open_shard(path)


def test_a_smaller_label_fraction_is_part_of_a_larger_one() -> None:
    indices = np.arange(10, 210)
    parts = [set(labelled_fraction(indices, f, 3, "a")) for f in (0.001, 0.1, 0.5, 1.0)]
    assert [len(part) for part in parts] == [1, 20, 100, 200]
    assert parts[0] < parts[1] < parts[2] < parts[3]
    assert parts[1] != set(labelled_fraction(indices, 0.1, 3, "b"))


@pytest.mark.parametrize(("images", "batch_size"), [(33, 16), (16, 16), (5, 16), (17, 4)])
def test_an_epoch_has_every_image_once_and_no_tiny_batch(
    tmp_path: Path, images: int, batch_size: int
) -> None:
    shard = make_shard(tmp_path / "a", images=images)
    seen = [
        batch.labels
        for batch in batches(
            shard,
            np.arange(images),
            Training(batch_size=batch_size),
            generator(0, "t"),
            torch.device("cpu"),
        )
        if batch.inputs.shape == (len(batch.labels), 3, 35, 35)
    ]
    sizes = [len(labels) for labels in seen]
    assert sum(sizes) == images
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat(seen).sum(0).tolist() == shard.labelled().sum(0).tolist()


def test_images_without_a_known_label_train_nothing_and_are_no_examples(tmp_path: Path) -> None:
    """Neither weights nor BatchNorm nor the order of the others: as if they were not there."""
    idle = range(0, 60, 3)
    whole = make_shard(tmp_path / "whole" / "a", images=60, unknown=0.3, unlabelled=idle)
    rest = [i for i in range(60) if i not in idle]
    with create_shard(
        tmp_path / "rest" / "a", entries=[whole.entries[i] for i in rest],
        labels=whole.labelled()[rest], size=40, source="x",
    ) as images:  # fmt: skip
        images[:] = whole.images[rest]
    instruction = instruction_of(plan_of(local_epochs=2, label_fraction=0.6), 1)
    answers = []
    hellos = []
    for folder in ("whole", "rest"):
        hospital = hospital_of(tmp_path / folder / "a")
        hellos.append(hospital.greet(GREETING))
        reply, weights = hospital.answer(instruction, pack(STATE))
        answers.append((reply.examples, reply.loss, reply.validation, weights))
    assert answers[0] == answers[1]
    assert hellos[0].examples == hellos[1].examples < 40
    assert hellos[0].validation == hellos[1].validation > 0


@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_finding_that_is_unknown_keeps_its_head(tmp_path: Path, mode: Mode) -> None:
    shard = make_shard(tmp_path / "a", unknown=0.3)
    labels = shard.labelled()
    labels[:, 4] = UNKNOWN
    with create_shard(
        tmp_path / "b", entries=shard.entries, labels=labels, size=40, source="x"
    ) as images:
        images[:] = shard.images
    plan = plan_of(mode=mode, local_epochs=3)
    _, blob = hospital_of(tmp_path / "b").answer(instruction_of(plan, 1), pack(STATE))
    trained = unpack(blob, spec_of(select(STATE, "head" if mode == "linear" else "all")))
    for name in ("classifier.weight", "classifier.bias"):
        assert trained[name][4].tobytes() == STATE[name][4].tobytes()
        same = [np.array_equal(a, b) for a, b in zip(trained[name], STATE[name], strict=True)]
        assert same == [finding == 4 for finding in range(14)]


def test_a_shard_of_unknown_labels_alone_does_not_take_part(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "a", unlabelled=range(40)).path
    with pytest.raises(BadInput, match="a: all its labels are unknown"):
        hospital_of(path)


@pytest.mark.parametrize("unknown", [0, 0.5])
def test_the_loss_of_an_epoch_is_the_mean_over_its_known_labels(
    tmp_path: Path, unknown: float
) -> None:
    shard = make_shard(tmp_path / "a", unknown=unknown, unlabelled=range(4) if unknown else ())
    model = build_model("densenet-tiny", 1).eval()
    inputs = to_input(torch.from_numpy(np.array(shard.images)))
    labels = torch.from_numpy(shard.labelled())
    sizes = [4, 20, 9, 7]
    rows = np.split(np.arange(40), np.cumsum(sizes)[:-1])
    epoch = [Batch(inputs[chosen], labels[chosen]) for chosen in rows]
    standing = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        losses = [loss_of(model(batch.inputs), batch.labels) for batch in epoch]
        together = float(loss_of(model(inputs), labels))
    found = train_epoch(model, standing, epoch)
    assert found == pytest.approx(together, rel=1e-6)
    if not unknown:  # in every bit, as a mean over images
        total = torch.zeros(())
        for loss, size in zip(losses, sizes, strict=True):
            total = total + loss * size
        assert found == float(total) / 40


@pytest.mark.parametrize("architecture", ["densenet-tiny", "densenet121"])
def test_one_full_batch_step_of_three_hospitals_is_the_central_step(
    tmp_path: Path, architecture: Architecture
) -> None:
    shards = [open_shard(path) for path in make_hospitals(tmp_path, 3, images=10)]
    initial = state_of(build_model(architecture, 2))
    model = build_model(architecture)

    def step(parts: list[int]) -> tuple[dict[str, np.ndarray], int]:
        load_state(model, initial)
        model.eval()  # BatchNorm by its running statistics, for a batch is not a hospital's own
        images = np.concatenate([shards[i].images for i in parts])
        labels = np.concatenate([shards[i].labelled() for i in parts])
        batch = Batch(to_input(torch.from_numpy(images)), torch.from_numpy(labels))
        train_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), [batch])
        return state_of(model), len(labels)

    federated = weighted_mean(initial, [step([hospital]) for hospital in range(3)])
    central, _ = step([0, 1, 2])
    moved = max(float(np.abs(central[n] - initial[n]).max(initial=0)) for n in initial)
    assert moved > 1e-3
    for name in initial:
        np.testing.assert_allclose(federated[name], central[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_weights_that_are_not_finite_have_diverged_however_they_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    def in_the_last_step(model: torch.nn.Module, *_: object) -> float:
        model.state_dict()["classifier.weight"].fill_(torch.inf)
        return 0.5

    monkeypatch.setattr("client.computing.train", in_the_last_step)
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    reply, blob = hospital.answer(instruction_of(plan_of(wire=wire), 1), pack(STATE))
    assert (reply.status, blob) == ("diverged", b"")
    assert reply.reason == "the training diverged at learning rate 0.05"


@pytest.mark.parametrize("changes", [{"run": "another"}, {"seed": 6}])
def test_an_instruction_of_another_run_or_seed_than_greeted_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    other = instruction_of(plan_of(**changes), 1)
    for task in ("train", "evaluate"):
        order = other.model_copy(update={"task": task})
        reply, blob = hospital.answer(order, pack(STATE))
        assert (reply.status, reply.validation, blob) == ("failed", None, b"")
        assert "another run or seed than was greeted" in reply.reason
    hospital.greet(Greeting(run=other.identity.run, seed=other.seed))
    assert hospital.answer(other, pack(STATE))[0].status == "ok"


@pytest.mark.parametrize("batches", [None, 2])
def test_a_run_of_secure_sums_cannot_ask_for_an_update_in_plain(
    tmp_path: Path, batches: int | None
) -> None:
    greeting = GREETING.model_copy(update={"secure": True})
    hospital = hospital_of(make_shard(tmp_path / "a", images=80).path, greeting=greeting)
    plain = instruction_of(plan_of(), 1, batches=batches)
    settings = SecureSettings(clip=1.0, films=100, total=300, threshold=0.5)
    for secure in (None, settings) if batches else (None,):
        order = plain.model_copy(update={"secure": secure})
        reply, blob = hospital.answer(order, pack(STATE))
        assert (reply.status, blob, reply.loss) == ("failed", b"", None)
        assert "outside of the secure sums" in reply.reason
    scored, _ = hospital.answer(plain.model_copy(update={"task": "evaluate"}), pack(STATE))
    assert scored.status == "ok"


def test_an_instruction_before_any_greeting_is_refused(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    hospital = Hospital("a", shard, torch.device("cpu"))
    reply, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
    assert "another run or seed than was greeted" in reply.reason


def test_work_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    hospital = hospital_of(make_shard(tmp_path / "a").path)
    asked = iter([True, True, False])  # before the scoring and before each step
    instruction = instruction_of(plan_of(batch_size=4), 1)
    reply, weights = hospital.answer(instruction, pack(STATE), Cancellation(lambda: next(asked)))
    assert (reply.status, reply.reason, weights) == ("failed", "GivenUp", b"")
    # The next round starts from the weights that come with it, not from what was left.
    again, _ = hospital.answer(instruction_of(plan_of(), 1), pack(STATE))
    fresh = hospital_of(tmp_path / "a")
    assert again.weights == fresh.answer(instruction_of(plan_of(), 1), pack(STATE))[0].weights


def test_scoring_that_nobody_waits_for_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.evaluation.evaluation_batch", lambda *_: 1)
    hospital = hospital_of(make_shard(tmp_path / "a", images=80).path)
    asked = iter([True, False])
    instruction = instruction_of(plan_of(), 1, task="evaluate")
    reply, _ = hospital.answer(instruction, pack(STATE), Cancellation(lambda: next(asked)))
    assert (reply.status, reply.reason) == ("failed", "GivenUp")
    assert hospital.answer(instruction, pack(STATE))[0].status == "ok"


def test_bf16_ends_near_fp32_and_weights_stay_fp32(tmp_path: Path) -> None:
    """Within a tenth of the way that fp32 goes, and a hundredth of its loss."""
    path = make_shard(tmp_path / "a", images=64).path
    instruction = instruction_of(plan_of(local_epochs=3, batch_size=16), 1)
    before = STATE
    after: dict[Precision, State] = {}
    losses = []
    for precision in ("fp32", "bf16"):
        hospital = hospital_of(path, precision=precision)
        reply, blob = hospital.answer(instruction, pack(before))
        assert reply.status == "ok"
        losses.append(reply.loss)
        after[precision] = unpack(blob, spec_of(before))
    way = norm_of(squared_change(before, after["fp32"]))
    apart = norm_of(squared_change(after["fp32"], after["bf16"]))
    assert 0 < apart < 0.1 * way
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_the_precision_is_the_devices_fastest_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make_shard(tmp_path / "a")
    for fast, found in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("common.model.is_fast_in_bf16", lambda _device, fast=fast: fast)
        automatic = Hospital("a", shard, torch.device("cpu"), precision=None)
        given = Hospital("a", shard, torch.device("cpu"), precision="fp32")
        assert (automatic.precision, given.precision) == (found, "fp32")
