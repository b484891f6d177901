"""The classifier: torchvision's DenseNet-121 with a 14-way linear head.

An 8-bit grey image x becomes (x / 255 - 0.449) / 0.226, ImageNet's statistics averaged over the
channels, the same in all three channels. The state dict so has torchvision's names and shapes:
ImageNet weights go in, plain torchvision weights come out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models import densenet121 as torchvision_densenet121

from common.errors import BadInput
from common.findings import FINDINGS
from common.options import Architecture, Mode
from common.seeds import generator
from common.state import HEAD_PREFIX, State

GREY_MEAN = 0.449
GREY_STD = 0.226


def build_model(architecture: Architecture, seed: int = 0) -> DenseNet:
    """Return a model with random weights that depend on the seed alone.

    Args:
        architecture: ``densenet121``, or ``densenet-tiny``: the same class with the same pattern
            of names and a few thousand weights, for tests of everything but learning.
        seed: Seeds torchvision's own initialisation, without touching torch's global generator.
    """
    with seeded_layers(seed, "initial weights"):
        if architecture == "densenet121":
            model = torchvision_densenet121(weights=None, num_classes=len(FINDINGS))
        else:
            model = DenseNet(
                growth_rate=4,
                block_config=(1, 1, 1, 1),
                num_init_features=8,
                bn_size=2,
                num_classes=len(FINDINGS),
            )
    # The layout that convolutions prefer, on CPUs as on tensor cores; states are not affected.
    return model.to(memory_format=torch.channels_last)


@contextmanager
def seeded_layers(seed: int, purpose: str) -> Iterator[None]:
    """Let the layers made in this block draw their weights from (seed, purpose).

    torch's layers draw from its global generator on the CPU, which is as before after the block.
    No other device is touched: ``torch.manual_seed`` would raise once an accelerator has failed.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(generator(seed, purpose).integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def to_input(images: Tensor) -> Tensor:
    """Return what the model sees of grey images.

    Args:
        images: uint8, N x H x W.

    Returns:
        float32, N x 3 x H x W.
    """
    return normalised(images.float() / 255)


def normalised(grey: Tensor) -> Tensor:
    """Return what the model sees of grey values, as :func:`to_input` for augmented images.

    Args:
        grey: float32 in [0, 1], N x H x W.

    Returns:
        float32, N x 3 x H x W.
    """
    return ((grey - GREY_MEAN) / GREY_STD).unsqueeze(1).expand(-1, 3, -1, -1)


def state_of(model: nn.Module) -> State:
    """Return a copy of the model's state as arrays on the CPU."""
    return {name: t.detach().cpu().numpy().copy() for name, t in model.state_dict().items()}


def load_state(model: nn.Module, state: State) -> None:
    """Copy arrays into the model; tensors that ``state`` does not name keep their values.

    Raises:
        KeyError: The model has no tensor of that name.
    """
    own = model.state_dict()
    with torch.no_grad():
        for name, array in state.items():
            own[name].copy_(torch.from_numpy(array))


def set_training_mode(model: nn.Module, mode: Mode) -> list[nn.Parameter]:
    """Prepare the model for local training and return the parameters to train.

    In ``linear`` mode only the head is trained; the backbone, its BatchNorm included, stays in
    evaluation mode, so that not even running statistics move.
    """
    model.train(mode == "finetune")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mode == "finetune" or name.startswith(HEAD_PREFIX))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


CUDA_MEMORY_ALLOCATION = 2
"""``cudaErrorMemoryAllocation``; CUDA Runtime API, Data types used by CUDA Runtime."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an accelerator's memory did not do; there may be enough a moment later.

    Where CUDA needs memory of its own, for a kernel that it loads for instance, torch's allocator
    is not asked, and the error is CUDA's own.
    """
    code = getattr(error, "error_code", None)
    return isinstance(error, torch.OutOfMemoryError) or code == CUDA_MEMORY_ALLOCATION


def choose_device(requested: str) -> torch.device:
    """Return the device to compute on, torch's current one now; ``auto``: the GPU if there is one.

    Raises:
        BadInput: torch does not know the device, it is not there, or neither a CPU nor a GPU.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # what asks for no device means this one
    except (RuntimeError, AssertionError):
        raise BadInput(
            f"--device {requested}: not available on this machine; try --device cpu"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise BadInput(
            f"--device {requested}: none that this project computes on; give cpu or cuda"
        )
    return device
