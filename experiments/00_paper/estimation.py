"""Bias and spread of every estimator, by draws against enumeration; and how the bias shrinks with the curvature of the loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from part import Run, seeded, support
from torch import Tensor

from sparsek.distributions import ConditionalPoisson as NaturalConditionalPoisson
from sparsek.distributions import GumbelTopK
from sparsek.estimators import (
    LossEstimator,
    MuProp,
    PathwiseEstimator,
    ReinMax,
    Relaxed,
    ScoreFunction,
    ScoreWarning,
    SecondOrder,
    Simple,
    StraightThrough,
)
from sparsek.functional import sigmoid_topk
from sparsek.sampling import ConditionalPoisson, Design, Pivotal, Sampford, Systematic

Loss = Callable[[Tensor], Tensor]
Estimator = PathwiseEstimator | LossEstimator
DESIGNS: dict[str, Design] = {
    "conditional Poisson": ConditionalPoisson(),
    "pivotal": Pivotal(),
    "Sampford": Sampford(),
    "systematic": Systematic(),
}
SCORED = (
    "conditional Poisson",
    "pivotal",
    "Sampford",
)  # with a score: log P(s) is smooth where the scores are in general position
ON_DESIGNS: dict[str, Estimator] = {
    "straight-through": StraightThrough(),
    "second order": SecondOrder(),
    "ReinMax, k-hot": ReinMax(),
    "score function": ScoreFunction(),
    "MuProp": MuProp(),
}
OWN_LAW: dict[str, Estimator] = {"SIMPLE": Simple(), "relaxed, hard": Relaxed()}


def combinations() -> Iterator[tuple[str, Estimator, str]]:
    """Every estimator on every design on which it has a meaning; "own" where the estimator brings its law."""
    for name, estimator in ON_DESIGNS.items():
        for design in DESIGNS if name in ("straight-through", "ReinMax, k-hot") else SCORED:
            yield name, estimator, design
    for name, estimator in OWN_LAW.items():
        yield name, estimator, "own"


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Everything of this part; on the CPU in float64, whatever the device."""
    for seed in grid["seeds"]:
        for name, estimator, design in combinations():
            row = f"estimator: {name}" + ("" if design == "own" else f", {design}")
            yield Run(row, seed, partial(biases, estimator, design, grid, seed))


def losses(n: int, curvatures: list[float], seed: int) -> dict[str, Loss]:
    """A linear loss, and a network that is one at first order: f(ε s) / ε."""
    first, last = (torch.randn(shape, generator=seeded(seed), dtype=torch.float64) for shape in ((n, 8), (8,)))
    bend = 0.7 * torch.randn(8, generator=seeded(seed + 1), dtype=torch.float64)

    def network(curvature: float, s: Tensor) -> Tensor:
        return torch.tanh(curvature * (s @ first) + bend) @ last / curvature

    return {"linear": lambda s: s @ first @ last} | {f"curvature {c:g}": partial(network, c) for c in curvatures}


def law(name: str, estimator: Estimator, x: Tensor, k: int, samples: Tensor) -> Tensor:
    """Return log P of samples, differentiable in the scores, under what the estimator draws from."""
    if isinstance(estimator, Simple):
        return NaturalConditionalPoisson(k, logits=x).log_prob(samples)
    if isinstance(estimator, Relaxed):
        return GumbelTopK(k, logits=x).log_prob(samples)
    return DESIGNS[name].log_prob(sigmoid_topk(x, k), samples, k=k)


def biases(estimator: Estimator, design: str, grid: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Relative bias, what it would be by chance alone (its standard error), and relative spread, for every loss."""
    n, k, draws = grid["units"], grid["k"], grid["draws"]
    x = torch.randn(n, generator=seeded(seed + 50), dtype=torch.float64)
    found = {}
    for name, loss in losses(n, grid["curvatures"], seed).items():
        point, samples = x.clone().requires_grad_(), support(n, k)
        expectation = (law(design, estimator, point, k, samples).exp() * loss(samples)).sum()
        (exact,) = torch.autograd.grad(expectation, point)
        drawn = gradients(estimator, design, loss, x.expand(draws, n), k, seed)
        spread = drawn.std(0).norm() / exact.norm()
        found[f"bias, {name}"] = float((drawn.mean(0) - exact).norm() / exact.norm())
        found[f"standard error, {name}"] = float(spread / draws**0.5)
        found[f"spread, {name}"] = float(spread)
    return found


def gradients(estimator: Estimator, design: str, loss: Loss, rows: Tensor, k: int, seed: int) -> Tensor:
    """One estimate a row."""
    rows = rows.clone().requires_grad_()
    law_of = DESIGNS.get(design)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScoreWarning)  # the scores are in general position: no kink is near
        if isinstance(estimator, LossEstimator):
            value = estimator.surrogate(loss, rows, k, design=law_of, num_samples=2, generator=seeded(seed))
            return torch.autograd.grad(value * len(rows), rows)[0]
        sample = estimator(rows, k, design=law_of, generator=seeded(seed))
    return torch.autograd.grad(loss(sample).sum(), rows)[0]
