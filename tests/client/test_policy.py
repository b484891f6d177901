import json
from pathlib import Path

import numpy as np
import pytest
import torch

from client.hospital import Hospital
from client.policy import Policy, read_policy
from common.errors import BadInput
from common.evaluation import predict
from common.findings import FINDINGS, UNKNOWN
from common.histograms import Histograms, histograms_of
from common.model import build_model, load_state
from common.scores import Scores
from common.shard import create_shard
from common.state import spec_of
from common.wire import pack, unpack
from tests.support.histograms import same_counts
from tests.support.hospitals import GREETING, STATE, hospital_of, instruction_of, plan_of
from tests.support.shards import make_shard

BLOB = pack(STATE)
SPEC = spec_of(STATE)


def hospital_with(path: Path, **limits: object) -> Hospital:
    return hospital_of(path, policy=Policy.model_validate(limits))


@pytest.mark.parametrize(
    ("limits", "changes", "why"),
    [
        ({"modes": ["linear"]}, {}, "mode finetune is not allowed here"),
        ({"max_local_epochs": 2}, {"local_epochs": 3}, "3 local epochs are more than the 2"),
        ({"max_examples": 5}, {}, "training on more than 5 images is not allowed here"),
        ({"min_group": 5}, {"label_fraction": 1e-9}, "training on fewer than 5 images"),
        (
            {"min_group": 5},
            {"label_fraction": 1e-9, "mode": "linear"},
            "training on fewer than 5 images",
        ),
    ],
)
def test_what_a_site_does_not_allow_is_answered_by_a_reason(
    tmp_path: Path, limits: dict[str, object], changes: dict[str, object], why: str
) -> None:
    hospital = hospital_with(make_shard(tmp_path / "a").path, **limits)
    reply, weights = hospital.answer(instruction_of(plan_of(**changes), 1), BLOB)
    assert (reply.status, weights, reply.weights) == ("failed", b"", None)
    assert why in reply.reason


