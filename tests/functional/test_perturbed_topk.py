"""Laws of perturbed top-k: its mean and its Jacobian are unbiased."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsek.functional import perturbed_topk

# With two units and k = 1: P(x_0 + σZ_0 > x_1 + σZ_1) = Φ((x_0 - x_1) / (σ√2)).
X = [0.4, -0.1]
SIGMA = 0.8
Z_LIMIT = 5.0  # a false alarm in 1.7 million runs of one comparison


def exact() -> tuple[float, float]:
    """Probability of unit 0, and its derivative in x_0."""
    z = (X[0] - X[1]) / (SIGMA * math.sqrt(2))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return 0.5 * math.erfc(-z / math.sqrt(2)), density / (SIGMA * math.sqrt(2))


def test_mean_within_its_binomial_error() -> None:
    draws = 100_000
    p = perturbed_topk(torch.tensor(X), 1, samples=draws, sigma=SIGMA, generator=torch.Generator().manual_seed(0))[
        0
    ].item()
    expected, _ = exact()
    tolerance = Z_LIMIT * math.sqrt(expected * (1 - expected) / draws)
    assert abs(p - expected) <= tolerance
    sabotaged = perturbed_topk(
        torch.tensor(X), 1, samples=draws, sigma=1.1 * SIGMA, generator=torch.Generator().manual_seed(0)
    )[0].item()
    assert abs(sabotaged - expected) > tolerance


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_the_jacobian_is_unbiased(samples: int) -> None:
    repeats = 40_000 // samples
    x = torch.tensor(X, dtype=torch.float64).expand(repeats, 2).clone().requires_grad_()
    probs = perturbed_topk(x, 1, samples=samples, sigma=SIGMA, generator=torch.Generator().manual_seed(1))
    slopes = torch.autograd.grad(probs[:, 0].sum(), x)[0][:, 0]
    error = slopes.std() / math.sqrt(repeats)
    assert abs(slopes.mean() - exact()[1]) <= Z_LIMIT * error
    assert abs(slopes.mean() * SIGMA - exact()[1]) > Z_LIMIT * error  # without the division by σ


def test_the_fraction_of_k_moves_one_unit() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    k = torch.tensor([0.5, 2.0, 4.25], dtype=torch.float64, requires_grad=True)

    def function(k: Tensor) -> Tensor:
        return perturbed_topk(x, k, samples=30, generator=torch.Generator().manual_seed(3))

    weights = torch.arange(5, dtype=torch.float64)
    slope = torch.autograd.grad((function(k) * weights).sum(), k)[0]
    backward = ((function(k.detach()) - function(k.detach() - 1e-6)) * weights).sum(-1) / 1e-6
    torch.testing.assert_close(slope, backward, rtol=1e-6, atol=1e-6)
    ones = torch.autograd.grad(function(k).sum(), k)[0]
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_a_small_sigma_is_hard_and_a_wide_one_uniform() -> None:
    x = torch.tensor([3.0, 1.0, 2.0, 0.0])
    assert perturbed_topk(x, 2, sigma=1e-3).tolist() == [1.0, 0.0, 1.0, 0.0]
    wide = perturbed_topk(x, 2, sigma=1e6, samples=20_000, generator=torch.Generator().manual_seed(4))
    assert (wide - 0.5).abs().max() <= Z_LIMIT * math.sqrt(0.25 / 20_000)


@pytest.mark.parametrize("samples", [0, -1, 1.5])
def test_bad_samples(samples: int) -> None:
    with pytest.raises(ValueError, match="samples must be"):
        perturbed_topk(torch.zeros(3), 1, samples=samples)
