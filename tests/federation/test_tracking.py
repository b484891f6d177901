"""Whole runs with trackers: a real MLflow server, event files, and W&B's own files."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.checkpoint import read_checkpoint
from common.track.base import TrackedRun
from common.track.trackers import CLOSE_SECONDS, Trackers
from experiments.launch.local import free_port
from server.run.folder import RunFolder
from server.run.records import read_run_status
from server.run.tracking import tracking
from tests.support.faults import FaultyFederation, dies_before
from tests.support.federations import events_of, lines_of, log_of, options, status_of
from tests.support.hospitals import plan_of
from tests.support.mlflow_server import curve_of, mlflow_server, runs_of
from tests.support.pretrain_commands import lines_of as metrics_of
from tests.support.pretrain_commands import pretrain
from tests.support.relay import Relay
from tests.support.shards import make_hospitals, make_shard
from tests.support.waiting import wait_until
from tests.support.wandb_file import history_of

MLFLOW = "MLFLOW_TRACKING_URI"

Curve = list[tuple[int, float]]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as port:
        yield port


def client_of(port: int) -> MlflowClient:
    return MlflowClient(f"http://127.0.0.1:{port}")


def expected(run: Path) -> dict[str, Curve]:
    """Return some of the curves that the run's own files tell of."""
    lines, final = lines_of(run), status_of(run)["validation"]
    (initial,) = (event for event in events_of(run) if event["event"] == "initial model")
    models = [*((line["round"] - 1, line) for line in lines), (4, final)]
    ours = [(line["round"], line["hospitals"]["hospital-00"]) for line in lines]
    finding = next(name for name, auc in final["auc_by_finding"].items() if auc is not None)
    return {
        "validation/auc": [(step, model["auc"]) for step, model in models],
        f"validation/auc/{finding}": [
            (step, model["auc_by_finding"][finding]) for step, model in models
        ],
        "validation/pooled/auc": [
            *((line["round"] - 1, line["pooled"]["auc"]) for line in lines),
            (4, status_of(run)["pooled"]["auc"]),
        ],
        "validation/hospital/hospital-00/images": [
            (step - 1, hospital["validation_images"]) for step, hospital in ours
        ],
        "round/loss": [(line["round"], line["loss"]) for line in lines],
        "round/seconds/total": [(line["round"], line["seconds"]["total"]) for line in lines],
        "round/hospital/hospital-00/loss": [(step, hospital["loss"]) for step, hospital in ours],
        "round/hospital/hospital-00/bytes/sent": [
            (step, hospital["bytes"]["sent"]) for step, hospital in ours
        ],
        "test/auc": [
            (0, initial["test"]["auc"]),
            *((line["round"], line["test"]["auc"]) for line in lines),
        ],
    }


def assert_same(found: Curve, points: Curve, name: str) -> None:
    """Assert the same steps, none twice, and the same values; TensorBoard's are in float32."""
    assert [step for step, _ in found] == [step for step, _ in points], name
    assert [value for _, value in found] == pytest.approx([value for _, value in points]), name


