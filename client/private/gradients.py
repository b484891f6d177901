"""Gradients of single films, each shortened to a bound, added up."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.linalg import vector_norm as norm

from common.evaluation import loss_of
from common.findings import UNKNOWN
from common.options import Mode, Precision

FILMS_AT_ONCE = 8
"""Whose gradients are in memory together: 28 MB each for a DenseNet-121, and their activations."""

LARGEST = 1e30
"""Norm of a gradient that can still be shortened in float32 without loss."""

Gradients = dict[str, Tensor]


def clipped_sum(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    inputs: Tensor,
    labels: Tensor,
    bound: float,
    mode: Mode,
    precision: Precision = "fp32",
) -> Gradients:
    """Return the sum of films' gradients, each no longer than a bound, by the parameter's name.

    A film's loss is the mean over its known labels. One film changes the sum by no more than the
    bound, whatever the others are (Abadi et al., CCS 2016, algorithm 1). One whose norm is not
    finite, or beyond LARGEST, counts as zero: in a sum that is not finite no noise would hide it.

    Args:
        model: In evaluation mode, so that no film enters the forward pass of another.
        parameters: Those that are trained, by name.
        inputs: float32, B x 3 x C x C.
        labels: uint8, B x 14, with a known one for each film; B is at least 1.
        bound: Of a gradient's Euclidean norm, over all parameters.
        mode: ``linear``: the parameters are the head's.
        precision: Of the network in ``linear`` mode; otherwise it is fp32.
    """
    if mode == "linear":
        return _of_head(model, inputs, labels, bound, precision)
    total: Gradients = {name: torch.zeros_like(each) for name, each in parameters.items()}
    for start in range(0, len(inputs), FILMS_AT_ONCE):
        few = slice(start, start + FILMS_AT_ONCE)
        each = _of_films(model, parameters, inputs[few], labels[few])
        norms = torch.stack([norm(g.flatten(1), dim=1, dtype=torch.double) for g in each.values()])
        share = _share(norm(norms, dim=0), bound).float()
        for name, gradients in each.items():
            total[name] += torch.einsum("n,n...->...", share, _only(share > 0, gradients))
    return total


def _of_films(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    inputs: Tensor,
    labels: Tensor,
) -> Gradients:
    """Return each film's gradients, n x the parameter's shape.

    In fp32: where films are independent of each other, torch's BatchNorm takes no mixed types.
    """
    others = {
        name: tensor.detach()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name not in parameters
    }

    def loss(weights: Gradients, film: Tensor, known: Tensor) -> Tensor:
        return loss_of(functional_call(model, {**others, **weights}, (film[None],)), known[None])

    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    found: Gradients = vmap(grad(loss), (None, 0, 0))(weights, inputs, labels)
    return found


@torch.no_grad()
def _of_head(
    model: nn.Module, inputs: Tensor, labels: Tensor, bound: float, precision: Precision
) -> Gradients:
    """Return the sum for the head alone, whose gradients are products of two vectors.

    With the features f of a film and the slope d of its loss by the logits, the gradients are d f'
    and d, and their squared norm is |d|^2 (|f|^2 + 1).
    """
    head = model.get_submodule("classifier")
    kept: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
    try:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs).float()
    finally:
        hook.remove()
    features = kept[0].float()
    known = (labels != UNKNOWN).float()
    slopes = known * (torch.sigmoid(logits) - (labels == 1).float()) / known.sum(1, keepdim=True)
    slopes, features = slopes.double(), features.double()
    share = _share(norm(slopes, dim=1) * (norm(features, dim=1).square() + 1).sqrt(), bound)
    slopes, features = (_only(share > 0, each) for each in (slopes, features))
    slopes = slopes * share[:, None]
    return {
        "classifier.weight": (slopes.T @ features).float(),
        "classifier.bias": slopes.sum(0).float(),
    }


def _share(norms: Tensor, bound: float) -> Tensor:
    """Return by what each gradient is multiplied, given its norm: float64, n; 0 beyond LARGEST.

    Args:
        norms: float64, n: in float32 the square of a small slope is 0, whatever it is multiplied
            with after that.
        bound: Of the norm.
    """
    share = (bound / norms.clamp(min=bound)).clamp(max=1)
    return torch.where(norms < LARGEST, share, 0.0)


def _only(counts: Tensor, values: Tensor) -> Tensor:
    """Return films' values, 0 for films that do not count: zero times infinity is not zero."""
    return torch.where(counts.view(-1, *[1] * (values.dim() - 1)), values, 0.0)
