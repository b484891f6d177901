import hashlib
import pickle
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import densenet121

from common.errors import BadInput
from common.initial import initial_state
from common.model import build_model, state_of
from tests.support.states import same_bits


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    one, provenance = initial_state("random", "densenet-tiny", 1)
    torch.rand(3)
    again, _ = initial_state("random", "densenet-tiny", 1)
    other, _ = initial_state("random", "densenet-tiny", 2)
    assert same_bits(one, again)
    assert not same_bits(one, other)
    assert provenance.method == "random"


IMAGENET = "hub/checkpoints/densenet121-a639ec97.pth"


@pytest.mark.parametrize("zip_format", [False, True])
def test_imagenet_weights_come_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip_format: bool
) -> None:
    # The real file's layout: no zip, torchvision's old names and a 1000-way classifier.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = densenet121(weights=None)
    old_names = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in model.state_dict().items()
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in old_names
    cache = tmp_path / IMAGENET
    cache.parent.mkdir(parents=True)
    torch.save(old_names, cache, _use_new_zipfile_serialization=zip_format)
    state, provenance = initial_state("imagenet", "densenet121", 3)
    assert provenance.method == "imagenet"
    own = state_of(model)
    for name, array in state.items():
        if not name.startswith("classifier."):
            assert np.array_equal(array, own[name])
    assert np.array_equal(
        state["classifier.weight"], state_of(build_model("densenet121", 3))["classifier.weight"]
    )


def test_imagenet_without_a_network_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match=r"cannot be downloaded .*densenet121-a639ec97\.pth"):
        initial_state("imagenet", "densenet121", 0)
    assert not list(tmp_path.rglob("*.pth"))


def test_imagenet_weights_are_downloaded_once_and_only_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    served = tmp_path / "served"
    served.mkdir()
    model = densenet121(weights=None)
    torch.save(model.state_dict(), served / "weights")
    digits = hashlib.sha256((served / "weights").read_bytes()).hexdigest()[:8]
    whole, changed = (served / f"densenet121-{name}.pth" for name in (digits, "0badc0de"))
    whole.write_bytes((served / "weights").read_bytes())
    changed.write_bytes((served / "weights").read_bytes())
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("common.initial.IMAGENET", f"{address}/{changed.name}")
        with pytest.raises(BadInput, match=r"cannot be downloaded \(invalid hash value"):
            initial_state("imagenet", "densenet121", 0)
        monkeypatch.setattr("common.initial.IMAGENET", f"{address}/{whole.name}")
        initial_state("imagenet", "densenet121", 0)
        server.shutdown()
    state, _ = initial_state("imagenet", "densenet121", 0)
    own = state_of(model)["features.conv0.weight"]
    assert np.array_equal(state["features.conv0.weight"], own)
    assert [path.name for path in (tmp_path / "home").rglob("*.*")] == [whole.name]


class Shout:
    """A pickle of it runs code where whatever a pickle says is believed."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("the file's code has run",)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        *((content, "cut, damaged .*copy it again") for content in (b"", b"garbage", b"\x80\x02")),
        (pickle.dumps({"features": Shout()}, 2), r"holds objects \(print\)"),
    ],
)
def test_a_damaged_or_foreign_imagenet_file_is_an_error_and_not_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    why: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / IMAGENET
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    with pytest.raises(BadInput, match=rf"densenet121-a639ec97\.pth: {why}"):
        initial_state("imagenet", "densenet121", 0)
    assert "has run" not in capsys.readouterr().out


def test_there_are_no_imagenet_weights_for_the_tiny_model() -> None:
    with pytest.raises(BadInput, match="densenet-tiny"):
        initial_state("imagenet", "densenet-tiny", 0)


@pytest.mark.parametrize("init", ["random", "imagenet"])
def test_weights_without_a_head_cannot_keep_one(init: str) -> None:
    with pytest.raises(BadInput, match=f"--head keep: --init {init} has no head"):
        initial_state(init, "densenet121", 0, "keep")
    assert initial_state("random", "densenet-tiny", 0, "replace")[1].method == "random"
