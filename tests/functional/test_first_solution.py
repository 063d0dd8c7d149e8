"""The first solution of a row is right: what solves lost rows again must not be what makes ordinary rows right."""

import pytest
import torch
from torch import Tensor

from sparsek.functional import _project_capped_simplex as projection
from sparsek.functional import _tails as tails
from sparsek.functional import doubly_capped, lapsum_topk, project_capped_simplex
from sparsek.functional._shape import SHAPES
from sparsek.kernels import Backend, use_backends


@pytest.fixture
def never_again(monkeypatch):
    """Take the first solution as it is."""
    for module in (projection, tails):
        monkeypatch.setattr(module, "resolve_lost_rows", lambda x, k, width, solved, *rest: solved)


def bisected(distribution, x: Tensor, k: Tensor) -> Tensor:
    x = x.double()
    low, high = x.amin(-1, keepdim=True) - 60, x.amax(-1, keepdim=True) + 60
    for _ in range(200):
        middle = (low + high) / 2
        large = distribution(x - middle).sum(-1, keepdim=True) > k.unsqueeze(-1)
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    return distribution(x - low)


def laplace(z: Tensor) -> Tensor:
    return torch.where(z < 0, z.clamp(max=0).exp() / 2, 1 - (-z.clamp(min=0)).exp() / 2)


OPERATORS = {
    "projection": (project_capped_simplex, lambda z: z.clamp(0, 1)),
    "lapsum": (lapsum_topk, laplace),
}


@pytest.mark.parametrize("n", [5, 200, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["projection", "lapsum"])
def test_ordinary_rows(never_again, name, dtype, n):
    """Every batch has a k below one, in the middle and close to n."""
    operator, distribution = OPERATORS[name]
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(0), dtype=dtype)
    k = torch.tensor([0.5, 1.0, n / 3, n - 0.25], dtype=torch.float64)
    with use_backends(Backend.EAGER):
        found = operator(x, k)
        one = operator(x[2], k[2].item())
    assert found.sum(-1).sub(k).abs().max() <= (1e-9 if dtype == torch.float64 else 1e-5) * n
    tolerance = 1e-10 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.double(), bisected(distribution, x, k), rtol=0, atol=tolerance)
    torch.testing.assert_close(one, found[2], rtol=0, atol=tolerance)


def test_tokens_without_experts_are_refused_and_experts_without_tokens_are_not():
    for shape in ((0,), (4, 0), (2, 3, 0)):
        with pytest.raises(ValueError, match=r"input must have shape \(\.\.\., tokens, experts >= 1\), got"):
            doubly_capped(torch.zeros(shape), 1, 2)
    assert doubly_capped(torch.zeros(2, 0, 3), 1, 2).probs.shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1e4])
def test_the_threshold_gives_the_probabilities_back(dtype, spread):
    """σ((x − τ)/T) = π for the τ that derivatives are taken at, also where most units are at 0 or 1."""
    x = spread * torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=dtype)
    k = torch.tensor([0.5, 3.5, 17.25, 20.0, 39.5], dtype=torch.float64).unsqueeze(-1)
    with use_backends(Backend.EAGER):
        probs, threshold = SHAPES["sigmoid"].solve(x, k, 0.7)
    again = ((x.double() - threshold) / 0.7).sigmoid()
    fine = 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(again, probs.double(), rtol=0, atol=fine * max(spread, 10))
