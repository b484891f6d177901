import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import densenet121

from common.checkpoint import read_checkpoint, write_checkpoint
from common.errors import BadInput
from common.findings import FINDINGS
from common.model import build_model, load_state, state_of
from common.provenance import Provenance
from common.runtime.cli import Stopped
from tests.support.states import same_bits

STATE = state_of(build_model("densenet-tiny", 7))
TENSORS = {name: torch.from_numpy(array) for name, array in STATE.items()}


def test_a_checkpoint_comes_back_with_its_provenance(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    provenance = Provenance(
        method="mocov2", preset="cxr", epochs=3, seed=5, versions={"torch": "x"}
    )
    write_checkpoint(path, STATE, "densenet-tiny", provenance)
    state, found = read_checkpoint(path, "densenet-tiny", seed=0)
    assert same_bits(state, STATE)
    assert found == provenance
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_is_a_plain_torchvision_state_dict_inside(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "c.pt",
        state_of(build_model("densenet121")),
        "densenet121",
        Provenance(method="random"),
    )
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert content["architecture"] == "densenet121"
    densenet121(num_classes=14).load_state_dict(content["state_dict"], strict=True)


def test_old_torch_files_without_batch_counters_are_read(tmp_path: Path) -> None:
    tensors = {n: t for n, t in TENSORS.items() if not n.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "c.pt")
    state, _ = read_checkpoint(tmp_path / "c.pt", "densenet-tiny", seed=0, head="keep")
    assert state["features.norm0.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"features.conv0.weight": None}, "key features.conv0.weight is missing"),
        ({"features.extra": torch.ones(1)}, "key features.extra does not belong"),
        ({"features.norm0.weight": torch.ones(3)}, r"norm0.weight is \(3,\), not \(8,\)"),
        ({"features.norm0.weight": torch.full((8,), torch.nan)}, "norm0.weight is not finite"),
        (
            {"features.norm0.weight": torch.full((8,), 1e300, dtype=torch.float64)},
            "norm0.weight is not finite",
        ),
        ({"classifier.bias": torch.full((14,), torch.inf)}, "classifier.bias is not finite"),
        ({"features.norm0.weight": 3}, "norm0.weight is int"),
        ({"features.norm0.weight": torch.ones(8, dtype=torch.int8)}, r"norm0.weight holds .*int8"),
        ({"features.norm0.weight": torch.ones(8).to_sparse()}, "norm0.weight is sparse"),
        (
            {"features.norm0.weight": torch.ones(8, device="meta")},
            "norm0.weight is sparse or empty",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    tensors = {k: v for k, v in {**TENSORS, **change}.items() if v is not None}
    torch.save(tensors, tmp_path / "c.pt")
    with pytest.raises(BadInput, match=why):
        read_checkpoint(tmp_path / "c.pt", "densenet-tiny", seed=0, head="keep")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", STATE, "densenet-tiny", Provenance(method="random"))
    with pytest.raises(BadInput, match="a densenet-tiny, but the run is for densenet121"):
        read_checkpoint(tmp_path / "c.pt", "densenet121", seed=0)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE, "densenet-tiny", Provenance(method="random"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInput, match="cut, damaged or no checkpoint"):
        read_checkpoint(path, "densenet-tiny", seed=0)


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "note.pt").write_text("hello, not a checkpoint\n")
    with pytest.raises(BadInput, match=r"note\.pt: cut, damaged or no checkpoint"):
        read_checkpoint(tmp_path / "note.pt", "densenet-tiny", seed=0)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as refused:
        read_checkpoint(path, "densenet-tiny", seed=0)
    return str(refused.value).removeprefix(f"{path}: ")


def test_a_folder_in_a_files_place_is_what_docker_makes_of_a_missing_mount(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    said = refusal(tmp_path / "checkpoint.pt")
    assert said.startswith("a folder, not a file, and empty: Docker makes one where the file of")
    assert "put the checkpoint in its place" in said
    assert refusal(tmp_path) == "a folder, not a file; give a checkpoint"


def test_a_missing_file_says_whether_its_folder_looks_mounted(tmp_path: Path) -> None:
    remedy = "; give --init random, imagenet or a checkpoint"
    gone = refusal(tmp_path / "init" / "x.pt")
    asked = (
        f"no such file, as there is no folder {tmp_path / 'init'}; in a container: is it mounted?"
    )
    assert gone == asked + remedy
    assert refusal(tmp_path / "x.pt").startswith(f"no such file, as {tmp_path} is empty; in a")
    (tmp_path / "another.pt").touch()
    assert refusal(tmp_path / "x.pt") == "no such file" + remedy


def with_input(path: Path, **changes: object) -> Path:
    write_checkpoint(path, STATE, "densenet-tiny", Provenance(method="random"))
    content = torch.load(path, weights_only=True)
    content["input"] |= changes
    torch.save(content, path)
    return path


def test_outputs_in_another_order_are_refused_unless_the_head_is_replaced(tmp_path: Path) -> None:
    path = with_input(tmp_path / "c.pt", findings=[*FINDINGS[1:], FINDINGS[0]])
    assert "outputs are other findings, or in another order (Cardiomegaly, " in refusal(path)
    state, _ = read_checkpoint(path, "densenet-tiny", seed=3, head="replace")
    own = state_of(build_model("densenet-tiny", 3))
    assert np.array_equal(state["classifier.weight"], own["classifier.weight"])
    assert "input: mean: " in refusal(with_input(path, mean="much"))


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_its_input(tmp_path: Path) -> None:
    path = with_input(tmp_path / "c.pt")
    content = torch.load(path, weights_only=True)
    del content["input"]
    torch.save(content, path)
    assert same_bits(read_checkpoint(path, "densenet-tiny", seed=0)[0], STATE)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bomb-went-off",)


@pytest.mark.parametrize(
    "content", [Bomb(), {"state_dict": Bomb()}, [1], {"state_dict": 3}, {0: torch.ones(1)}]
)
def test_nothing_but_tensors_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "c.pt")
    with pytest.raises(BadInput):
        read_checkpoint(Path("c.pt"), "densenet-tiny", seed=0)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


class Settings:
    """Stands for what a program keeps beside its weights, such as Lightning's hyperparameters."""


@pytest.mark.parametrize("content", [{"state_dict": TENSORS, "settings": Settings()}, Settings()])
@pytest.mark.parametrize("zip_format", [False, True])
def test_a_file_with_objects_says_which_and_how_to_save_its_weights_alone(
    tmp_path: Path, content: object, zip_format: bool
) -> None:
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(
        BadInput, match=r"c\.pt: holds objects \(\S+\.Settings\).*torch\.save\("
    ) as e:
        read_checkpoint(tmp_path / "c.pt", "densenet-tiny", seed=0)
    assert "\n" not in str(e.value)


def test_a_program_of_torchscript_is_not_run(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "c.pt")
    recwarn.clear()
    with pytest.raises(BadInput, match=r"holds objects \(TorchScript\)"):
        read_checkpoint(tmp_path / "c.pt", "densenet-tiny", seed=0)
    assert not recwarn.list


@pytest.mark.parametrize("header", [{"format": 2}, {"provenance": {"method": "x", "who": "me"}}])
def test_a_header_that_is_not_understood_is_refused(
    tmp_path: Path, header: dict[str, object]
) -> None:
    torch.save(
        {"state_dict": TENSORS, "architecture": "densenet-tiny", **header}, tmp_path / "c.pt"
    )
    with pytest.raises(BadInput, match=next(iter(header))):
        read_checkpoint(tmp_path / "c.pt", "densenet-tiny", seed=0)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE, "densenet-tiny", Provenance(method="first"))

    def full(_content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, STATE, "densenet-tiny", Provenance(method="second"))
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
    provenance = read_checkpoint(path, "densenet-tiny", 0)[1]
    assert provenance.method == "first"


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    # torch writes behind the scenes and has an error of its own for what it could not write.
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import torch; from pathlib import Path; from common.tensor_file import write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: write_tensors(Path(sys.argv[1]), {'x': torch.zeros(1_000_000)})\n"
        "except OSError as error: print(error.strerror)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "c.pt")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "File too large\n", result.stderr
    assert not list(tmp_path.iterdir())


def test_a_signal_while_writing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Signalled(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1000:
                raise Stopped(signal.SIGTERM)
            return super().write(data)

    monkeypatch.setattr("common.tensor_file.write_whole", lambda _path, write: write(Signalled()))
    with pytest.raises(Stopped):
        write_checkpoint(tmp_path / "c.pt", STATE, "densenet-tiny", Provenance(method="random"))


def test_loading_gives_the_same_predictions(tmp_path: Path) -> None:
    one, other = build_model("densenet-tiny", 1).eval(), build_model("densenet-tiny", 2).eval()
    write_checkpoint(tmp_path / "c.pt", state_of(one), "densenet-tiny", Provenance(method="random"))
    load_state(other, read_checkpoint(tmp_path / "c.pt", "densenet-tiny", 0)[0])
    images: Tensor = torch.rand(2, 3, 64, 64)
    assert torch.equal(one(images), other(images))
