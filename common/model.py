"""The classifier: torchvision's DenseNet-121 with a 14-way linear head.

An 8-bit grey image x becomes (x / 255 - 0.449) / 0.226 in all three channels, with ImageNet's
statistics averaged over the channels. The state dict therefore has torchvision's names and shapes:
ImageNet weights can be loaded, and torchvision can load the result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models import densenet121 as torchvision_densenet121

from common.errors import BadInput
from common.findings import FINDINGS
from common.options import Architecture, Mode, Precision
from common.seeds import generator
from common.state import HEAD_PREFIX, State

GREY_MEAN = 0.449
GREY_STD = 0.226
CHANNELS = 3


def build_model(architecture: Architecture, seed: int = 0) -> DenseNet:
    """Return a model with random weights that depend only on the seed.

    Args:
        architecture: ``densenet121``, or ``densenet-tiny``: the same class and names with a few
            thousand weights, for tests of everything except learning.
        seed: Seed of torchvision's initialisation; torch's global generator is left unchanged.
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
    # The fastest layout for convolutions, on CPUs and GPUs; states are not affected.
    return model.to(memory_format=torch.channels_last)


@contextmanager
def seeded_layers(seed: int, purpose: str) -> Iterator[None]:
    """Derive the weights of layers created in this block from (seed, purpose).

    torch's layers draw from its global CPU generator, which is restored after the block. No other
    device is touched: ``torch.manual_seed`` would raise after a failure of the GPU.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(generator(seed, purpose).integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def last_side(side: int) -> int:
    """Return the side of DenseNet's last feature maps, in pixels, for input of ``side`` pixels.

    See the layers of Huang et al., "Densely connected convolutional networks", table 1.
    """
    for _ in range(2):  # a convolution and a pooling, both with padding
        side = (side - 1) // 2 + 1
    for _ in range(3):  # the transitions' pooling
        side //= 2
    return side


def to_input(images: Tensor) -> Tensor:
    """Return the model's input for grey images.

    Args:
        images: uint8, N x H x W.

    Returns:
        float32, N x 3 x H x W.
    """
    return normalised(images.float() / 255)


def normalised(grey: Tensor) -> Tensor:
    """Return the model's input for grey values; :func:`to_input` for augmented images.

    Args:
        grey: float32 in [0, 1], N x H x W.

    Returns:
        float32, N x 3 x H x W.
    """
    return ((grey - GREY_MEAN) / GREY_STD).unsqueeze(1).expand(-1, CHANNELS, -1, -1)


def state_of(model: nn.Module) -> State:
    """Return a copy of the model's state as arrays on the CPU."""
    return {name: t.detach().cpu().numpy().copy() for name, t in model.state_dict().items()}


def load_state(model: nn.Module, state: State) -> None:
    """Copy arrays into the model; tensors that are not in ``state`` keep their values.

    Raises:
        KeyError: The model has no tensor of that name.
    """
    own = model.state_dict()
    with torch.no_grad():
        for name, array in state.items():
            own[name].copy_(tensor_of(array))


def tensor_of(array: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor; torch takes no memory that may not be written, so copy that."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def set_training_mode(model: nn.Module, mode: Mode, statistics: bool = True) -> list[nn.Parameter]:
    """Prepare the model for local training and return the parameters to train.

    In ``linear`` mode only the head is trained. The backbone stays in evaluation mode, so that
    BatchNorm's running statistics do not change either.

    Args:
        model: Of either architecture; neither has a layer but BatchNorm that the mode changes.
        mode: What is trained.
        statistics: Whether BatchNorm normalises by the batch and follows it.
    """
    model.train(mode == "finetune" and statistics)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mode == "finetune" or name.startswith(HEAD_PREFIX))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def is_fast_in_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16.

    A CPU without them emulates bf16, far slower than fp32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # bf16: ARM


def fastest_precision(device: torch.device) -> Precision:
    """Return the precision in which a device trains fastest."""
    return "bf16" if is_fast_in_bf16(device) else "fp32"


CUDA_MEMORY_ALLOCATION = 2
"""``cudaErrorMemoryAllocation`` in the CUDA Runtime API, "Data types used by CUDA Runtime"."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the GPU is out of memory, perhaps only for a moment.

    CUDA also allocates memory without torch's allocator, for example to load a kernel. The error
    is then CUDA's.
    """
    code = getattr(error, "error_code", None)
    return isinstance(error, torch.OutOfMemoryError) or code == CUDA_MEMORY_ALLOCATION


def choose_device(requested: str) -> torch.device:
    """Return the device to compute on, and make it torch's current one.

    ``auto`` is the GPU if there is one, else the CPU.

    Raises:
        BadInput: The device is unknown, not available, or neither a CPU nor a GPU.
    """
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # the default for all later calls
    except (RuntimeError, AssertionError):
        raise BadInput(
            f"--device {requested}: not available on this machine; try --device cpu"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device {requested}: not supported; give cpu or cuda")
    return device
