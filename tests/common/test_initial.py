import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import densenet121

from common.errors import BadInput
from common.initial import initial_state
from common.model import build_model, state_of
from tests.helpers import same_bits


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    one, provenance = initial_state("random", "densenet-tiny", 1)
    torch.rand(3)
    again, _ = initial_state("random", "densenet-tiny", 1)
    other, _ = initial_state("random", "densenet-tiny", 2)
    assert same_bits(one, again)
    assert not same_bits(one, other)
    assert provenance.method == "random"


def test_imagenet_weights_come_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real file's layout: torchvision's old names and a 1000-way classifier. Its hash is the
    # one thing that cannot be had without the network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = densenet121(weights=None)
    old_names = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in model.state_dict().items()
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in old_names
    cache = tmp_path / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    cache.parent.mkdir(parents=True)
    torch.save(old_names, cache)
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


def test_there_are_no_imagenet_weights_for_the_tiny_model() -> None:
    with pytest.raises(BadInput, match="densenet-tiny"):
        initial_state("imagenet", "densenet-tiny", 0)
