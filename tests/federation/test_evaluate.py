"""Given models, scored at all hospitals: real processes."""

import csv
import json
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import torch
from sklearn.metrics import roc_auc_score

from common.audit import verify
from common.checkpoint import write_checkpoint
from common.evaluation import predict
from common.findings import FINDINGS
from common.model import build_model, load_state, state_of
from common.provenance import Provenance
from common.readings import FindingAuc
from common.shard import Shard, open_shard
from common.state import State
from experiments.launch.local import EVALUATE
from server.evaluate.records import read_scored
from server.evaluate.table import Kind, Row, Table
from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import SEED, events_of, log_of, status_of
from tests.support.shards import make_hospitals, make_shard
from tests.support.waiting import wait_until


def model_in(path: Path, seed: int, run: str | None = "r") -> State:
    """Write a checkpoint of a federated run."""
    state = state_of(build_model("densenet-tiny", seed))
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(
        path, state, "densenet-tiny", Provenance(method="fedavg", run=run, round=3, seed=SEED)
    )
    return state


def options(run: Path, clients: int, *models: Path, **changes: object) -> list[str]:
    chosen = {
        "run": run,
        "min-clients": clients,
        "architecture": "densenet-tiny",
        "image-size": 40,
        "round-timeout": 60,
        **changes,
    }
    named = [text for name, value in chosen.items() for text in (f"--{name}", str(value))]
    return [*map(str, models), *named]


def logits_of(state: State, shard: Shard, films: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Return a model's logits, computed here."""
    model = build_model("densenet-tiny")
    load_state(model, state)
    return predict(model, shard, films, torch.device("cpu")).numpy()


def test_models_are_scored_at_all_hospitals_on_the_films_kept_from_training(
    tmp_path: Path, federation: FaultyFederation
) -> None:
    shards = make_hospitals(tmp_path / "data", 3, images=240)
    states = [
        model_in(tmp_path / "first" / "final.pt", 1),
        state_of(build_model("densenet-tiny", 2)),
    ]
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(states[1], other)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"tasks": ["train"]}))
    test = make_shard(tmp_path / "test", images=40, seed=9)
    run, out = tmp_path / "run", tmp_path / "table.csv"
    federation.start_server(
        options(run, 3, tmp_path / "first", other, out=out, head="keep", test=test.path),
        code=EVALUATE,
    )
    for shard in shards[:2]:
        federation.start_client(shard)
    federation.start_client(shards[2], ["--policy", str(policy)])
    assert set(federation.wait(120).values()) == {0}
    assert status_of(run)["state"] == "finished"
    verify(run / "audit.jsonl")

    table = Table.model_validate_json((run / "table.json").read_text())
    assert table.seed == SEED
    assert [model.file for model in table.models] == [
        str(tmp_path / "first" / "final.pt"),
        str(other),
    ]
    rows = {(row.kind, row.model, row.hospital, row.finding): row for row in table.rows}
    pooled: dict[int, list[float]] = {}
    for number, (model, state) in enumerate(zip(table.models, states, strict=True), start=1):
        assert model.hospitals == ["hospital-00", "hospital-01"]
        assert "to evaluate is not allowed here" in model.rejected["hospital-02"]
        told, truth = [], []
        for path in shards[:2]:
            films = open_shard(path)
            kept = films.split(SEED)[1]
            told.append(logits_of(state, films, kept))
            truth.append(films.labelled()[kept])
            check(rows, "hospital", number, path.name, truth[-1], told[-1])
        of_all = read_scored(run)[number - 1].pooled
        assert of_all is not None
        every_film = np.concatenate(truth), np.concatenate(told)
        pooled[number] = check(rows, "pooled", number, None, *every_film, of_all.by_finding)
        every = logits_of(state, test, np.arange(40))
        labels = test.labelled()
        mean = np.mean([roc_auc_score(labels[:, i], every[:, i]) for i in range(14)])
        assert rows["test", number, None, "mean"].value == pytest.approx(mean)
    for finding, one, two in zip(FINDINGS, pooled[1], pooled[2], strict=True):
        row = rows["difference", 2, None, finding]
        assert row.minus == 1
        assert row.value == pytest.approx(two - one)
        few = any(rows["pooled", of, None, finding].low is None for of in (1, 2))
        assert (row.low is None) == few
        assert few or (row.low or 0) < two - one < (row.high or 0)

    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table.rows) == 2 * (2 + 1 + 1) * 15 + 15
    assert lines[0]["file"] == table.models[0].file
    printed = log_of(federation, "server")
    assert "not in it: hospital-02: failed at the hospital (against the site's policy" in printed
    assert "model 2 minus model 1, on all films" in printed
    assert f"{other}: tells of no federated run" in printed
    for shard in shards:
        assert "a model: 0.0 MB received, to score" in log_of(federation, shard.name)


