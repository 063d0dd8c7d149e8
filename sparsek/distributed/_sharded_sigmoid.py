"""Sigmoid top-k of rows spread over ranks: the solver and the derivative of :mod:`sparsek.functional`, with sums that are reduced.

A start from the moments of the whole row, then the signed and, where they do not settle, the bracketed passes. What the ranks
decide on are sums over all of them, k and the temperature, which are the same everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek.functional._implicit import solve_implicitly
from sparsek.functional._reduction import Counts, count
from sparsek.functional._saturated import check_counts, solve_counted
from sparsek.functional._sigmoid_topk import SigmoidShape

from ._agreement import Arguments
from ._collectives import Replicated, Shards


def sharded_probs(arguments: Arguments, across: Shards) -> Tensor:
    """This rank's part of the probabilities, units last, with gradients."""
    scores, k, temperature = arguments
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        temperature = Replicated.apply(temperature, across.group)
    return solve_implicitly(scores, k, temperature, _Sharded(across))


class _Sharded(SigmoidShape):
    """The logistic function on rows spread over ranks."""

    def __init__(self, across: Shards) -> None:
        self.across: Shards = across

    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        batch = x.shape[:-1]
        if batch.numel() == 0:
            return torch.empty_like(x), x.new_empty((*batch, 1), dtype=torch.float64)
        rows = x.reshape(batch.numel(), x.shape[-1])
        target = torch.as_tensor(k, dtype=torch.float64, device=x.device).expand(*batch, 1).reshape(-1, 1)
        if isinstance(scale, Tensor):
            scale = scale.expand(*batch, 1).reshape(-1, 1)
        probs, threshold = _solve(rows, target, scale, self.across, validate)
        return probs.view(x.shape), threshold.view(*batch, 1)


def _solve(x: Tensor, k: Tensor, temperature: float | Tensor, across: Shards, validate: bool) -> tuple[Tensor, Tensor]:
    here = count(x)
    scores = torch.where(x.isfinite(), x, 0)
    square = torch.linalg.vector_norm(scores, dim=-1, keepdim=True, dtype=torch.float64).square()
    *sums, square = across.sums(*here, square)
    counts = Counts(*sums)
    check_counts(k, counts, validate)
    return solve_counted(x, k, temperature, _start(k, temperature, counts, square), counts, across)


def _start(k: Tensor, temperature: float | Tensor, counts: Counts, square: Tensor) -> Tensor:
    """The threshold of a bell with the mean and the variance of the row."""
    mean = counts.total / counts.units
    variance = (square / counts.units - mean.square()).clamp_min(0)
    widening = (1 + (math.pi / 8) * variance / temperature**2).sqrt()
    return mean - torch.logit((k - counts.certain) / counts.units) * widening * temperature
