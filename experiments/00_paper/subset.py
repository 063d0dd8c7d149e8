"""A toy: find the five of ten numbers that a k-hot sample should name, by gradients of its expected loss alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from part import Run, seeded, support
from torch import Tensor

from sparsek.distributions import ConditionalPoisson as NaturalConditionalPoisson
from sparsek.distributions import GumbelTopK
from sparsek.estimators import (
    IMLE,
    LossEstimator,
    MuProp,
    PathwiseEstimator,
    ReinMax,
    Relaxed,
    ScoreFunction,
    SecondOrder,
    Simple,
    StraightThrough,
)
from sparsek.functional import sigmoid_topk
from sparsek.sampling import ConditionalPoisson

DESIGN = ConditionalPoisson()
ESTIMATORS: dict[str, PathwiseEstimator | LossEstimator] = {
    "straight-through": StraightThrough(),
    "second order": SecondOrder(),
    "ReinMax, k-hot": ReinMax(),
    "score function": ScoreFunction(),
    "MuProp": MuProp(),
    "SIMPLE": Simple(),
    "I-MLE": IMLE(),
    "relaxed, hard": Relaxed(),
}


def runs(grid: Mapping[str, Any], device: str) -> Iterator[Run]:
    """Every rate with the seed of tuning, then every rate with each seed of the test: the figure takes the rate that tuning chose."""
    for name in ESTIMATORS:
        for rate in grid["rates"]:
            together = cache(partial(train, name, rate, grid))
            for seed in seeds(grid):
                yield Run(f"subset: {name}", seed, partial(_one, together, seed), f"lr {rate:g}")


def seeds(grid: Mapping[str, Any]) -> tuple[int, ...]:
    """That of tuning, and those of the test."""
    return (grid["tuning"], *grid["seeds"])


def _one(together: Callable[[], dict[int, dict[str, float]]], seed: int) -> dict[str, float]:
    return together()[seed]


def train(name: str, rate: float, grid: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Expected loss, by enumeration, above that of the best subset, as a share of what chance has; every seed is a row."""
    n, k, all_seeds = grid["units"], grid["k"], seeds(grid)
    target = torch.stack([torch.randn(n, generator=seeded(seed), dtype=torch.float64) for seed in all_seeds])
    x = torch.nn.Parameter(torch.zeros(len(all_seeds), n, dtype=torch.float64))
    optimizer = torch.optim.Adam([x], lr=rate)
    generator, samples = seeded(0), support(n, k)
    every = (samples[:, None] - target).square().sum(-1)
    least, chance = every.amin(0), every.mean(0)
    found: dict[int, dict[str, float]] = {seed: {} for seed in all_seeds}
    for step in range(1, grid["steps"] + 1):
        loss = surrogate(name, x, k, target, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (grid["steps"] // 10) == 0:
            expected = (log_law(name, x.detach(), k, samples[:, None].expand(-1, *x.shape)).exp() * every).sum(0)
            for seed, excess in zip(all_seeds, ((expected - least) / (chance - least)).tolist(), strict=True):
                found[seed][f"excess, step {step}"] = excess
    return found


def surrogate(name: str, x: Tensor, k: int, target: Tensor, generator: torch.Generator) -> Tensor:
    """A loss of two samples a row, summed over rows: leave-one-out baselines need two, so all have two."""
    estimator = ESTIMATORS[name]
    if isinstance(estimator, LossEstimator):
        mean = estimator.surrogate(
            lambda s: (s - target).square().sum(-1), x, k, design=DESIGN, num_samples=2, generator=generator
        )
        return mean * len(x)
    sample = estimator(x.expand(2, *x.shape), k, design=DESIGN, generator=generator)
    return (sample - target).square().sum() / 2


def log_law(name: str, x: Tensor, k: int, samples: Tensor) -> Tensor:
    """Return log P of samples under what the estimator draws from; of I-MLE, whose law has no formula, by conditional Poisson's."""
    if name in ("SIMPLE", "I-MLE"):
        return NaturalConditionalPoisson(k, logits=x).log_prob(samples)
    if name == "relaxed, hard":
        return GumbelTopK(k, logits=x).log_prob(samples)
    return DESIGN.log_prob(sigmoid_topk(x, k), samples, k=k)
