"""``flower-predict`` on real files: the same pixels and the same logits as through a shard."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.evaluation import predict as predict_shard
from common.findings import FINDINGS
from common.model import build_model
from common.shard import open_shard
from radiographs.sources.site import command as site
from radiographs.write.private import private_path, read_private
from tests.support.commands import assert_one_line, run
from tests.support.films import film
from tests.support.predicting import write_model
from tests.support.shards import SHARED, needs_shared_data

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "final.pt")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Films of three formats, more than one batch of them, and files that are no chest films."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(70):
        pixels = rng.integers(0, 4096, (60, 50), np.uint16)
        film(pixels, PatientID=f"P-{i}").save_as(folder / f"{i:03}.dcm", enforce_file_format=True)
    Image.fromarray(rng.integers(0, 256, (64, 48), np.uint8)).save(folder / "more" / "a.png")
    Image.fromarray(rng.integers(0, 256, (48, 64), np.uint8)).save(folder / "more" / "b.jpg")
    film(ViewPosition="LL").save_as(folder / "lateral.dcm", enforce_file_format=True)
    film(BodyPartExamined="HAND").save_as(folder / "hand.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no film")
    return folder


def table(text: str) -> dict[str, list[str]]:
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["image", *FINDINGS]
    return {name: values for name, *values in rows}


def through_a_shard(model: Path, films: Path, size: int) -> dict[str, list[str]]:
    """Return what scoring a shard of the same films gives, in the order of the files."""
    shard = films.parent / "shard"
    site(["--images", str(films), "--out", str(shard), "--size", str(size), "--workers", "1"])
    opened, names = open_shard(shard), read_private(private_path(shard)).files
    order = sorted(range(len(opened)), key=lambda i: films / names[opened.entries[i].image])
    network = build_model("densenet-tiny")
    network.load_state_dict(torch.load(model, weights_only=True)["state_dict"])
    probabilities = torch.sigmoid(predict_shard(network, opened, np.array(order), CPU)).numpy()
    return {
        str(films / names[opened.entries[i].image]): [str(p) for p in row]
        for i, row in zip(order, probabilities, strict=True)
    }


def test_probabilities_are_those_of_a_shard_bit_for_bit(model: Path, films: Path) -> None:
    result = run("flower-predict", model, films, "--size", 48, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    expected = through_a_shard(model, films, 48)
    assert table(result.stdout) == expected
    assert len(expected) == 72
    assert list(table(result.stdout)) == list(expected)


@needs_shared_data
@pytest.mark.parametrize("folder", ["cxr-small/images", "dicom"])
def test_and_on_real_films(tmp_path: Path, model: Path, folder: str) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for file in sorted((SHARED / folder).iterdir())[:12]:
        (chosen / file.name).write_bytes(file.read_bytes())
    result = run("flower-predict", model, chosen, "--size", 64, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert table(result.stdout) == through_a_shard(model, chosen, 64)


def test_refused_films_are_named_with_the_reason_of_flower_data_site(
    model: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("flower-predict", model, films, "--size", 48)
    through_a_shard(model, films, 48)
    reasons = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused")]
    assert len(reasons) == 3
    for reason in reasons:
        assert reason.replace("refused: ", f"refused: {films}/") in result.stderr.splitlines()
    more = ("--views", "both", "--body-part", "HAND")
    result = run("flower-predict", model, films, "--size", 48, *more)
    assert {str(films / "lateral.dcm"), str(films / "hand.dcm")} <= table(result.stdout).keys()
    assert "notes.txt: neither DICOM, PNG nor JPEG" in result.stderr


def test_only_if_no_file_is_a_film_is_it_an_error(model: Path, films: Path) -> None:
    none = run("flower-predict", model, films / "notes.txt", films / "gone.png", "--size", 48)
    assert_one_line(none, 2, "none of 2 files can be used", "No such file or directory (1)")
    assert none.stdout == ""
    one = run("flower-predict", model, films / "notes.txt", films / "more", "--size", 48)
    assert one.returncode == 0
    assert len(table(one.stdout)) == 2


def test_json_and_a_file_that_is_not_replaced(model: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = (model, films / "more", "--size", 48, "--device", "cpu")
    as_json = (*given, "--format", "json", "--out", out)
    assert run("flower-predict", *as_json).returncode == 0
    told = json.loads(out.read_text())
    assert (told["model"], told["size"]) == (str(model), 48)
    rows = table(run("flower-predict", *given).stdout)
    assert {entry["image"] for entry in told["films"]} == rows.keys()
    for entry in told["films"]:
        expected = dict(zip(FINDINGS, map(float, rows[entry["image"]]), strict=True))
        assert entry["probabilities"] == expected
    out.write_text("mine")
    assert_one_line(run("flower-predict", *as_json), 2, f"{out}: is there already", "--force")
    assert out.read_text() == "mine"
    assert run("flower-predict", *as_json, "--force").returncode == 0
    assert out.read_text() != "mine"
    nowhere = run("flower-predict", *given, "--out", tmp_path / "no" / "out.csv")
    assert_one_line(nowhere, 2, "no folder, or one that may not be written; give another --out")


def test_the_size_is_the_runs_or_is_said_to_be_taken(model: Path, films: Path) -> None:
    silent = run("flower-predict", model, films / "more", "--device", "cpu")
    assert "does not tell the size of its films: 256 is taken (--size)" in silent.stderr
    config = {"run_id": "abc", "rounds": 2, "strategy": "fedavg", "image_size": 48}
    (model.parent / "config.json").write_text(json.dumps(config))
    told = run("flower-predict", model.parent, films / "more", "--device", "cpu")
    assert "256" not in told.stderr
    assert (
        told.stdout
        == run("flower-predict", model, films / "more", "--device", "cpu", "--size", 48).stdout
    )
    (model.parent / "config.json").write_text(json.dumps(config | {"run_id": "another"}))
    assert "256 is taken" in run("flower-predict", model, films / "more").stderr
    # As transformers and others write it.
    (model.parent / "config.json").write_text('{"architectures": ["DenseNet"], "image_size": 48}')
    assert "256 is taken" in run("flower-predict", model, films / "more").stderr
    (model.parent / "config.json").write_text('{"run_id": "abc"}')
    damaged = run("flower-predict", model, films / "more")
    assert_one_line(damaged, 2, "config.json: damaged (rounds: Field required); restore it")


def test_a_checkpoint_alone_tells_the_size(model: Path, films: Path) -> None:
    alone = write_model(model.parent / "alone.pt", settings={"image_size": 48})
    told = run("flower-predict", alone, films / "more", "--device", "cpu")
    assert "does not tell" not in told.stderr
    sized = run("flower-predict", model, films / "more", "--device", "cpu", "--size", 48)
    assert told.stdout == sized.stdout


def test_an_onnx_file_is_for_other_programs(model: Path, films: Path) -> None:
    onnx = model.rename(model.with_suffix(".onnx"))
    assert_one_line(run("flower-predict", onnx, films), 2, "an ONNX file is for other programs")


def test_a_dull_film_is_told(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 50), 90, np.uint8)).save(tmp_path / "grey.png")
    result = run("flower-predict", model, tmp_path / "grey.png", "--size", 48)
    assert f"dull: {tmp_path / 'grey.png'}: the model sees little on it; likely" in result.stderr


def test_models_whose_outputs_are_not_the_findings_are_refused(tmp_path: Path, films: Path) -> None:
    def refusal(path: Path, *fragments: str) -> None:
        assert_one_line(run("flower-predict", path, films / "more"), 2, *fragments)

    pretrained = write_model(tmp_path / "p.pt", method="mocov2", run=None, round=None, epochs=3)
    refusal(pretrained, "the head is not trained (the origin is mocov2, 3 epochs)", "final.pt")
    refusal(tmp_path / "no.pt", "no such file; give a checkpoint, such as final.pt of a run")
    (tmp_path / "run").mkdir()
    refusal(tmp_path / "run", "has neither final.pt nor best.pt")
    content = torch.load(pretrained, weights_only=True)
    torch.save({**content, "architecture": "resnet50"}, tmp_path / "r.pt")
    refusal(tmp_path / "r.pt", "its architecture 'resnet50' is not known", "densenet121")
    (tmp_path / "note.pt").write_text("no model")
    refusal(tmp_path / "note.pt", "damaged or no checkpoint")


def test_a_plain_state_dict_needs_a_word_on_its_findings(tmp_path: Path, films: Path) -> None:
    network = build_model("densenet121", 1)
    plain = tmp_path / "plain.pt"
    torch.save(network.state_dict(), plain)
    given = (plain, films / "more" / "a.png", "--size", 48)
    assert_one_line(
        run("flower-predict", *given),
        2,
        "its head has 14 outputs",
        "--head keep",
        "else another model",
    )
    assert run("flower-predict", *given, "--head", "keep").returncode == 0
    bare = {name: t for name, t in network.state_dict().items() if "classifier" not in name}
    torch.save(bare, plain)
    assert_one_line(run("flower-predict", *given), 2, "the file has none; give a model with a head")
    five = {**bare, "classifier.weight": torch.zeros(5, 1024), "classifier.bias": torch.zeros(5)}
    torch.save(five, plain)
    refused = run("flower-predict", *given, "--head", "keep")
    assert_one_line(refused, 2, "5 outputs, not the 14 findings; give a model with a head")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "--heatmap-format"),
        (["m.pt"], 2, "IMAGES is required"),
        (["m.pt", "a.png", "--finding", "Mass"], 2, "--finding is for --heatmap"),
        (["m.pt", "a.png", "--heatmap", "h", "--finding", "Cold"], 2, "Cold"),
        (["m.pt", "a.png", "--serve", "127.0.0.1:8000"], 2, "--serve takes no IMAGES"),
        (["m.pt", "--serve", "8000"], 2, "not HOST:PORT"),
        (["m.pt", "a.png", "--out", "."], 2, "--out .: is a folder; name a file"),
        (["m.pt", "a.png", "--out", ".", "--force"], 2, "--out .: is a folder; name a file"),
        (["m.pt", "a.png", "--out", f"{__file__}/a.csv"], 2, "test_predict.py: no folder, or one"),
        (["m.pt", "a.png", "--size", "8"], 2, "--size (or FLOWER_PREDICT_SIZE)"),
    ],
)
def test_help_and_errors_in_arguments_never_import_torch(
    arguments: list[str], code: int, expected: str
) -> None:
    blocked = "import sys; sys.modules['torch'] = None; from predict.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    assert expected in result.stdout + result.stderr
