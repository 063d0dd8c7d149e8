"""Values and gradients of relaxations at n = 2 and k = 1, tempering, and the capped simplex of three units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from part import Run, seeded
from torch import Tensor

from sparsek.functional import sigmoid_topk
from sparsek.relaxations import (
    Euclidean,
    LapSum,
    Perturbed,
    Relaxation,
    ScaledSigmoid,
    SigmoidTopK,
    Sinkhorn,
    SuccessiveSoftmax,
)

RELAXATIONS: dict[str, Relaxation] = {
    "sigmoid top-k": SigmoidTopK(),
    "Euclidean projection": Euclidean(),
    "LapSum": LapSum(),
    "scaled sigmoid": ScaledSigmoid(),
    "Sinkhorn, ε = 1": Sinkhorn(epsilon=1.0),
    "successive softmax": SuccessiveSoftmax(),
    "perturbed": Perturbed(samples=2000),
}


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Everything of this part."""
    points = torch.linspace(-grid["reach"], grid["reach"], grid["points"], dtype=torch.float64, device=device)
    for name, relaxation in RELAXATIONS.items():
        for seed in grid["seeds"] if name == "perturbed" else grid["seeds"][:1]:
            yield Run(f"value: {name}", seed, partial(value_and_gradient, relaxation, points, seed))
    temperatures = grid["temperatures"]
    yield Run("temper: sigmoid top-k", grid["seeds"][0], partial(tempered, temperatures, 3, grid["seeds"][0]))
    yield Run("temper: softmax", grid["seeds"][0], partial(tempered, temperatures, None, grid["seeds"][0]))
    for k in grid["simplex"]:
        for seed in range(grid["draws"]):
            yield Run(f"simplex: k = {k:g}", seed, partial(path, temperatures, k, seed))


def value_and_gradient(relaxation: Relaxation, points: Tensor, seed: int) -> dict[str, float]:
    """π₁ of the scores (t, 0) and ∂π₁/∂t; for sigmoid top-k, the largest distance to softmax(x / 2)."""
    x = torch.stack((points, torch.zeros_like(points)), -1).requires_grad_()
    value = relaxation(x, 1, generator=seeded(seed, x.device.type))[:, 0]
    (gradient,) = torch.autograd.grad(value.sum(), x)
    value = value.detach()
    found = {f"value, t = {t:g}": v for t, v in zip(points.tolist(), value.tolist(), strict=True)}
    found |= {f"gradient, t = {t:g}": g for t, g in zip(points.tolist(), gradient[:, 0].tolist(), strict=True)}
    found["distance to softmax(x/2)"] = float((value - (x.detach() / 2).softmax(-1)[:, 0]).abs().max())
    return found


def tempered(temperatures: list[float], k: int | None, seed: int) -> dict[str, float]:
    """π of eight scores at each temperature; of softmax without a k."""
    x = torch.randn(8, generator=seeded(seed), dtype=torch.float64).sort(descending=True).values
    found = {}
    for temperature in temperatures:
        probs = (x / temperature).softmax(-1) if k is None else sigmoid_topk(x, k, temperature=temperature)
        found |= {f"unit {i}, T = {temperature:g}": value for i, value in enumerate(probs.tolist())}
    return found


def path(temperatures: list[float], k: float, seed: int) -> dict[str, float]:
    """Three units from the middle of the capped simplex (T → ∞) to a corner (T → 0)."""
    x = torch.randn(3, generator=seeded(seed), dtype=torch.float64)
    found = {}
    for temperature in temperatures:
        probs = sigmoid_topk(x, k, temperature=temperature)
        found |= {f"unit {i}, T = {temperature:g}": value for i, value in enumerate(probs.tolist())}
    return found
