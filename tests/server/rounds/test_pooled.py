"""The AUC of all hospitals' films together, from a real federation in this process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import read_checkpoint
from common.evaluation import predict
from common.findings import FINDINGS
from common.histograms import Histograms
from common.metrics import auc_by_finding
from common.model import build_model, load_state, state_of
from common.protocol import Instruction, Reply
from common.readings import FindingAuc, Pooled, aucs_of
from common.scores import AucByFinding, mean_auc
from common.shard import Shard, open_shard
from common.state import State
from server.run.histograms import read_histograms
from server.run.records import read_rounds
from tests.support.hospitals import Fault, plan_of, rounds_of
from tests.support.shards import make_hospitals, make_shard

PLAN = plan_of(rounds=2)


def by_hand(state: State, shards: list[Shard]) -> AucByFinding:
    """Return the AUC of the logits of all validation films."""
    model = build_model("densenet-tiny")
    load_state(model, state)
    labels, logits = [], []
    for shard in shards:
        chosen = shard.split(PLAN.seed)[1]
        labels.append(shard.labelled()[chosen])
        logits.append(predict(model, shard, chosen, torch.device("cpu")).numpy())
    return auc_by_finding(np.concatenate(labels), np.concatenate(logits))


def assert_near(told: dict[str, FindingAuc], expected: AucByFinding) -> None:
    for finding in FINDINGS:
        found, auc = told[finding], expected[finding]
        assert (found.auc is None) == (auc is None)
        if found.auc is not None and auc is not None and found.bound is not None:
            assert abs(found.auc - auc) <= found.bound + 1e-9


def test_the_pooled_auc_of_each_round_is_that_of_all_films(tmp_path: Path) -> None:
    shards = [
        make_shard(tmp_path / f"hospital-{i:02d}", 80 + 20 * i, seed=i, unknown=0.1 * i)
        for i in range(3)
    ]
    folder = tmp_path / "run"
    result = rounds_of(PLAN, [shard.path for shard in shards], folder).run()

    states = [state_of(build_model(PLAN.architecture, PLAN.seed))]
    for number in (1, 2):
        checkpoint = folder / "checkpoints" / f"round-{number:04d}.pt"
        states.append(read_checkpoint(checkpoint, PLAN.architecture, 0)[0])
    records = read_rounds(folder)
    told = [records[0].pooled, records[1].pooled, result.pooled]
    for number, (state, pooled) in enumerate(zip(states, told, strict=True), start=1):
        assert pooled is not None
        assert_near(pooled.by_finding, by_hand(state, shards))
        aucs = {finding: of.auc for finding, of in pooled.by_finding.items()}
        assert pooled.auc == pytest.approx(mean_auc(aucs))
        kept = read_histograms(folder, number)
        assert list(kept) == [shard.path.name for shard in shards]
        for shard in shards:
            own = aucs_of(kept[shard.path.name])
            assert_near(own, by_hand(state, [shard]))
            if number <= 2:
                assert records[number - 1].hospitals[shard.path.name].auc_intervals == own
    assert read_histograms(folder, 4) == {}


@pytest.mark.fault(
    "a reply's histograms count more films than its scores are of",
    "it is rejected; the films of the others alone are pooled",
)
def test_forged_histograms_cost_a_hospital_its_round(tmp_path: Path) -> None:
    def forging(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        del instruction
        assert reply.histograms is not None
        counts = Histograms.from_text(reply.histograms)
        more = Histograms(counts.positives * 1000, counts.negatives).to_text()
        return reply.model_copy(update={"histograms": more}), blob

    def silent(instruction: Instruction, reply: Reply, blob: bytes) -> tuple[Reply, bytes]:
        del instruction
        return reply.model_copy(update={"histograms": None}), blob

    shards = make_hospitals(tmp_path / "data", 3, images=80)
    faults: dict[str, Fault] = {"hospital-01": forging, "hospital-02": silent}
    folder = tmp_path / "run"
    result = rounds_of(PLAN, shards, folder, faults).run()
    for number, record in enumerate(read_rounds(folder), start=1):
        assert list(record.hospitals) == ["hospital-00", "hospital-02"]
        assert "its histograms are of" in record.rejected["hospital-01"]
        assert record.hospitals["hospital-02"].auc_intervals is None
        assert list(read_histograms(folder, number)) == ["hospital-00"]
    assert isinstance(result.pooled, Pooled)
    state, _ = read_checkpoint(folder / "final.pt", "densenet-tiny", 0)
    assert_near(result.pooled.by_finding, by_hand(state, [open_shard(shards[0])]))
