"""``flower-export``: what it writes computes what the model does, in torchvision and in ONNX."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from torchvision.models import densenet121

from common.checkpoint import read_checkpoint
from common.findings import FINDINGS
from common.images import centre_crops
from common.model import build_model, to_input
from common.scores import Scores
from common.shard import Bytes
from common.state import State
from predict import weights
from predict.export import export
from predict.films import read_one
from predict.metadata import Metadata, read_metadata
from predict.model_file import read_model
from radiographs.read.chest import Wanted
from server.run.records import AverageScores, RoundRecord, RunStatus, Validation
from tests.support.commands import assert_one_line, run
from tests.support.predicting import write_model
from tests.support.records import HOSPITAL, round_record
from tests.support.shards import SHARED, needs_shared_data
from tests.support.states import same_bits

FRONTAL = Wanted("frontal")


PRIVACY = {"dp": "sample", "clip": 1, "noise": 1, "epsilon": 8, "delta": 1e-5}


def by_finding(first: float) -> dict[str, float | None]:
    return {finding: first + i / 100 for i, finding in enumerate(FINDINGS)}


def write_run(folder: Path, rounds: list[RoundRecord], validation: float | None) -> None:
    config = {"run_id": "abc", "rounds": 3, "strategy": "fedavg", "image_size": 64, "lr": 0.05}
    (folder / "config.json").write_text(json.dumps({**config, "test": None, "more": [1]}))
    lines = [json.dumps(record.model_dump(mode="json")) for record in rounds]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + '\n{"round": 9')
    status = RunStatus(
        state="finished",
        validation=Validation(auc=validation, auc_by_finding=by_finding(validation or 0)),
    )
    (folder / "status.json").write_text(status.model_dump_json(exclude_unset=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three rounds, the second of which made the best model."""
    test = Scores(images=77, loss=0.3, auc=0.812, auc_by_finding=by_finding(0.5))
    hospitals = {"north": HOSPITAL, "south": HOSPITAL.model_copy(update={"examples": 44})}
    run = tmp_path / "run"
    run.mkdir()
    write_run(
        run,
        [
            round_record(1, auc=0.1, auc_by_finding=by_finding(0.01)),
            round_record(2, auc=0.2, auc_by_finding=by_finding(0.02), hospitals=hospitals,
                         test=test, missing=["west"], rejected={"east": "too fast"}),
            round_record(3, auc=0.734, auc_by_finding=by_finding(0.03), test=test),
        ],
        0.655,
    )  # fmt: skip
    write_model(run / "best.pt", round=2)
    write_model(run / "final.pt", round=3)
    return run


@pytest.fixture(scope="session")
def real() -> Bytes:
    """Films: uint8, N x 64 x 64."""
    files = sorted((SHARED / "cxr-small" / "images").iterdir())[:8]
    return np.stack([np.asarray(read_one(file, FRONTAL, 64)) for file in files])


def state_in(path: Path) -> State:
    return read_checkpoint(path, "densenet-tiny", 0)[0]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_load_into_torchvision_strictly(tmp_path: Path, suffix: str) -> None:
    checkpoint = write_model(tmp_path / "final.pt", "densenet121")
    out = tmp_path / f"model{suffix}"
    result = run("flower-export", checkpoint, "--out", out, "--size", 48)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(out), f"{out}.json", f"{out}.md"]
    state = (
        torch.load(out, weights_only=True) if suffix == ".pt" else safetensors.torch.load_file(out)
    )
    model = densenet121(num_classes=14)
    model.load_state_dict(state, strict=True)
    model.to(memory_format=torch.channels_last)  # as ours: then the same in every bit
    ours = build_model("densenet121", 3).eval()
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8))
    with torch.inference_mode():
        assert torch.equal(model.eval()(to_input(films)), ours(to_input(films)))


