"""What other tools save; names and layouts are in tests/support/foreign.py and in each test."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import DenseNet, resnet18

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.fit import fit
from common.foreign import CHILDREN
from common.model import build_model
from common.state import State
from tests.support.foreign import (
    FEATURES,
    TINY,
    WIDTH,
    bare,
    head,
    monai_names,
    numbered,
    old_names,
    trained,
    under,
)


def read(content: Mapping[str, Any], **options: Any) -> tuple[State, str]:
    return fit(content, "densenet-tiny", 0, options.pop("head", None), "c.pt", **options)


def assert_features(state: State, expected: Mapping[str, Tensor] = FEATURES) -> None:
    for name, tensor in expected.items():
        assert np.array_equal(state[name], tensor.float().numpy()), name


def other() -> dict[str, Tensor]:
    """Return the features of a second encoder, different in every tensor."""
    return {name: tensor + 1 for name, tensor in FEATURES.items()}


def test_the_order_of_the_features_is_torchvisions() -> None:
    model: DenseNet = build_model("densenet-tiny")
    assert tuple(name for name, _ in model.features.named_children()) == CHILDREN


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "full": dict,
    "old": old_names,
    "monai": monai_names,
    "bare": bare,
    "bare and old": lambda tensors: bare(old_names(tensors)),
    "numbered": numbered,
}

PARTS = (
    *("module", "_orig_mod", "model", "net", "backbone", "encoder_q", "encoder", "densenet121"),
    *("online_encoder", "student", "0", "base_encoder"),
)


@settings(max_examples=120, deadline=None)
@given(
    containers=st.lists(
        st.sampled_from(["state_dict", "model_state_dict", "model", "net", "teacher", "student"]),
        max_size=3,
    ),
    parts=st.lists(st.sampled_from(PARTS), max_size=3),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    file=st.sampled_from(["zip", "legacy", "safetensors"]),
    beside=st.booleans(),
)
def test_containers_prefixes_names_and_types_make_no_difference(
    containers: list[str],
    parts: list[str],
    layout: str,
    dtype: torch.dtype,
    file: str,
    beside: bool,
) -> None:
    expected = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in FEATURES.items()
    }
    prefix = "".join(f"{part}." for part in parts)
    content: dict[str, Any] = under(prefix, LAYOUTS[layout](expected))
    if beside:
        content |= {f"{prefix}projector.0.weight": torch.ones(9, WIDTH), "queue": torch.ones(4, 9)}
        content |= under("momentum_encoder.", LAYOUTS[layout](other()))
    if file != "safetensors":
        for name in containers:
            content = {"epoch": 3, name: content, "optimizer": {"state": {0: {"step": 1}}}}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        if file == "safetensors":
            safetensors.torch.save_file(content, path)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=file == "zip")
        state, provenance = read_checkpoint(path, "densenet-tiny", 3)
    assert_features(state, expected)
    assert state.keys() == TINY.keys()
    assert all(state[name].dtype == tensor.numpy().dtype for name, tensor in TINY.items())
    assert np.array_equal(
        state["classifier.weight"], build_model("densenet-tiny", 3).classifier.weight.detach()
    )
    assert provenance.taken is not None
    assert f"prefix {prefix or 'none'}, head random: the file has none" in provenance.taken


def test_lightning(tmp_path: Path) -> None:
    """Lightning's keys: lightning.ai/docs, "Saving and loading checkpoints", "What's in it"."""
    content = {
        "epoch": 4,
        "global_step": 900,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            **under("model.", {**FEATURES, **head(14)}),
            "loss.pos_weight": torch.ones(14),
        },
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.8)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "lr_schedulers": [],
    }
    torch.save(content, tmp_path / "c.ckpt")
    state, provenance = read_checkpoint(tmp_path / "c.ckpt", "densenet-tiny", 0, "keep")
    assert_features(state, {**FEATURES, **head(14)})
    assert provenance.describe() == (
        "checkpoint (state_dict, prefix model., head kept; left out: loss, callbacks)"
    )


