"""Rounds whose updates are summed under masks, with real hospitals that train."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch

from common.checkpoint import read_checkpoint
from common.errors import NoQuorum
from common.message import ProtocolError
from common.protocol import Instruction, Reply
from common.secure.fixed import precision
from common.secure.graph import groups
from common.secure.messages import (
    ConfirmCall,
    Confirmed,
    MaskCall,
    Masked,
    RevealCall,
    Revealed,
    SealedShares,
    SecureAnswer,
    SecureCall,
    ShareCall,
    Shares,
)
from common.state import State, is_float
from common.wire import fingerprint
from server.rounds.ask import HospitalLost
from server.run.records import read_rounds
from server.secure.options import SecureOptions
from tests.support.hospitals import (
    LocalConnection,
    LocalHospitals,
    federate_by_hand,
    plan_of,
    rounds_with,
)
from tests.support.shards import make_hospitals
from tests.support.states import slow_mean

SECURE = SecureOptions(secure_aggregation=True, secure_threshold=0.5)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_hospitals(tmp_path / "data", 4, images=30)


def model_of(folder: Path) -> State:
    return read_checkpoint(folder / "final.pt", "densenet-tiny", 0)[0]


class Faulty(LocalConnection):
    """A hospital that goes away, or lies, at a step of the sum."""

    step: type[Any] = ShareCall
    attempts: tuple[int, ...] = (1,)

    def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
        if isinstance(call, self.step) and call.identity.attempt in self.attempts:
            return self.fail(call, timeout)
        return super().secure(call, timeout)

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        del call, timeout
        raise HospitalLost("its connection was closed")


class CountsReveals(Faulty):
    """A hospital that notes that it has taken masks away in the first attempt."""

    step = RevealCall
    revealed: ClassVar[list[str]] = []

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        self.revealed.append(self.hello.site)
        return LocalConnection.secure(self, call, timeout)


class AnswersGarbage(Faulty):
    """A hospital whose answer cannot be understood."""

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        del call, timeout
        raise ProtocolError("no message of protocol 9")


class AnswersSomethingElse(Faulty):
    """A hospital that does not reveal what it is asked for."""

    step = RevealCall

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        del timeout
        return Confirmed(identity=call.identity, signature=b"")


def hospitals_of(shards: list[Path], faulty: Mapping[str, type[LocalConnection]]) -> LocalHospitals:
    hospitals = LocalHospitals(shards, 5, {}, secure=True)
    for name, kind in faulty.items():
        hospitals.connections[name].__class__ = kind
    return hospitals


def assert_close(after: State, expected: State, slack: float) -> None:
    for name, array in expected.items():
        if is_float(array):
            off = np.abs(after[name].astype(np.float64) - array)
            assert (off <= slack + np.spacing(np.abs(array))).all(), name


def test_the_model_is_the_mean_as_precisely_as_is_said(tmp_path: Path, shards: list[Path]) -> None:
    plan = plan_of(min_clients=4, rounds=1, secure=SECURE, most_films=100)
    rounds_with(plan, hospitals_of(shards, {}), tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.secure is not None
    (summed,) = line.secure
    assert summed.hospitals == [shard.name for shard in shards]
    settings = SECURE.settings(100, 4, [], 1)
    assert settings is not None
    before = federate_by_hand(plan_of(min_clients=4, rounds=0), shards)
    expected, after = federate_by_hand(plan, shards), model_of(tmp_path / "run")
    slack = precision("features.norm0.running_var", 4, summed.films, settings)
    assert slack < 1e-5
    assert_close(after, expected, slack)
    for name, array in after.items():
        if not is_float(array):
            assert array == before[name]


def test_a_line_has_what_is_known_of_all_and_nothing_of_one(
    tmp_path: Path, shards: list[Path]
) -> None:
    plain = plan_of(min_clients=4)
    rounds_with(plain, LocalHospitals(shards, 5, {}), tmp_path / "plain").run()
    plan = plan_of(min_clients=4, secure=SECURE, most_films=100)
    rounds_with(plan, hospitals_of(shards, {}), tmp_path / "run").run()
    for line, other in zip(
        read_rounds(tmp_path / "run"), read_rounds(tmp_path / "plain"), strict=True
    ):
        assert line.secure is not None
        films = sum(part.examples or 0 for part in other.hospitals.values())
        assert [each.films for each in line.secure] == [films]
        assert line.loss == pytest.approx(other.loss, abs=1e-3)
        for name, part in line.hospitals.items():
            assert (part.examples, part.loss, part.update_norm, part.pace) == (None,) * 4
            assert part.auc == pytest.approx(other.hospitals[name].auc, abs=0.05)


@pytest.mark.fault(
    "a hospital is lost between any two steps of a round's secure sum",
    "the round is that of the others, or is repeated with all",
)
@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (ShareCall, Faulty),
        (MaskCall, Faulty),
        (MaskCall, AnswersGarbage),
        (ConfirmCall, Faulty),
        (RevealCall, Faulty),
    ],
)
def test_a_hospital_that_goes_away_costs_its_part_at_most(
    tmp_path: Path, shards: list[Path], step: type[Any], kind: type[Faulty]
) -> None:
    gone = type("Gone", (kind,), {"step": step})
    plan = plan_of(min_clients=4, quorum=0.75, rounds=1, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, {"hospital-01": gone})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.secure is not None
    left = [
        shard
        for shard in shards
        if step in (ConfirmCall, RevealCall) or shard.name != "hospital-01"
    ]
    assert line.secure[0].hospitals == [shard.name for shard in left]
    assert list(line.hospitals) == [shard.name for shard in left]
    assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, left), 1e-5)


def test_too_many_that_go_away_cost_an_attempt(tmp_path: Path, shards: list[Path]) -> None:
    gone = type("Gone", (Faulty,), {"step": RevealCall})
    plan = plan_of(min_clients=4, quorum=0.75, rounds=1, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, dict.fromkeys(["hospital-00", "hospital-01"], gone))
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.attempt == 2
    assert len(line.hospitals) == 4
    assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, shards), 1e-5)


@pytest.mark.parametrize("step", [None, MaskCall])
def test_no_sum_is_unmasked_of_a_round_that_is_repeated(
    tmp_path: Path, shards: list[Path], step: type[Any] | None
) -> None:
    """Or the difference of two sums would be the update of the one that was missing."""
    asked: list[tuple[str, int]] = []

    class Watched(LocalConnection):
        def secure(self, call: SecureCall, timeout: float) -> SecureAnswer:
            asked.append((call.kind, call.identity.attempt))
            return super().secure(call, timeout)

    plan = plan_of(min_clients=4, quorum=1.0, rounds=1, secure=SECURE, most_films=100)
    gone: dict[str, type[LocalConnection]] = dict.fromkeys((s.name for s in shards), Watched)
    if step is not None:
        gone["hospital-01"] = type("Gone", (Faulty,), {"step": step})
    hospitals = hospitals_of(shards, gone)
    if step is None:
        hospitals.connections["hospital-01"]._fault = late_at_first
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.attempt == 2
    assert len(line.hospitals) == 4
    assert {attempt for kind, attempt in asked if kind in ("confirm", "reveal")} == {2}
    assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, shards), 1e-5)


def late_at_first(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
    if instruction.identity.attempt == 1 and instruction.task == "train":
        raise HospitalLost("the line went dead")
    return reply, blob


class SharesAgain(Faulty):
    """Makes other shares when it is to reveal, so that others seem to lie about the old ones."""

    step = RevealCall

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        del timeout
        sealed = SealedShares(box=bytes(48), of_seed=bytes(32), of_key=bytes(32))
        names = [f"hospital-{i:02d}" for i in range(4)]
        return Shares(identity=call.identity, sealed=dict.fromkeys(names, sealed), seed=bytes(32))


def test_a_hospital_cannot_make_liars_of_others(tmp_path: Path, shards: list[Path]) -> None:
    plan = plan_of(min_clients=4, quorum=0.75, rounds=1, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, {"hospital-00": SharesAgain})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert not hospitals.dismissed
    assert line.rejected == {"hospital-00": "answered something else than it was asked"}
    assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, shards), 1e-5)


class LiesAboutItsSecrets(Faulty):
    """Makes shares of something else than it has announced."""

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        attempt = self._hospital.sums._attempt
        assert attempt is not None
        attempt._self_seed = bytes(16)
        answer = LocalConnection.secure(self, call, timeout)
        assert isinstance(answer, Shares)
        return answer.model_copy(update={"seed": bytes(32)})


class LiesAboutShares(Faulty):
    """Reveals other shares than it was given."""

    step = RevealCall

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        answer = LocalConnection.secure(self, call, timeout)
        assert isinstance(answer, Revealed)
        return answer.model_copy(update={"seeds": dict.fromkeys(answer.seeds, bytes(16))})


@pytest.mark.fault(
    "a hospital lies about shares in a secure sum",
    "it is named and excluded at once; the model is right",
)
@pytest.mark.parametrize(
    ("liar", "said"),
    [
        (LiesAboutItsSecrets, "it shared another secret than it announced"),
        (LiesAboutShares, "it revealed other shares than it was given"),
    ],
)
def test_a_hospital_that_lies_is_excluded_and_the_model_is_right(
    tmp_path: Path, shards: list[Path], liar: type[Faulty], said: str
) -> None:
    plan = plan_of(min_clients=4, quorum=0.75, rounds=2, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, {"hospital-01": liar})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    assert list(hospitals.dismissed) == ["hospital-01"]
    left = [shard for shard in shards if shard.name != "hospital-01"]
    first, second = read_rounds(tmp_path / "run")
    excluded = json.loads((tmp_path / "run" / "excluded" / "hospital-01.json").read_text())
    assert excluded["reason"] == said
    assert second.secure is not None
    assert second.secure[0].hospitals == [shard.name for shard in left]
    if liar is LiesAboutItsSecrets:
        assert first.attempt == 2
        assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, left), 1e-4)


class SendsNoise(Faulty):
    """Sends random words in place of its masked update."""

    step = MaskCall
    attempts = (1, 2, 3)

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        answer = LocalConnection.secure(self, call, timeout)
        assert isinstance(answer, Masked)
        blob = np.random.default_rng(1).bytes(len(self._weights))
        self._weights = blob
        return answer.model_copy(update={"weights": fingerprint(blob)})


@pytest.mark.fault(
    "a hospital sends noise in place of its masked update",
    "the sum is none of clipped updates, which is seen; no model comes of it, and the run ends",
)
def test_noise_makes_no_model(tmp_path: Path, shards: list[Path]) -> None:
    plan = plan_of(min_clients=4, rounds=1, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, {"hospital-01": SendsNoise})
    with pytest.raises(NoQuorum, match="fewer than 3 good replies in 3 attempts"):
        rounds_with(plan, hospitals, tmp_path / "run").run()
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    assert "there is no secure sum: " in (tmp_path / "run" / "events.jsonl").read_text()


def test_the_median_of_groups_withstands_a_poisoner(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 9, images=20)
    options = SECURE.model_copy(update={"secure_groups": 3})
    changes = {"min_clients": 9, "quorum": 1.0, "rounds": 1, "strategy": "median"}
    plan = plan_of(**changes, secure=options, most_films=100)
    hospitals = hospitals_of(shards, {})
    poisoner = hospitals.connections["hospital-04"]._hospital
    computing = poisoner._computing
    train = computing.train

    def poison(model: torch.nn.Module, *rest: Any) -> float | None:
        loss = train(model, *rest)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1000.0)
        return loss

    with patch.object(computing, "train", poison):
        rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.secure is not None
    drawn = groups([shard.name for shard in shards], 3, plan.seed, 1)
    assert [each.hospitals for each in line.secure] == drawn
    assert max(each.norm for each in line.secure) < 10.0

    def middle(replies: list[tuple[State, int]]) -> State:
        by_name = dict(zip([shard.name for shard in shards], replies, strict=True))
        means = [slow_mean([by_name[name] for name in group]) for group in drawn]
        return {n: np.median([mean[n] for mean in means], axis=0) for n in means[0]}

    honest = federate_by_hand(plan, shards, mean=middle)
    before = federate_by_hand(plan_of(**{**changes, "rounds": 0}), shards)
    after = model_of(tmp_path / "run")
    name = "features.conv0.weight"
    moved = np.abs(honest[name] - before[name]).max()
    assert np.abs(after[name] - honest[name]).max() < 2 * moved


@pytest.mark.parametrize(
    ("step", "gone", "said"),
    [
        (MaskCall, 1, "8 masked updates have come, and 9 are needed"),
        (ConfirmCall, 2, "there is no secure sum: 1 of 3 hospitals have confirmed who is in"),
        (RevealCall, 2, "1 shares of a secret of hospital-0"),
    ],
)
def test_fewer_sums_than_groups_cost_an_attempt(
    tmp_path: Path, step: type[Any], gone: int, said: str
) -> None:
    """Or the median would be that of two sums; and no other sum of the attempt is unmasked."""
    shards = make_hospitals(tmp_path / "data", 9, images=20)
    options = SECURE.model_copy(update={"secure_groups": 3})
    changes = {"min_clients": 9, "quorum": 1.0, "rounds": 1, "strategy": "median"}
    plan = plan_of(**changes, secure=options, most_films=100)
    group = groups([shard.name for shard in shards], 3, plan.seed, 1)[0]
    faulty: dict[str, type[LocalConnection]] = dict.fromkeys(
        (shard.name for shard in shards if shard.name not in group[:gone]), CountsReveals
    )
    faulty |= dict.fromkeys(group[:gone], type("Gone", (Faulty,), {"step": step}))
    CountsReveals.revealed = []
    rounds_with(plan, hospitals_of(shards, faulty), tmp_path / "run").run()
    assert set(CountsReveals.revealed) <= set(group)
    (line,) = read_rounds(tmp_path / "run")
    assert line.attempt == 2
    assert line.secure is not None
    assert len(line.secure) == 3
    assert said in (tmp_path / "run" / "events.jsonl").read_text()


def test_a_sum_that_is_right_counts_whoever_fails_at_its_end(
    tmp_path: Path, shards: list[Path]
) -> None:
    """It is known to the server, and a repetition would tell it another one of the same model."""
    plan = plan_of(min_clients=4, quorum=1.0, rounds=1, secure=SECURE, most_films=100)
    faulty = {"hospital-01": AnswersSomethingElse}
    rounds_with(plan, hospitals_of(shards, faulty), tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.attempt == 1
    assert line.secure is not None
    assert line.secure[0].hospitals == [shard.name for shard in shards]
    assert line.rejected == {"hospital-01": "answered something else than it was asked"}


def test_with_noise_of_its_own_a_hospital_tells_no_loss_in_a_sum_either(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3, images=20)
    plan = plan_of(
        min_clients=3,
        quorum=1.0,
        rounds=1,
        secure=SECURE,
        most_films=100,
        dp="sample",
        mode="linear",
    )
    hospitals = LocalHospitals(shards, 5, {}, tmp_path / "own")
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.secure is not None
    assert (line.loss, line.secure[0].loss) == (None, None)
    assert all(part.privacy is not None for part in line.hospitals.values())


class SpoilsItsShares(Faulty):
    """Makes shares that the others cannot open."""

    spoilt: tuple[str, ...] = ("hospital-00", "hospital-02", "hospital-03")
    attempts: tuple[int, ...] = (1, 2, 3)

    def fail(self, call: SecureCall, timeout: float) -> SecureAnswer:
        answer = LocalConnection.secure(self, call, timeout)
        assert isinstance(answer, Shares)
        sealed = {
            name: each.model_copy(update={"box": bytes(48)}) if name in self.spoilt else each
            for name, each in answer.sealed.items()
        }
        return answer.model_copy(update={"sealed": sealed})


class SpoilsOneShare(SpoilsItsShares):
    """Makes a share that one other cannot open."""

    spoilt = ("hospital-00",)


@pytest.mark.parametrize("liar", [SpoilsItsShares, SpoilsOneShare])
def test_shares_that_cannot_be_opened_are_the_fault_of_whom_most_name(
    tmp_path: Path, shards: list[Path], liar: type[Faulty]
) -> None:
    plan = plan_of(min_clients=4, quorum=0.75, rounds=1, secure=SECURE, most_films=100)
    hospitals = hospitals_of(shards, {"hospital-01": liar})
    rounds_with(plan, hospitals, tmp_path / "run").run()
    (line,) = read_rounds(tmp_path / "run")
    assert line.secure is not None
    alone = liar is SpoilsOneShare
    assert list(hospitals.dismissed) == ([] if alone else ["hospital-01"])
    out = "hospital-00" if alone else "hospital-01"
    left = [shard for shard in shards if shard.name != out]
    assert line.secure[0].hospitals == [shard.name for shard in left]
    assert_close(model_of(tmp_path / "run"), federate_by_hand(plan, left), 1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"mode": "linear"}, {"shared": "no-batchnorm"}, {"strategy": "fedadam"}, {"local": "fedprox"}],
)
def test_what_else_a_run_does_comes_out_as_it_does_without(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    shards = make_hospitals(tmp_path / "data", 3, images=20)
    models = []
    for name, secure in (("plain", {}), ("secure", {"secure": SECURE, "most_films": 100})):
        plan = plan_of(min_clients=3, quorum=1.0, **changes, **secure)
        folder, hospitals = tmp_path / name, LocalHospitals(shards, 5, {}, tmp_path / name)
        rounds_with(plan, hospitals, folder / "run").run()
        last = folder / "run" / "checkpoints" / "round-0002.pt"
        models.append(read_checkpoint(last, "densenet-tiny", 0)[0])
    plain, summed = models
    assert_close(summed, plain, 1e-4)
    before = federate_by_hand(plan_of(rounds=0), shards)
    assert any((summed[name] != before[name]).any() for name in before)
