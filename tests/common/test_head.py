import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.checkpoint import read_checkpoint, write_checkpoint
from common.errors import BadInput
from common.fit import fit
from common.model import build_model, state_of
from common.options import HeadChoice
from common.provenance import Provenance
from common.state import State
from tests.support.foreign import FEATURES, WIDTH, head, old_names, trained, uncounted, under

SEED = 4


def read(
    content: dict[str, Any], choice: HeadChoice | None = None, *, ours: bool = False
) -> tuple[State, str]:
    return fit(content, "densenet-tiny", SEED, choice, "c.pt", ours=ours)


def is_random(state: State) -> bool:
    fresh = state_of(build_model("densenet-tiny", SEED))
    return all(np.array_equal(state[n], fresh[n]) for n in ("classifier.weight", "classifier.bias"))


def is_the_files(state: State, outputs: int = 14) -> bool:
    return all(np.array_equal(state[name], tensor) for name, tensor in head(outputs).items())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def chexnet(
    features: dict[str, torch.Tensor], prefix: str = "module.densenet121."
) -> dict[str, Any]:
    """Return a file as CheXNet's: github.com/arnoweng/CheXNet, model.py.

    ``DenseNet121.densenet121.classifier`` is Sequential(Linear, Sigmoid), under DataParallel.
    """
    return {"state_dict": under(prefix, {**features, **head(14, "classifier.0")})}


def test_chexnets_head_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    state, taken = read(chexnet(old_names(uncounted(FEATURES))))
    assert is_the_files(state)
    assert taken == (
        "state_dict, prefix module.densenet121., head kept: classifier.0.weight, in CheXNet's order"
    )
    assert not warnings_in(caplog)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("prefix", ["module.densenet121.", "model."])
def test_chexperts_head_in_chexnets_layout_is_not_taken_for_it(frozen: bool, prefix: str) -> None:
    """Programs for CheXpert have 14 other findings in the same layout, but count batches.

    CheXpert is from 2019, num_batches_tracked from torch 0.4.1, of 2018. See for example
    www.kaggle.com/hmchuong/chexpert-pytorch-densenet121. Where BatchNorm is frozen, as for a
    linear probe, the count stays at zero.
    """
    features = FEATURES if frozen else trained(FEATURES)
    with pytest.raises(BadInput, match=r"14 outputs \(classifier\.0\.weight\).*--head replace"):
        read(chexnet(features, prefix))


@pytest.mark.parametrize("name", ["classifier", "fc", "classifier.1", "head", "class_layers.out"])
def test_14_findings_in_an_unknown_order_are_asked_about(name: str) -> None:
    content = {**FEATURES, **head(14, name)}
    with pytest.raises(BadInput, match=r"c\.pt: its head has 14 outputs.*--head keep .*--head rep"):
        read(content)
    assert is_the_files(read(content, "keep")[0])
    state, taken = read(content, "replace")
    assert is_random(state)
    assert "head replaced" in taken


@pytest.mark.parametrize("outputs", [1, 2, 5, 13, 15, 18])
@pytest.mark.parametrize("name", ["classifier", "classifier.0", "cls"])
def test_another_number_of_findings_is_replaced_with_one_warning(
    outputs: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, taken = read({**FEATURES, **head(outputs, name)})
    assert is_random(state)
    (warning,) = warnings_in(caplog)
    reason = f"its head has {outputs} outputs, not the 14 findings"
    assert warning == f"warning: c.pt: {reason}; a random one replaces it"
    assert taken.endswith(f"head random: {reason}")


@pytest.mark.parametrize(
    "layers",
    [
        {"classifier.0.weight": torch.ones(64, WIDTH), "classifier.2.weight": torch.ones(14, 64)},
        {"classifier.weight": torch.ones(14, WIDTH)},
        # jfhealthcare/Chexpert, model/classifier.py: a convolution for each finding
        {f"fc_{i}.weight": torch.ones(1, WIDTH, 1, 1) for i in range(5)},
        # fastai, vision/learner.py: the head's linear layers follow a double pooling
        {"1.4.weight": torch.ones(512, 2 * WIDTH), "1.8.weight": torch.ones(14, 512)},
        {"classifier.weight": torch.ones(14, 3), "classifier.bias": torch.ones(14)},
    ],
)
def test_another_kind_of_head_is_replaced_with_one_warning(
    layers: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    state, _ = read({**FEATURES, **layers})
    assert is_random(state)
    (warning,) = warnings_in(caplog)
    assert f"is not one linear layer of 14 findings ({next(iter(layers))}: " in warning


@pytest.mark.parametrize("tensors", [{}, head(1000)])
def test_no_head_and_imagenets_are_replaced_without_a_warning(
    tensors: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    state, taken = read({**FEATURES, **tensors})
    assert is_random(state)
    assert not warnings_in(caplog)
    assert "head random: " in taken


@pytest.mark.parametrize("tensors", [{}, head(1000), head(18)])
def test_a_head_that_does_not_fit_cannot_be_kept(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BadInput, match=r"--head keep: c\.pt: .*give --head replace"):
        read({**FEATURES, **tensors}, "keep")


def test_our_own_head_is_kept_unless_it_is_not_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.pt"
    state = state_of(build_model("densenet-tiny", 1))
    write_checkpoint(path, state, "densenet-tiny", Provenance(method="fedavg"))
    own, provenance = read_checkpoint(path, "densenet-tiny", SEED)
    assert np.array_equal(own["classifier.weight"], state["classifier.weight"])
    assert provenance.taken is None
    replaced, provenance = read_checkpoint(path, "densenet-tiny", SEED, "replace")
    assert is_random(replaced)
    assert provenance.describe() == "fedavg (state_dict, prefix none, head replaced)"
    assert not warnings_in(caplog)


def test_a_head_of_ours_without_its_origin_is_asked_about(tmp_path: Path) -> None:
    content = {"format": 1, "architecture": "densenet-tiny", "state_dict": {**FEATURES, **head(14)}}
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(BadInput, match="14 outputs"):
        read_checkpoint(tmp_path / "c.pt", "densenet-tiny", SEED)


def test_a_kept_head_is_finite() -> None:
    tensors = {**FEATURES, **head(14)}
    tensors["classifier.bias"] = torch.full((14,), torch.inf)
    with pytest.raises(BadInput, match=r"classifier\.bias is not finite"):
        read(tensors, "keep")
    assert is_random(read(tensors, "replace")[0])
