"""Models that a server shares are kept whole, under the hash that it announced, or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from client import kept as kept_module
from client.hospital import Hospital
from client.kept import Interval, KeptModels, own_scores, read_own_scores
from client.state import ClientState
from common.accounting import Privacy
from common.bootstrap import Films
from common.checkpoint import read_checkpoint
from common.findings import FINDINGS, UNKNOWN
from common.protocol import Greeting, Instruction, Keep
from common.readings import FEW
from common.shard import open_shard
from common.wire import fingerprint, pack
from tests.support.hospitals import GREETING, STATE, instruction_of, plan_of
from tests.support.shards import make_shard
from tests.support.states import same_bits

BLOB = pack(STATE)
CPU = torch.device("cpu")


def offer(model: str = "final", run: str = "test", **changes: object) -> Instruction:
    keep = {"model": model, "round": 2, "strategy": "median", "sha256": fingerprint(BLOB)}
    identity = {"run": run, "round": 3, "attempt": 1}
    order = instruction_of(plan_of(), 3, task="evaluate", keep={**keep, **changes})
    return order.model_copy(update={"identity": order.identity.model_copy(update=identity)})


def hospital_with(tmp_path: Path, run: str = "test", place: str | None = "state") -> Hospital:
    shard = make_shard(tmp_path / "a", images=120).path
    state = ClientState(tmp_path / place if place is not None else None)
    hospital = Hospital("a", open_shard(shard), CPU, kept=KeptModels(state, 40))
    hospital.greet(Greeting(run=run, seed=GREETING.seed))
    return hospital


def noted(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "state" / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_model_is_kept_with_its_origin_and_with_the_own_scores_that_the_server_got(
    tmp_path: Path,
) -> None:
    hospital = hospital_with(tmp_path)
    privacy = Privacy(dp="site", clip=1, noise=2, epsilon=3, delta=1e-5)
    reply, _ = hospital.answer(offer(privacy=privacy), BLOB)
    assert reply.kept
    folder = tmp_path / "state" / "models" / "test"
    state, provenance = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert same_bits(state, STATE)
    assert provenance is not None
    assert (provenance.method, provenance.run, provenance.round) == ("median", "test", 2)
    assert provenance.privacy == privacy
    assert provenance.settings == {"image_size": 40}
    scores = read_own_scores(folder, "final")
    assert scores is not None
    assert reply.validation is not None
    assert (scores.films, scores.round) == (reply.validation.images, 2)
    for finding in FINDINGS:
        own, told = scores.auc_by_finding[finding], reply.validation.auc_by_finding[finding]
        assert (own is None) == (told is None)
        assert own is None or own.auc == pytest.approx(told)
    (line,) = noted(tmp_path)
    assert (line["event"], line["run"], line["keep"]["model"]) == ("kept", "test", "final")


def test_no_model_is_kept_that_was_not_offered_or_is_to_be_trained(tmp_path: Path) -> None:
    hospital = hospital_with(tmp_path)
    for changes in ({"keep": None}, {"task": "train"}):
        reply, _ = hospital.answer(offer().model_copy(update=changes), BLOB)
        assert (reply.status, reply.kept) == ("ok", False)
    assert not (tmp_path / "state" / "models").exists()


def test_another_hash_is_told_and_nothing_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = hospital_with(tmp_path)
    reply, _ = hospital.answer(offer(sha256="0" * 64), BLOB)
    assert (reply.status, reply.kept) == ("ok", False)
    assert "the final model of run test is not kept: it does not have the hash" in caplog.text
    assert not (tmp_path / "state" / "models").exists()
    assert [line["event"] for line in noted(tmp_path)] == ["not kept"]


@pytest.mark.parametrize("run", ["..", "../elsewhere", "/elsewhere", "a/b", ".hidden", "-", "a b"])
def test_a_run_whose_name_leads_elsewhere_is_not_kept(tmp_path: Path, run: str) -> None:
    before = sorted(tmp_path.rglob("*.pt"))
    hospital = hospital_with(tmp_path, run)
    reply, _ = hospital.answer(offer(run=run), BLOB)
    assert (reply.status, reply.kept) == ("ok", False)
    assert sorted(tmp_path.rglob("*.pt")) == before
    assert not (tmp_path / "state" / "models").exists()


@pytest.mark.parametrize("step", ["write_checkpoint", "write_json"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("film 7")])
def test_what_cannot_be_written_costs_no_reply_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    step: str,
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(kept_module, step, failing)
    reply, _ = hospital_with(tmp_path).answer(offer(), BLOB)
    assert (reply.status, reply.kept) == ("ok", False)
    assert reply.validation is not None
    assert list((tmp_path / "state" / "models" / "test").iterdir()) == []
    assert "film 7" not in caplog.text
    assert ("No space left" in caplog.text) == isinstance(error, OSError)


def test_a_model_that_cannot_be_written_leaves_those_of_the_first_end_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = hospital_with(tmp_path)
    for model in ("final", "best"):
        hospital.answer(offer(model), BLOB)
    folder = tmp_path / "state" / "models" / "test"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_module, "write_checkpoint", failing)
    reply, _ = hospital.answer(offer(round=5), BLOB)
    assert not reply.kept
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_without_a_place_the_offer_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hospital = hospital_with(tmp_path, place=None)
    reply, _ = hospital.answer(offer("best"), BLOB)
    assert not reply.kept
    assert sum("shares the best model" in message for message in caplog.messages) == 1
    assert "--state" in caplog.messages[-1]
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_that_went_on_has_no_best_model_of_its_first_end(tmp_path: Path) -> None:
    hospital = hospital_with(tmp_path)
    for model in ("final", "best"):
        hospital.answer(offer(model), BLOB)
    folder = tmp_path / "state" / "models" / "test"
    assert (folder / "best.pt").exists()
    hospital.answer(offer(round=5), BLOB)
    assert {file.name for file in folder.iterdir()} == {"final.pt", "final.json"}


def test_what_a_killed_client_left_half_written_is_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models" / "test"
    folder.mkdir(parents=True)
    whole = [folder / "final.pt", folder / "notes.txt", tmp_path / "models" / "notes.txt"]
    half = [folder / f".{name}.1-2.tmp" for name in (*kept_module.FILES, "new-best.pt")]
    half.append(folder / "new-final.pt")
    for file in (*whole, *half):
        file.write_text("")
    KeptModels(ClientState(tmp_path), 40)
    assert all(file.exists() for file in whole)
    assert not any(file.exists() for file in half)


def test_own_scores_have_an_interval_over_patients_where_there_are_films_enough() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 14)) < 0.3).astype(np.uint8)
    labels[:, 0] = 0
    labels[:, 1] = [*[1] * (FEW - 1), *[0] * (200 - FEW + 1)]
    labels[:, 2] = [*[0] * (FEW - 1), *[1] * (200 - FEW + 1)]
    labels[:, 3] = [*[1] * FEW, *[0] * (200 - FEW)]
    logits = (labels + rng.normal(size=labels.shape)).astype(np.float32)
    films = Films(labels, [str(i // 4) for i in range(200)])
    keep = Keep(model="final", round=1, strategy="fedavg", sha256="0" * 64)
    found = own_scores(keep, films, logits, seed=3)
    assert (found.films, found.patients) == (200, 50)
    assert found == own_scores(keep, films, logits, seed=3)
    for i, finding in enumerate(FINDINGS):
        own = found.auc_by_finding[finding]
        assert found.positives[finding] == labels[:, i].sum()
        if i == 0:
            assert own is None
            continue
        assert own is not None
        assert own.auc == pytest.approx(roc_auc_score(labels[:, i], logits[:, i]))
        assert (own.low is None) == (i in (1, 2))
        if own.low is not None and own.high is not None:
            assert own.low < own.auc < own.high
    # Of four films of one patient that are alike the interval is as wide as of one.
    alike = np.repeat(logits[::4], 4, axis=0), np.repeat(labels[::4], 4, axis=0)
    wide = own_scores(keep, Films(alike[1], films.patients), alike[0], 3).auc_by_finding["Mass"]
    one = own_scores(keep, Films(labels[::4], films.patients[::4]), logits[::4], 3)
    assert wide == one.auc_by_finding["Mass"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_has_diverged_or_has_no_films_has_no_scores(value: float) -> None:
    keep = Keep(model="final", round=1, strategy="fedavg", sha256="0" * 64)
    labels = np.tile(np.array([0, 1], np.uint8), (10, 7))
    diverged = own_scores(keep, Films(labels, list("abcdefghij")), np.full((10, 14), value), 0)
    assert set(diverged.auc_by_finding.values()) == {None}
    nothing = own_scores(keep, Films(labels[:0], []), np.zeros((0, 14), np.float32), 0)
    assert (nothing.films, set(nothing.auc_by_finding.values())) == (0, {None})


def test_labels_that_are_unknown_count_neither_as_films_with_a_finding_nor_as_others() -> None:
    labels = np.full((12, 14), UNKNOWN, np.uint8)
    labels[:6, 0], labels[6:, 0] = 1, 0
    labels[:6, 1], labels[6:9, 1] = 1, 0
    logits = np.zeros((12, 14), np.float32)
    logits[:6, :2] = 1
    keep = Keep(model="final", round=1, strategy="fedavg", sha256="0" * 64)
    found = own_scores(keep, Films(labels, list("abcdefghijkl")), logits, 0)
    assert list(found.positives.values()) == [6, 6, *[0] * 12]
    assert list((found.negatives or {}).values()) == [6, 3, *[0] * 12]
    first, second, *others = found.auc_by_finding.values()
    assert first == Interval(auc=1, low=1, high=1)
    assert second == Interval(auc=1, low=None, high=None)  # three films are known to be without
    assert set(others) == {None}