@needs_shared_data
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_an_exported_model_predicts_as_before(folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    export(folder, out, None, None, force=False)
    assert same_bits(read_model(out).state, state_in(folder / "final.pt"))
    film = sorted((SHARED / "cxr-small" / "images").iterdir())[0]
    given = (film, "--device", "cpu")
    tables = [run("flower-predict", model, *given) for model in (folder, out)]
    assert [table.returncode for table in tables] == [0, 0], tables[1].stderr
    assert tables[0].stdout == tables[1].stdout
    assert "does not tell the size" not in tables[1].stderr
    # Another file under the same name is not what the metadata is of.
    out.write_bytes(out.read_bytes() + b" ")
    assert read_metadata(out) is None


@needs_shared_data
def test_onnx_takes_films_and_returns_the_same_probabilities(
    folder: Path, tmp_path: Path, real: Bytes
) -> None:
    out = tmp_path / "model.onnx"
    export(folder / "best.pt", out, None, None, force=False)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (film,), (output,) = session.get_inputs(), session.get_outputs()
    assert (film.name, film.type, film.shape[1:]) == ("film", "tensor(uint8)", [1, 64, 64])
    assert output.name == "probabilities"
    network = build_model("densenet-tiny", 3).eval()
    with torch.inference_mode():
        expected = network(to_input(torch.from_numpy(centre_crops(real)))).sigmoid().numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3  # the films differ
    for count in (1, 3, len(real)):
        found = session.run(None, {"film": real[:count, None]})[0]
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)
    told = Metadata.model_validate_json(Path(f"{out}.json").read_bytes()).network_data_format
    assert [*told.inputs] == ["film"]
    assert told.inputs["film"].spatial_shape == [64, 64]
    assert told.inputs["film"].dtype == "uint8"
    assert [*told.outputs["probabilities"].channel_def.values()] == list(FINDINGS)


def test_an_export_that_computes_something_else_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "TOLERANCE", -1.0)
    with pytest.raises(Exception, match="not written: ONNX Runtime's probabilities differ"):
        export(folder, tmp_path / "model.onnx", None, None, force=False)
    assert not (tmp_path / "model.onnx").exists()


def test_metadata_has_what_a_monai_bundle_asks_for(folder: Path, tmp_path: Path) -> None:
    export(folder / "best.pt", tmp_path / "m.pt", None, None, force=False)
    told = json.loads((tmp_path / "m.pt.json").read_text())
    # The specification's mandatory keys, without the version of MONAI.
    assert told.keys() >= {
        *("version", "pytorch_version", "numpy_version", "optional_packages_version", "task"),
        *("description", "authors", "copyright", "network_data_format", "intended_use"),
    }
    (image,), (logits,) = (told["network_data_format"][k].values() for k in ("inputs", "outputs"))
    for tensor in (image, logits):
        assert tensor.keys() >= {
            *("type", "format", "modality", "num_channels", "spatial_shape", "dtype"),
            *("value_range", "is_patch_data", "channel_def"),
        }
    assert (image["num_channels"], image["spatial_shape"]) == (3, [56, 56])
    whole = to_input(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert image["value_range"] == pytest.approx([whole.min().item(), whole.max().item()])
    scores = {"mean AUC at the hospitals": 0.734, "mean AUC on the test films": 0.812}
    assert told["eval_metrics"] == scores
    assert told["authors"] == "north, south"


def test_the_card_says_what_the_run_tells(folder: Path, tmp_path: Path) -> None:
    export(folder / "best.pt", tmp_path / "m.pt", None, None, force=False)
    card = (tmp_path / "m.pt.md").read_text()
    for line in (
        "- Run abc, round 2 of 3, averaging: fedavg",
        "| north | 10 | 0 |",
        "| south | 44 | 0 |",
        "Not in this round: east (rejected), west (missing).",
        "| finding | mean AUC at the hospitals | AUC on 77 test films |",
        "| **mean** | 0.734 | 0.812 |",
        "| Pleural Thickening | 0.150 | 0.620 |",
        "**Not a medical device.**",
        "The run tells no confidence intervals.",
    ):
        assert line in card.splitlines(), card
    assert "learning rate 0.05" in card
    export(folder, tmp_path / "last.pt", None, None, force=False)
    assert "| **mean** | 0.655 | 0.812 |" in (tmp_path / "last.pt.md").read_text()


def test_the_card_of_a_moving_average_has_its_own_scores(folder: Path, tmp_path: Path) -> None:
    write_model(folder / "ema.pt", round=3, ema=0.9)
    export(folder / "ema.pt", tmp_path / "m.pt", None, None, force=False)
    assert "the run tells no score of this model" in (tmp_path / "m.pt.md").read_text()
    status = RunStatus.model_validate_json((folder / "status.json").read_text())
    validation = Validation(auc=0.777, auc_by_finding=by_finding(0.6))
    test = Scores(images=77, loss=0.3, auc=0.888, auc_by_finding=by_finding(0.7))
    average = AverageScores(test=test, validation=validation, pooled=None)
    told = status.model_copy(update={"ema": average}).model_dump_json(exclude_unset=True)
    (folder / "status.json").write_text(told)
    export(folder / "ema.pt", tmp_path / "m.pt", None, None, force=True)
    assert "| **mean** | 0.777 | 0.888 |" in (tmp_path / "m.pt.md").read_text().splitlines()


@pytest.mark.parametrize(
    ("start", "limit"),
    [
        ({"method": "simclr"}, None),
        ({"method": "fedavg", "run": "old"}, "run old (without noise)"),
        (
            {"method": "simclr", "start": {"method": "fedavg", "run": "old", "privacy": PRIVACY}},
            "run old (epsilon 8.00 at delta 1e-05)",
        ),
    ],
)
def test_the_card_does_not_promise_what_was_trained_before(
    tmp_path: Path, start: dict[str, object], limit: str | None
) -> None:
    write_model(tmp_path / "final.pt", privacy={**PRIVACY, "epsilon": 2}, start=start)
    export(tmp_path / "final.pt", tmp_path / "m.pt", 64, None, force=False)
    card = (tmp_path / "m.pt.md").read_text()
    assert "- Differential privacy of each film: epsilon 2.00 at delta 1e-05" in card
    assert "each film in a step with the chance batch / films\n" in card
    assert "- Not covered: how many films each hospital has, and scores that it tells." in card
    line = f"- It is of this run's training alone: the first model is from {limit}."
    assert ("of this run's training alone" in card) == (limit is not None)
    assert (line in card) == (limit is not None)


def test_the_card_of_secure_sums_says_so_and_tells_no_films(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "secure_aggregation": True}))
    lines = (folder / "rounds.jsonl").read_text()
    (folder / "rounds.jsonl").write_text(lines.replace('"examples": 44', '"examples": null'))
    export(folder / "best.pt", tmp_path / "m.pt", None, None, force=False)
    card = (tmp_path / "m.pt.md").read_text()
    assert "averaging: fedavg in secure sums" in card
    assert f"| south | - | {HOSPITAL.validation_images} |" in card