def test_the_progress_tells_nothing_of_a_validation_that_is_withheld(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    _, validation = shard.split(plan_of().seed)
    for limit, phases in (
        (len(validation), {"scoring", "training"}),
        (len(validation) + 1, {"training"}),
    ):
        told: list[str] = []
        hospital_with(shard.path, min_group=limit).answer(
            instruction_of(plan_of(), 1),
            BLOB,
            tell=lambda phase, _share: told.append(phase),  # noqa: B023
        )
        assert set(told) == phases


def test_fewer_images_than_a_group_may_be_scored_with_but_not_trained_on(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    training, _ = shard.split(plan_of().seed)
    hospital = hospital_with(shard.path, min_group=10)
    for count, allowed in ((9, False), (10, True)):
        plan = plan_of(label_fraction=count / len(training) - 1e-9)
        assert hospital.answer(instruction_of(plan, 1), BLOB)[0].status == (
            "ok" if allowed else "failed"
        )
        score = instruction_of(plan, 1, task="evaluate")
        assert hospital.answer(score, BLOB)[0].status == "ok"


def test_within_its_limits_a_hospital_does_what_it_does_without_any(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "a").path
    bounded = hospital_with(path, max_local_epochs=1, max_examples=1000, modes=["finetune"])
    instruction = instruction_of(plan_of(), 1)
    assert bounded.answer(instruction, BLOB)[1] == hospital_of(path).answer(instruction, BLOB)[1]


def test_no_number_about_a_small_group_is_reported(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=80)
    instruction = instruction_of(plan_of(), 1, task="evaluate")
    _, validation = shard.split(instruction.seed)
    counts = shard.labelled()[validation].sum(axis=0)
    limit = int(sorted(counts)[7])
    everything = hospital_of(shard.path).answer(instruction, BLOB)[0].validation
    fewer = hospital_with(shard.path, min_group=limit).answer(instruction, BLOB)[0].validation
    assert everything is not None
    assert fewer is not None
    for finding, count in zip(FINDINGS, counts, strict=True):
        told = min(count, len(validation) - count) >= limit
        expected = everything.auc_by_finding[finding] if told else None
        assert fewer.auc_by_finding[finding] == expected
    assert 0 < sum(auc is None for auc in fewer.auc_by_finding.values()) < 14
    hidden = hospital_with(shard.path, min_group=len(validation) + 1)
    nothing = hidden.answer(instruction, BLOB)[0].validation
    assert nothing is not None
    assert (nothing.images, nothing.loss, nothing.auc) == (0, None, None)


def test_a_finding_that_is_known_in_a_small_group_is_not_trained(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=60)
    labels = shard.labelled()
    training, _ = shard.split(GREETING.seed)
    labels[:, 4] = labels[:, 7] = UNKNOWN
    labels[training[:4], 4] = labels[training[:5], 7] = 1
    labels[training[0]] = UNKNOWN
    labels[training[0], 4] = 1  # all that is known of it
    labels[training[5], 7] = 1
    with create_shard(tmp_path / "b", entries=shard.entries, labels=labels, size=40, source="x"):
        pass
    instruction = instruction_of(plan_of(), 1)
    for limit, kept, examples in ((1, [], len(training)), (5, [4], len(training) - 1)):
        hospital = hospital_with(tmp_path / "b", min_group=limit)
        reply, blob = hospital.answer(instruction, BLOB)
        assert reply.examples == examples
        trained, before = (unpack(b, SPEC)["classifier.bias"] for b in (blob, BLOB))
        assert np.flatnonzero(trained == before).tolist() == kept


def test_unknown_labels_are_in_no_group(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=160, unknown=0.5)
    labels = shard.labelled()
    labels[labels != UNKNOWN] ^= 1  # fewer are known to be negative than are positive
    with create_shard(tmp_path / "b", entries=shard.entries, labels=labels, size=40, source="x"):
        pass
    instruction = instruction_of(plan_of(), 1, task="evaluate")
    labels = labels[shard.split(instruction.seed)[1]]
    least = [min((column == 1).sum(), (column == 0).sum()) for column in labels.T]
    limit = int(sorted(least)[7])
    everything = hospital_of(tmp_path / "b").answer(instruction, BLOB)[0].validation
    fewer = hospital_with(tmp_path / "b", min_group=limit).answer(instruction, BLOB)[0].validation
    assert everything is not None
    assert fewer is not None
    for finding, count in zip(FINDINGS, least, strict=True):
        expected = everything.auc_by_finding[finding] if count >= limit else None
        assert fewer.auc_by_finding[finding] == expected
    assert 0 < sum(auc is None for auc in fewer.auc_by_finding.values()) < 14


@pytest.mark.parametrize(
    ("positives", "negatives", "told"),
    [(4, 16, False), (5, 15, True), (15, 5, True), (16, 4, False), (10, 4, False)],
)
def test_few_films_without_a_finding_are_a_small_group_too(
    positives: int, negatives: int, told: bool
) -> None:
    by_finding = dict.fromkeys(FINDINGS, 0.5)
    scores = Scores(images=20, loss=0.3, auc=0.5, auc_by_finding=by_finding)
    counts = (dict.fromkeys(FINDINGS, positives), dict.fromkeys(FINDINGS, negatives))
    reported = Policy(min_group=5).reported(scores, *counts)
    assert reported.auc_by_finding["Mass"] == (0.5 if told else None)


def test_histograms_are_told_as_far_as_the_policy_allows(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=160, unknown=0.1)
    instruction = instruction_of(plan_of(), 1)
    validation = shard.split(instruction.seed)[1]
    labels = shard.labelled()[validation]

    def told(**limits: object) -> Histograms | None:
        reply, _ = hospital_with(shard.path, **limits).answer(instruction, BLOB)
        assert reply.validation is not None
        return None if reply.histograms is None else Histograms.from_text(reply.histograms)

    model = build_model("densenet-tiny")
    load_state(model, STATE)
    logits = predict(model, shard, validation, torch.device("cpu")).numpy()
    whole, some = told(), told(min_group=3)
    assert whole is not None
    assert same_counts(whole, histograms_of(labels, logits))
    assert some is not None
    for row, column in enumerate(labels.T):
        enough = min((column == 1).sum(), (column == 0).sum()) >= 6
        for counts in (some.positives[row], some.negatives[row]):
            assert counts.any() == enough
            assert not np.isin(counts, [1, 2]).any()
    assert 0 < some.positives.any(axis=1).sum() < 14
    assert told(histograms=False) is None
    assert told(min_group=len(validation) + 1) is None
    assert told(min_group=len(validation)) is None  # of one group there is nothing to tell


def test_a_model_that_has_diverged_has_no_histograms(tmp_path: Path) -> None:
    spoilt = {**STATE, "classifier.bias": np.full_like(STATE["classifier.bias"], np.nan)}
    instruction = instruction_of(plan_of(), 1, task="evaluate")
    reply, _ = hospital_with(make_shard(tmp_path / "a").path).answer(instruction, pack(spoilt))
    assert (reply.status, reply.histograms) == ("ok", None)


def test_a_shard_below_the_smallest_group_does_not_take_part(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "a").path
    with pytest.raises(BadInput, match="fewer than min_group 100"):
        hospital_with(path, min_group=100)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{", "no JSON"),
        ("[" * 200_000, "no JSON"),
        (json.dumps({"max_epochs": 3}), "max_epochs: Extra inputs"),
        (json.dumps({"min_group": 0}), "min_group: Input should be greater"),
    ],
)
def test_a_bad_policy_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=why):
        read_policy(path)


