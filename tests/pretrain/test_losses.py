"""Each loss against a slow, obvious loop: values and gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.methods.byol import regression_loss, target_momentum
from pretrain.methods.mocov2 import info_nce
from pretrain.methods.simclr import nt_xent

few = settings(max_examples=25, deadline=None)
temperatures = st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0])


def vectors(n: int, width: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, width, generator=rng, dtype=torch.float64))


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum((a[i] * b[i] for i in range(len(a))), torch.zeros((), dtype=a.dtype))


def assert_same(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *given: Tensor) -> None:
    one = [tensor.clone().requires_grad_() for tensor in given]
    other = [tensor.clone().requires_grad_() for tensor in given]
    loss, expected = fast(*one), slow(*other)
    torch.testing.assert_close(loss, expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(loss, one, allow_unused=True),
        torch.autograd.grad(expected, other, allow_unused=True),
        strict=True,
    ):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient)


def slow_info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    patients: Tensor,
    queue_patients: Tensor,
    temperature: float,
) -> Tensor:
    total = torch.zeros((), dtype=query.dtype)
    for q, k, patient in zip(query, key, patients.tolist(), strict=True):
        positive = (dot(q, k) / temperature).exp()
        negatives = torch.zeros((), dtype=query.dtype)
        for n, other in zip(queue, queue_patients.tolist(), strict=True):
            negatives = negatives + (other != patient) * (dot(q, n) / temperature).exp()
        total = total - (positive / (positive + negatives)).log()
    return total / len(query)


@few
@given(
    st.integers(1, 5),
    st.lists(st.integers(-1, 3), min_size=1, max_size=7),
    st.integers(2, 6),
    temperatures,
    st.integers(0, 99),
)
def test_info_nce(
    n: int, queue_patients: list[int], width: int, temperature: float, seed: int
) -> None:
    # Few patients: some queries meet keys of their own patient, some nothing else.
    queue = len(queue_patients)
    numbers = torch.arange(n) % 3, torch.tensor(queue_patients)
    assert_same(
        lambda q, k, others: info_nce(q, k, others, *numbers, temperature),
        lambda q, k, others: slow_info_nce(q, k, others, *numbers, temperature),
        vectors(n, width, seed),
        vectors(n, width, seed + 1),
        vectors(queue, width, seed + 2),
    )


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    views = [*first, *second]
    n = len(first)
    total = torch.zeros((), dtype=first.dtype)
    for i, view in enumerate(views):
        positive = (dot(view, views[(i + n) % (2 * n)]) / temperature).exp()
        others = sum(
            (dot(view, other) / temperature).exp() for j, other in enumerate(views) if j != i
        )
        total = total - (positive / others).log()
    return total / (2 * n)


@few
@given(st.integers(2, 5), st.integers(2, 6), temperatures, st.integers(0, 99))
def test_nt_xent(n: int, width: int, temperature: float, seed: int) -> None:
    assert_same(
        lambda a, b: nt_xent(a, b, temperature),
        lambda a, b: slow_nt_xent(a, b, temperature),
        vectors(n, width, seed),
        vectors(n, width, seed + 1),
    )


@few
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_regression_loss(n: int, width: int, seed: int) -> None:
    def slow(prediction: Tensor, target: Tensor) -> Tensor:
        total = torch.zeros((), dtype=prediction.dtype)
        for p, t in zip(prediction, target.detach(), strict=True):
            p_unit, t_unit = p / dot(p, p).sqrt(), t / dot(t, t).sqrt()
            total = total + dot(p_unit - t_unit, p_unit - t_unit)
        return total / len(prediction)

    assert_same(regression_loss, slow, 3 * vectors(n, width, seed), 2 * vectors(n, width, seed + 1))


@pytest.mark.parametrize("temperature", [0.001, 0.01])
def test_small_temperatures_do_not_overflow(temperature: float) -> None:
    query, key, queue = (vectors(4, 8, seed).float() for seed in range(3))
    others = torch.arange(4), torch.full((4,), -1)
    assert info_nce(query, key, queue, *others, temperature).isfinite()
    assert nt_xent(query, key, temperature).isfinite()
    # e^(1 / 0.001) is beyond any float, in both.
    assert info_nce(query, query, query, *others, temperature) == pytest.approx(
        math.log(2), rel=1e-3
    )


def test_the_targets_momentum_runs_to_1_on_a_cosine() -> None:
    assert target_momentum(0.99, 0) == pytest.approx(0.99)
    assert target_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert target_momentum(0.99, 1) == 1