def test_a_checkpoint_alone_says_what_it_does_not_know(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "best.pt"
    shutil.copy(folder / "best.pt", alone)
    result = run("flower-export", alone, "--out", tmp_path / "m.pt")
    assert_one_line(result, 2, "does not tell the size of its films; give --size")
    export(alone, tmp_path / "m.pt", 64, None, force=False)
    card = (tmp_path / "m.pt.md").read_text()
    assert "Not known: the run tells no score of this model." in card
    assert "The run's folder was not at hand" in card
    assert "None" not in card


def test_a_model_of_another_tool_is_not_said_to_be_the_hospitals(tmp_path: Path) -> None:
    torch.save(build_model("densenet121", 1).state_dict(), tmp_path / "other.pt")
    export(tmp_path / "other.pt", tmp_path / "m.pt", 64, "keep", force=False)
    told = json.loads((tmp_path / "m.pt.json").read_text())
    assert told["authors"] == told["copyright"] == "not known"
    assert "ospital" not in told["description"]
    assert read_model(tmp_path / "m.pt").size == 64  # and needs no word on its findings any more


def test_nothing_is_replaced_without_a_word(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    for name in ("m.pt", "m.pt.json", "m.pt.md"):
        (tmp_path / name).write_text("mine")
        refused = run("flower-export", folder, "--out", out)
        assert_one_line(refused, 2, f"{name}: is there already", "--force")
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]
        (tmp_path / name).unlink()
    out.write_text("mine")
    assert run("flower-export", folder, "--out", out, "--force").returncode == 0
    assert same_bits(read_model(out).state, state_in(folder / "final.pt"))
    (tmp_path / "taken.pt.md").mkdir()
    refused = run("flower-export", folder, "--out", tmp_path / "taken.pt", "--force")
    assert_one_line(refused, 2, "taken.pt.md: is a folder; choose another name")
    assert not (tmp_path / "taken.pt").exists()
    itself = run("flower-export", folder, "--out", folder / "final.pt", "--force")
    assert_one_line(itself, 2, "is the model itself")


def test_bad_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    assert_one_line(run("flower-export", folder, "--out", tmp_path / "m.h5"), 2, ".onnx")
    nowhere = run("flower-export", folder, "--out", tmp_path / "no" / "m.pt")
    assert_one_line(nowhere, 2, "No such file or directory")
    (folder / "rounds.jsonl").write_text('{"round": "two"}\n')
    damaged = run("flower-export", folder, "--out", tmp_path / "m.pt")
    assert_one_line(damaged, 2, "rounds.jsonl: damaged (round: ")
    assert not (tmp_path / "m.pt").exists()
    assert_one_line(run("flower-export", tmp_path / "x", "--out", "m.pt"), 2, "no such file")