def check(
    rows: dict[tuple[Kind, int, str | None, str], Row],
    kind: Kind,
    number: int,
    name: str | None,
    truth: npt.NDArray[np.uint8],
    told: npt.NDArray[np.float32],
    bins: dict[str, FindingAuc] | None = None,
) -> list[float]:
    """Compare rows with scikit-learn's AUCs of all films; return the table's AUCs."""
    found = []
    for column, finding in enumerate(FINDINGS):
        row, labels = rows[kind, number, name, finding], truth[:, column]
        bound = bins[finding].bound if bins is not None else 0.0
        assert row.value is not None
        assert bound is not None
        assert abs(row.value - roc_auc_score(labels, told[:, column])) <= bound + 1e-9
        assert (row.positives, row.negatives) == ((labels == 1).sum(), (labels == 0).sum())
        found.append(row.value)
    assert rows[kind, number, name, "mean"].value == pytest.approx(np.mean(found))
    return found


def test_a_hospital_whose_budget_withholds_scores_has_answered_all_the_same(
    tmp_path: Path, federation: FaultyFederation
) -> None:
    shards, run = make_hospitals(tmp_path / "data", 2), tmp_path / "run"
    model_in(tmp_path / "a.pt", 1)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"privacy": {"epsilon": 8}}))
    federation.start_server(options(run, 2, tmp_path / "a.pt", quorum=1.0), code=EVALUATE)
    federation.start_client(shards[0])
    federation.start_client(
        shards[1], ["--policy", str(policy), "--state", str(tmp_path / "state")]
    )
    assert set(federation.wait(120).values()) == {0}
    (scored,) = read_scored(run)
    assert (list(scored.hospitals), scored.withheld) == (["hospital-00"], ["hospital-01"])
    printed = log_of(federation, "server")
    assert "not in it: hospital-01: its policy withholds the scores" in printed


@pytest.mark.fault(
    "flower-evaluate is killed between two models, and then a hospital while it scores",
    "--resume scores the model that is left; the hospital is named as missing from it",
)
def test_an_evaluation_goes_on_after_a_kill_and_names_a_hospital_that_went_away(
    tmp_path: Path, federation: FaultyFederation
) -> None:
    shards = make_hospitals(tmp_path / "data", 2)
    models = [tmp_path / name for name in ("a.pt", "b.pt")]
    for number, path in enumerate(models):
        model_in(path, number)
    run = tmp_path / "run"
    given = options(run, 2, *models, quorum=0.5)
    federation.preludes["server"] = dies_before(
        "server.evaluate.scoring:Scoring._score", "args[1] == 2"
    )
    federation.preludes["hospital-01"] = dies_before(
        "client.work:Work.follow", "args[1].identity.round == 2"
    )
    federation.start_server(given, code=EVALUATE)
    for shard in shards:
        federation.start_client(shard)
    assert federation.server is not None
    assert federation.server.wait(120) == -signal.SIGKILL
    assert len(read_scored(run)) == 1
    federation.preludes.clear()

    federation.start_server([*given, "--resume"], code=EVALUATE)
    wait_until(lambda: (run / "models.jsonl").read_bytes().count(b"\n") == 2, 120)
    federation.start_client(shards[1])
    assert set(federation.wait(60).values()) == {0}
    first, second = read_scored(run)
    assert list(first.hospitals) == ["hospital-00", "hospital-01"]
    assert (list(second.hospitals), second.missing) == (["hospital-00"], ["hospital-01"])
    lost = [event["site"] for event in events_of(run) if event["event"] == "lost"]
    assert lost == ["hospital-01"]
    assert "not in it: hospital-01: no answer" in log_of(federation, "server")
