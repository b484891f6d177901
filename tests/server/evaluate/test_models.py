"""Which models can be scored, and on which films."""

from pathlib import Path

import pytest
import safetensors.numpy

from common.checkpoint import write_checkpoint
from common.errors import BadInput
from common.model import build_model, state_of
from common.provenance import Provenance
from common.runtime.cli import parse
from experiments.launch.local import free_port
from server.evaluate.cli import EvaluateSettings, open_folder
from server.evaluate.models import Model, read_models, seed_for
from tests.support.commands import assert_one_line, run

STATE = state_of(build_model("densenet-tiny", 1))


def model_of(name: str, **origin: object) -> Model:
    provenance = Provenance.model_validate({"method": "fedavg", **origin})
    return Model(Path(name), STATE, b"", provenance)


def test_the_seed_is_that_of_the_models_run() -> None:
    trained = Provenance(method="fedavg", run="a", seed=7)
    assert seed_for([model_of("a", run="a", seed=7), model_of("b")], None) == 7
    assert seed_for([model_of("a", method="mocov2", seed=3)], None) == 0
    assert seed_for([model_of("a", run="b", seed=7, start=trained)], None) == 7
    assert seed_for([model_of("a", run="a", seed=7)], 8) == 8


def test_models_that_no_films_were_kept_from_are_refused_or_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = [model_of("a", run="a", seed=7), model_of("b", run="b", seed=8)]
    with pytest.raises(BadInput, match=r"different seeds \(a: 7, b: 8\)"):
        seed_for(models, None)
    assert seed_for(models, 7) == 7
    assert caplog.messages == [
        "b: hospitals have trained it with seed 8, and score it with seed 7: it may be scored on "
        "films that it was trained on"
    ]
    caplog.clear()
    start = Provenance(method="fedavg", run="a", seed=7)
    seed_for([model_of("c", run="c", seed=9, start=start)], None)
    assert "trained it with seed 9, 7, and score it with seed 9" in caplog.messages[0]
    caplog.clear()
    seed_for([model_of("d", method="checkpoint")], 4)
    assert "d: tells of no federated run" in caplog.messages[0]


def test_a_model_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    headless = {name: a for name, a in STATE.items() if not name.startswith("classifier")}
    safetensors.numpy.save_file(headless, tmp_path / "headless.safetensors")
    safetensors.numpy.save_file(STATE, tmp_path / "unnamed.safetensors")
    write_checkpoint(tmp_path / "pretrained.pt", STATE, "densenet-tiny", Provenance(method="byol"))
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    for name, why in (
        ("headless.safetensors", "the file has none; give a model with a head for the 14"),
        ("pretrained.pt", r"the head is not trained \(the origin is byol\)"),
        ("unnamed.safetensors", "give --head keep"),
        ("cut.pt", "cut, damaged or no checkpoint"),
        ("empty", "has neither final.pt nor best.pt"),
        ("gone.pt", "no such file; give a checkpoint, or"),
    ):
        with pytest.raises(BadInput, match=why) as caught:
            read_models([tmp_path / name], "densenet-tiny", None)
        assert str(caught.value).startswith(str(tmp_path / name))
    assert read_models([tmp_path / "unnamed.safetensors"], "densenet-tiny", "keep")


def test_a_model_of_another_architecture_ends_the_command(tmp_path: Path) -> None:
    file = tmp_path / "tiny.pt"
    write_checkpoint(file, STATE, "densenet-tiny", Provenance(method="random"))
    result = run(
        "flower-evaluate",
        *(file, "--run", tmp_path / "run", "--insecure", "--listen", f"127.0.0.1:{free_port()}"),
    )
    assert_one_line(result, 2, str(file), "a densenet-tiny, but the run is for densenet121")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_goes_on_with_its_own_models_and_seed_alone(tmp_path: Path) -> None:
    def reopen(models: list[Model], seed: int, folder: str = "run", log: str = "text") -> bool:
        given = ["x.pt", "--insecure", "--resume", "--run", str(tmp_path / folder)]
        given += ["--log-format", log]
        found, resumed = open_folder(parse(EvaluateSettings, given), models, seed, 40)
        found.log.close()
        return resumed

    models = [model_of("a"), model_of("b")._replace(packed=b"other")]
    assert not reopen(models, 7)
    assert reopen(models, 7, log="json")
    with pytest.raises(BadInput, match=r"was started with other models \(a, b\); give the same"):
        reopen(models[::-1], 7)
    with pytest.raises(BadInput, match="--seed is 8, but the run was started with 7"):
        reopen(models, 8)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "config.json").write_text('{"run_id": "r", "init": "random"}')
    with pytest.raises(BadInput, match="train: has no evaluation; give another --run"):
        reopen(models, 7, "train")