def test_the_policy_of_a_kit_can_be_read() -> None:
    kit = Path(__file__).parents[2] / "server" / "provision" / "kit" / "policy.json"
    policy = read_policy(kit)
    assert (policy.max_local_epochs, policy.min_group) == (5, 5)
    assert read_policy(None) == Policy()


def test_a_site_may_forbid_a_task(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "a").path
    for allowed, other in (("train", "evaluate"), ("evaluate", "train")):
        # Limits of training do not count for scoring.
        limits = {"modes": ["linear"], "max_examples": 1} if allowed == "evaluate" else {}
        hospital = hospital_with(path, tasks=[allowed], **limits)
        assert hospital.answer(instruction_of(plan_of(), 1, task=allowed), BLOB)[0].status == "ok"
        reply, weights = hospital.answer(instruction_of(plan_of(), 1, task=other), BLOB)
        assert reply.reason == f"against the site's policy: to {other} is not allowed here"
        assert weights == b""
    # A canary is training, whatever it is called.
    trial = instruction_of(plan_of(), 1, task="evaluate", batches=3)
    scored, _ = hospital_with(path, tasks=["evaluate"]).answer(trial, BLOB)
    assert (scored.examples, scored.loss) == (0, None)


def test_a_canary_trains_on_no_fewer_films_than_a_group(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=60)
    labels = shard.labelled()
    training, _ = shard.split(GREETING.seed)
    labels[:, 4] = UNKNOWN
    labels[training[:7], 4] = 1  # in the round enough, in a canary too few
    with create_shard(tmp_path / "b", entries=shard.entries, labels=labels, size=40, source="x"):
        pass
    canary = instruction_of(plan_of(batch_size=2), 0, batches=3)
    for limit, examples in ((1, 6), (7, 8), (len(training), len(training))):
        reply, _ = hospital_with(tmp_path / "b", min_group=limit).answer(canary, BLOB)
        assert (reply.status, reply.examples) == ("ok", examples)
    reply, _ = hospital_with(tmp_path / "b", max_examples=20).answer(canary, BLOB)
    assert "training on more than 20 images is not allowed here" in reply.reason