@pytest.mark.slow
def test_trackers_get_a_killed_and_resumed_run_once_and_its_model(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    shards, test = make_hospitals(tmp_path / "data", 2), make_shard(tmp_path / "test").path
    folder = tmp_path / "my-run"
    start = options(folder, 2, rounds=4, test=test, track="mlflow,tensorboard,wandb")
    with FaultyFederation(tmp_path / "logs") as federation:
        for shard in shards:
            federation.start_client(shard)
        federation.preludes["server"] = dies_before(
            "server.rounds.best:BestCopy.update", "args[0]._progress.round == 2"
        )
        federation.start_server(start)
        assert federation.server is not None
        assert federation.server.wait(120) == -signal.SIGKILL
        federation.preludes.clear()
        federation.start_server([*start, "--resume"])
        assert set(federation.wait(120).values()) == {0}, log_of(federation, "server")
    curves = expected(folder)

    client = client_of(port)
    (run,) = runs_of(client, "my-run")
    assert run.info.status == "FINISHED"
    for name, points in curves.items():
        assert_same(curve_of(client, run, name), points, name)
    assert run.data.params["lr"] == "0.05"
    assert run.data.params["strategy"] == "fedavg"
    settings = str([run.data.params, run.data.tags])
    assert str(tmp_path) not in settings
    assert "127.0.0.1" not in settings

    (version,) = client.search_model_versions(f"run_id='{run.info.run_id}'")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    model = Path(
        download_artifacts(f"models:/{version.name}/{version.version}",
                           tracking_uri=f"http://127.0.0.1:{port}",
                           registry_uri=f"http://127.0.0.1:{port}")
    )  # fmt: skip
    assert {file.name for file in model.iterdir()} == {"final.pt", "best.pt", "README.md"}
    assert (model / "final.pt").read_bytes() == (folder / "final.pt").read_bytes()
    _, provenance = read_checkpoint(model / "best.pt", "densenet-tiny", 0)
    assert provenance is not None
    assert provenance.run == run.data.params["run"]

    # Another version is another folder: a later one replaces no files of this one.
    assert str(version.source).endswith(f"/model/{version.tags['sha256'][:12]}")
    with tracking(["mlflow"], plan_of(run=provenance.run, rounds=4), RunFolder(folder, {})) as told:
        told.finish(read_run_status(folder))  # as --resume of a run that is done
    assert_same(curve_of(client, run, "round/loss"), curves["round/loss"], "once more")
    assert len(client.search_model_versions(f"run_id='{run.info.run_id}'")) == 1

    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    *_, kept = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    rows = history_of(kept)
    for name, points in curves.items():
        events = [(event.step, event.value) for event in board.Scalars(name)]
        logged = [(row["round"], row[name]) for row in rows if name in row]
        assert_same(events, points, name)
        assert_same(logged, points, name)


def test_a_pretraining_tells_mlflow_and_registers_its_checkpoint(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW, f"http://127.0.0.1:{port}")
    out = tmp_path / "simclr.pt"
    data = make_shard(tmp_path / "shard", labelled=False).path
    result = pretrain(data, out, "--epochs", 2, "--track", "mlflow")
    assert result.returncode == 0, result.stderr
    client = client_of(port)
    (run,) = runs_of(client, "simclr.run")
    losses = [(line["step"], line["loss"]) for line in metrics_of(out)]
    assert_same(curve_of(client, run, "loss"), losses, "loss")
    assert run.data.params["method.name"] == "simclr"
    (version,) = client.search_model_versions(f"run_id='{run.info.run_id}'")
    assert version.name == "fedcxr-pretrained"
    assert not (tmp_path / "simclr.run" / "tensorboard").exists()


@pytest.mark.fault(
    "the line to a tracker is cut in mid-run, and mended",
    "one warning; what the tracker has missed is sent then, nothing twice",
)
def test_what_a_tracker_has_missed_is_sent_later_and_nothing_twice(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("common.track.trackers.RETRY_SECONDS", 0.0)
    client, run = client_of(port), TrackedRun("cut", "cut", tmp_path, "round", {"lr": 0.1})
    with Relay(port) as relay:
        monkeypatch.setenv(MLFLOW, f"http://127.0.0.1:{relay.port}")
        trackers = Trackers(["mlflow"], run, "rounds.jsonl")
        trackers.points("round", 1, {"loss": 1.0})
        wait_until(lambda: sent(client) == [(1, 1.0)], 60)
        relay.up = False
        trackers.points("round", 2, {"loss": 2.0})
        wait_until(lambda: "MLflow cannot be written" in caplog.text, 60)
        trackers.points("round", 3, {"loss": 3.0})
        relay.up = True
        trackers.points("round", 4, {"loss": 4.0})
        trackers.close("finished")
    assert "MLflow is back" in caplog.text
    assert caplog.text.count("cannot be written") == 1
    assert sent(client) == [(number, float(number)) for number in range(1, 5)]

    monkeypatch.setenv(MLFLOW, f"http://127.0.0.1:{port}")
    again = Trackers(["mlflow"], run._replace(config={"lr": 0.01}), "rounds.jsonl")
    for number in range(1, 6):
        again.points("round", number, {"loss": float(number)})
    monkeypatch.setitem(CLOSE_SECONDS, "stopped", 60.0)
    again.close("stopped")
    assert sent(client) == [(number, float(number)) for number in range(1, 6)]
    (found,) = runs_of(client, "cut")
    assert (found.info.status, found.data.params["lr"]) == ("KILLED", "0.1")
    assert found.data.tags["lr"] == "0.01"


def sent(client: MlflowClient) -> list[tuple[int, float]]:
    return [
        point for run in runs_of(client, "cut") for point in curve_of(client, run, "round/loss")
    ]


@pytest.mark.fault(
    "a tracker cannot be reached",
    "one warning; the run goes on and ends as usual",
)
def test_a_tracker_that_cannot_be_reached_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLFLOW, f"http://name:secret@127.0.0.1:{free_port()}")
    data, out = make_shard(tmp_path / "shard", labelled=False).path, tmp_path / "a.pt"
    result = pretrain(data, out, "--epochs", 2, "--track", "mlflow,tensorboard")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("MLflow cannot be written (Connection refused)") == 1
    assert "MLflow lacks the end of the run; metrics.jsonl has it" in result.stderr
    assert "secret" not in result.stderr
    board = EventAccumulator(str(tmp_path / "a.run" / "tensorboard")).Reload()
    losses = [(line["step"], line["loss"]) for line in metrics_of(out)]
    assert_same([(event.step, event.value) for event in board.Scalars("loss")], losses, "loss")
