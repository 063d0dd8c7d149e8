"""Sigmoid top-k as the optimum of an entropy-regularised problem, its inverse, its Jacobian, and rows that are hard to solve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from part import Run, seeded
from scipy.optimize import minimize
from scipy.special import entr, logit
from torch import Tensor

from sparsek.functional import sigmoid_topk


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Everything of this part."""
    for seed in grid["seeds"]:
        for n in grid["units"]:
            yield Run(f"optimum: n = {n}", seed, partial(against_scipy, n, seed))
        for dtype in (torch.float32, torch.float64):
            name = str(dtype).removeprefix("torch.")
            yield Run(f"inverse: {name}", seed, partial(inverse, grid["large"], dtype, seed, device))
        yield Run("laws: float64", seed, partial(laws, seed))


def root_runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """The error of the sum on hard rows, of sigmoid top-k and of a bisection between fixed ends."""
    for seed in grid["seeds"]:
        for name, x in hard_rows(seed).items():
            yield Run(f"root: {name}", seed, partial(errors_of_the_sum, x.to(device)))


def against_scipy(n: int, seed: int) -> dict[str, float]:
    """Distance to the optimum that scipy's SLSQP finds for xᵀπ + Σ H(πᵢ), and by how much it is better."""
    x = 2 * torch.randn(n, generator=seeded(seed), dtype=torch.float64)
    k = float(1 + (n - 2) * torch.rand((), generator=seeded(seed + 1), dtype=torch.float64))
    probs = sigmoid_topk(x, k).numpy()

    def loss(pi: np.ndarray) -> float:
        return -float(x.numpy() @ pi + entr(pi).sum() + entr(1 - pi).sum())

    found = minimize(
        loss,
        np.full(n, k / n),
        jac=lambda pi: logit(pi) - x.numpy(),
        method="SLSQP",
        bounds=[(1e-12, 1 - 1e-12)] * n,
        constraints={"type": "eq", "fun": lambda pi: pi.sum() - k, "jac": lambda pi: np.ones(n)},
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    return {
        "distance to scipy": float(np.abs(found.x - probs).max()),
        "objective over scipy": float(found.fun - loss(probs)),
    }


def inverse(n: int, dtype: torch.dtype, seed: int, device: str) -> dict[str, float]:
    """How far logit(π) − x is from a constant, at n units and k = n / 4, where π is neither 0 nor 1 in this precision."""
    x = torch.randn(n, generator=seeded(seed), dtype=dtype).to(device)
    probs = sigmoid_topk(x, n / 4)
    shift = torch.logit(probs.double()) - x.double()
    return {"spread of logit(π) − x": float(shift.max() - shift.min()), "error of the sum": _error(probs, n / 4)}


def laws(seed: int) -> dict[str, float]:
    """Properties that softmax has too, as the largest violation found: order, shift, symmetric Jacobian, rows of it."""
    x = torch.randn(12, generator=seeded(seed), dtype=torch.float64)
    k = torch.tensor(4.3, dtype=torch.float64)
    jacobian_x, jacobian_k = torch.func.jacrev(sigmoid_topk, (0, 1))(x, k)
    probs = sigmoid_topk(x, k)
    return {
        "order": float((-probs[x.argsort()].diff()).clamp(min=0).max()),
        "shift by 1000": float((sigmoid_topk(x + 1000, k) - probs).abs().max()),
        "asymmetry of the Jacobian": float((jacobian_x - jacobian_x.T).abs().max()),
        "row sums of the Jacobian": float(jacobian_x.sum(-1).abs().max()),
        "sum of ∂π/∂k less 1": float((jacobian_k.sum() - 1).abs()),
        "T → 0: distance to top-k": _top_distance(sigmoid_topk(x, 4, temperature=1e-4), x, 4),
        "T → ∞: distance to k/n": float((sigmoid_topk(x, k, temperature=1e8) - k / 12).abs().max()),
    }


def hard_rows(seed: int) -> dict[str, Tensor]:
    """Rows on which root-finders fail: all equal and long, two plateaus, a million units of no scale, an outlier."""
    cauchy = torch.randn(2, 1_000_000, generator=seeded(seed))
    jump = torch.randint(50, 150, (), generator=seeded(seed)).item()
    return {
        "all equal, n = 2,300,000": torch.zeros(2_300_000),
        "normal, n = 1,000,000": cauchy[0],
        "Cauchy, n = 1,000,000": cauchy[0] / cauchy[1],
        "two plateaus": torch.cat((torch.zeros(50), torch.full((50,), float(jump)))),
        "outlier of 1e38": torch.cat((torch.full((1,), 1e38), torch.randn(999, generator=seeded(seed)))),
        "offset of 1e6": 1e6 + torch.randn(10_000, generator=seeded(seed)),
        "geometric": torch.cat([s * torch.logspace(-30, 37, 100) for s in (1, -1)]),
    }


def errors_of_the_sum(x: Tensor) -> dict[str, float]:
    """|Σπ − 1| at k = 1: of sigmoid top-k, and of 50 bisections of [−10, 10] for the shift, which is what people copy."""
    return {"sigmoid top-k": _error(sigmoid_topk(x, 1), 1), "bisection of [-10, 10]": _error(copied_bisection(x, 1), 1)}


def copied_bisection(x: Tensor, k: float) -> Tensor:
    """The loop as it is found in public snippets."""
    low, high = x.new_tensor(-10.0), x.new_tensor(10.0)
    for _ in range(50):
        middle = (low + high) / 2
        over = torch.sigmoid(x + middle).sum() > k
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return torch.sigmoid(x + (low + high) / 2)


def _error(probs: Tensor, k: float) -> float:
    return abs(float(probs.double().sum()) - k)


def _top_distance(probs: Tensor, x: Tensor, k: int) -> float:
    return float((probs - torch.zeros_like(probs).scatter(-1, x.topk(k).indices, 1.0)).abs().max())