def test_moco_gives_its_query_encoder() -> None:
    """github.com/facebookresearch/moco, moco/builder.py: encoder_q, encoder_k, queue, queue_ptr.

    With --mlp the classifier is a Sequential of Linear, ReLU and Linear.
    """
    mlp = {
        "classifier.0.weight": torch.ones(WIDTH, WIDTH),
        "classifier.0.bias": torch.ones(WIDTH),
        "classifier.2.weight": torch.ones(128, WIDTH),
        "classifier.2.bias": torch.ones(128),
    }
    tensors = {
        **under("module.encoder_k.", {**other(), **mlp}),
        **under("module.encoder_q.", {**FEATURES, **mlp}),
        "module.queue": torch.ones(128, 64),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    state, taken = read({"epoch": 1, "arch": "densenet121", "state_dict": tensors})
    assert_features(state)
    assert "state_dict, prefix module.encoder_q., head random: its head is not one linear" in taken
    assert taken.endswith("left out: encoder_k, queue, queue_ptr")


def test_solo_learn_gives_its_backbone() -> None:
    """github.com/vturrisi/solo-learn, solo/methods/base.py: backbone, classifier, momentum_*."""
    tensors = {
        **under("momentum_backbone.", other()),
        **under("momentum_projector.0.", head(64, "x")),
        **under("backbone.", FEATURES),
        **head(100),
        "projector.0.weight": torch.ones(64, WIDTH),
    }
    state, taken = read({"state_dict": tensors})
    assert_features(state)
    assert "prefix backbone., head random: its head has 100 outputs" in taken


@pytest.mark.parametrize("layout", [bare, numbered])
def test_lightly_gives_its_backbone(layout: Any) -> None:
    """docs.lightly.ai, examples of MoCo: backbone = nn.Sequential(*list(net.children())[:-1])."""
    model = build_model("densenet-tiny", 7)
    backbone = nn.Sequential(*list(model.children())[:-1])
    names = under("0.", layout(FEATURES))
    if layout is bare:
        assert names.keys() == backbone.state_dict().keys()
    else:
        backbone = nn.Sequential(nn.Sequential(*model.features.children()), nn.AdaptiveAvgPool2d(1))
        assert names.keys() == backbone.state_dict().keys()
    tensors = {
        **under("backbone.", names),
        **under("backbone_momentum.", under("0.", layout(other()))),
        **under("projection_head.layers.0.", head(64, "x")),
        **under("projection_head_momentum.layers.0.", head(64, "x")),
    }
    state, taken = read({"state_dict": tensors})
    assert_features(state)
    assert "prefix backbone.0., head random: the file has none" in taken


def test_byol_pytorch_gives_its_online_encoder() -> None:
    """github.com/lucidrains/byol-pytorch: net and online_encoder.net are one, target_encoder."""
    tensors = {
        **under("net.", {**FEATURES, **head(18)}),
        **under("online_encoder.net.", {**FEATURES, **head(18)}),
        **under("target_encoder.net.", {**other(), **head(18)}),
        "online_encoder.projector.0.weight": torch.ones(64, WIDTH),
    }
    state, taken = read(tensors)
    assert_features(state)
    assert "its head has 18 outputs" in taken


@pytest.mark.parametrize("order", [("student", "teacher"), ("teacher", "student")])
def test_of_student_and_teacher_the_student_is_taken(order: tuple[str, str]) -> None:
    """github.com/facebookresearch/dino, main_dino.py: student, teacher, module.backbone., head."""
    encoders = {"student": FEATURES, "teacher": other()}
    content: dict[str, Any] = {
        name: {
            **under("module.backbone.", encoders[name]),
            "module.head.mlp.0.weight": torch.ones(64, WIDTH),
        }
        for name in order
    }
    state, taken = read({**content, "epoch": 3})
    assert_features(state)
    assert taken.startswith("student, prefix module.backbone., ")


def test_a_moving_average_alone_is_taken() -> None:
    state, taken = read({"teacher": under("backbone.", FEATURES), "epoch": 3})
    assert_features(state)
    assert taken.startswith("teacher, prefix backbone., ")


def test_two_encoders_that_differ_are_refused() -> None:
    with pytest.raises(BadInput, match=r"c\.pt: holds several encoders \(under left\. and right\."):
        read({**under("left.", FEATURES), **under("right.", other())})


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_within_the_network_are_taken_off(wrapper: str) -> None:
    wrapped = {
        name.replace("features.", f"features.{wrapper}.").replace(
            "denselayer1.", f"denselayer1.{wrapper}."
        ): tensor
        for name, tensor in FEATURES.items()
    }
    assert_features(read(under("model.", wrapped))[0])


def test_a_head_outside_the_encoder_is_seen() -> None:
    tensors = {**under("model.backbone.", bare(FEATURES)), **under("model.", head(14, "fc"))}
    with pytest.raises(BadInput, match=r"14 outputs \(model\.fc\.weight\).*--head keep"):
        read({"state_dict": tensors})
    state, _ = read({"state_dict": tensors}, head="keep")
    assert_features(state, {**FEATURES, **head(14)})


def test_a_head_in_a_container_of_its_own_is_seen() -> None:
    content = {"backbone": bare(FEATURES), "readout": head(14, "x")}
    with pytest.raises(BadInput, match=r"14 outputs \(readout/x\.weight\)"):
        read(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            resnet18().state_dict(),
            r"key conv1\.weight does not belong to the model; is this a dense",
        ),
        ({"state_dict": under("module.", resnet18().state_dict())}, r"key module\.conv1\.weight"),
        ({"model": {"epoch": 3}}, "holds no state_dict"),
        ({"model": {}}, "holds no state_dict"),
        (
            under("m.", {k: v for k, v in FEATURES.items() if "denselayer1.norm1" not in k}),
            r"features\.denseblock1\.denselayer1\.norm1\.weight is missing",
        ),
        (
            under("m.", bare({**FEATURES, "features.denseblock3.denselayer9.x": torch.ones(1)})),
            r"key denseblock3\.denselayer9\.x does not belong",
        ),
        (
            {"m": {**FEATURES, "features.conv0.weight": torch.ones(8, 4, 7, 7)}},
            r"features\.conv0\.weight is \(8, 4, 7, 7\), not \(8, 3, 7, 7\)",
        ),
    ],
)
def test_another_network_is_refused_with_its_first_key(content: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        read(content)


def test_a_file_that_holds_itself_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": FEATURES}
    content["again"] = content
    torch.save(content, tmp_path / "c.pt")
    assert_features(read_checkpoint(tmp_path / "c.pt", "densenet-tiny", 0)[0])


def test_counters_that_were_halved_are_read() -> None:
    halved = {name: tensor.half() for name, tensor in trained(FEATURES, 100_000).items()}
    assert torch.isinf(halved["features.norm0.num_batches_tracked"])
    state, _ = read(halved)
    assert state["features.norm0.num_batches_tracked"] == 0


def test_trained_parameters_are_read(tmp_path: Path) -> None:
    parameters = {
        name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in FEATURES.items()
    }
    torch.save(parameters, tmp_path / "c.pt")
    assert_features(read_checkpoint(tmp_path / "c.pt", "densenet-tiny", 0)[0])


def test_half_precision_that_overflowed_is_refused() -> None:
    tensors = {**FEATURES, "features.norm0.weight": torch.full((8,), 1e6).half()}
    with pytest.raises(BadInput, match=r"features\.norm0\.weight is not finite"):
        read(tensors)


def test_a_cut_safetensors_file_is_refused(tmp_path: Path) -> None:
    data = safetensors.torch.save(dict(FEATURES))
    for size in (9, 500, len(data) - 1):
        (tmp_path / "c.safetensors").write_bytes(data[:size])
        with pytest.raises(BadInput, match=r"c\.safetensors: cut, damaged or no checkpoint"):
            read_checkpoint(tmp_path / "c.safetensors", "densenet-tiny", 0)


def test_the_real_network_is_read_under_all_names() -> None:
    model = build_model("densenet121", 2).state_dict()
    features = {name: tensor for name, tensor in model.items() if name.startswith("features.")}
    for layout, dtype in product((old_names, numbered), (torch.float16, torch.bfloat16)):
        lower = {n: t.to(dtype) if t.is_floating_point() else t for n, t in features.items()}
        state, _ = fit(under("module.", layout(lower)), "densenet121", 0, None, "c.pt")
        assert_features(state, lower)
