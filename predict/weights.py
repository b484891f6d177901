"""The formats in which a model is exported."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet

from common.errors import BadInput, FedCXRError
from common.images import crop_size
from common.model import GREY_MEAN, GREY_STD, normalised
from common.runtime.files import write_whole
from common.tensor_file import write_tensors
from predict.extra import need
from predict.metadata import LOGITS, PROBABILITIES, DataFormat, TensorFormat

Suffix = Literal[".pt", ".safetensors", ".onnx"]

TOLERANCE = 1e-4
"""Largest difference between probabilities of torch and of ONNX Runtime."""

OPSET = 20
"""Of ONNX; 2023."""


def suffix_of(path: Path) -> Suffix:
    """Return the format that a file's name tells.

    Raises:
        BadInput: It tells none.
    """
    for suffix in get_args(Suffix):
        if path.suffix == suffix:
            known: Suffix = suffix
            return known
    raise BadInput(f"{path}: the name must end with {', '.join(get_args(Suffix))}")


class Export(NamedTuple):
    """A format: how it is written, and what it takes and returns."""

    write: Callable[[DenseNet, int, Path], None]
    data_format: Callable[[int], DataFormat]
    preparation: str


class FilmToProbabilities(nn.Module):
    """A film in, probabilities out: crop, normalisation, network and sigmoid.

    Args:
        network: In evaluation mode.
        size: S.
    """

    def __init__(self, network: DenseNet, size: int) -> None:
        super().__init__()
        self.network = network
        self.side = crop_size(size)
        self.start = (size - self.side) // 2

    def forward(self, film: Tensor) -> Tensor:
        """Return the probabilities, float32, N x 14, of films, uint8, N x 1 x S x S."""
        cut = slice(self.start, self.start + self.side)
        return torch.sigmoid(self.network(normalised(film[:, 0, cut, cut].float() / 255)))


def _tensors(network: DenseNet) -> Mapping[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def _write_pt(network: DenseNet, _size: int, path: Path) -> None:
    write_tensors(path, dict(_tensors(network)))


def _write_safetensors(network: DenseNet, _size: int, path: Path) -> None:
    # transformers and others read the framework from the header.
    content = safetensors.torch.save(dict(_tensors(network)), {"format": "pt"})
    write_whole(path, lambda file: file.write(content))


def _write_onnx(network: DenseNet, size: int, path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, f"{path}: ONNX")
    model = FilmToProbabilities(network, size).eval()
    rng = np.random.default_rng(0)
    films = torch.from_numpy(rng.integers(0, 256, (2, 1, size, size), np.uint8))
    for logger in ("torch.onnx", "onnxscript"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    program = torch.onnx.export(
        model,
        (films,),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["film"],
        output_names=["probabilities"],
        dynamic_shapes={"film": {0: torch.export.Dim("films")}},
    )
    assert program is not None  # noqa: S101 - it is None without dynamo alone
    content = program.model_proto.SerializeToString()
    _check(model, films, content, path)
    write_whole(path, lambda file: file.write(content))


def _check(model: nn.Module, films: Tensor, content: bytes, path: Path) -> None:
    """Compare ONNX Runtime's probabilities with torch's, before anything is written.

    Raises:
        FedCXRError: They differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"film": films.numpy()})[0]
    with torch.inference_mode():
        expected = model(films).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise FedCXRError(
            f"{path}: not written: ONNX Runtime's probabilities differ from torch's by "
            f"{difference:.2g}"
        )


def _torch_format(size: int) -> DataFormat:
    side = crop_size(size)
    image = TensorFormat(
        type="image",
        format="magnitude",
        modality="CR, DX",
        num_channels=3,
        spatial_shape=[side, side],
        dtype="float32",
        value_range=[-GREY_MEAN / GREY_STD, (1 - GREY_MEAN) / GREY_STD],
        channel_def=dict.fromkeys(("0", "1", "2"), "grey"),
    )
    return DataFormat(inputs={"image": image}, outputs={"logits": LOGITS})


def _onnx_format(size: int) -> DataFormat:
    film = TensorFormat(
        type="image",
        format="magnitude",
        modality="CR, DX",
        num_channels=1,
        spatial_shape=[size, size],
        dtype="uint8",
        value_range=[0, 255],
        channel_def={"0": "grey"},
    )
    return DataFormat(inputs={"film": film}, outputs={"probabilities": PROBABILITIES})


_RESIZED = (
    "8-bit grey, black 0, resized to {size} x {size} with an antialiased bilinear filter, "
    "stretched if it is not square"
)

_TORCH = Export(
    _write_pt,
    _torch_format,
    f"{_RESIZED}; the central {{side}} x {{side}} pixels x become "
    f"(x / 255 - {GREY_MEAN}) / {GREY_STD}, the same in all three channels; the sigmoid of the "
    "logits is the probability",
)

EXPORTS: dict[Suffix, Export] = {
    ".pt": _TORCH,
    ".safetensors": _TORCH._replace(write=_write_safetensors),
    ".onnx": Export(
        _write_onnx,
        _onnx_format,
        f"{_RESIZED}; crop, normalisation and sigmoid are in the file",
    ),
}
"""How a model is exported, by the file's suffix."""
