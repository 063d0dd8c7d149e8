"""Sigmoid top-k of rows spread over ranks: the solver and the derivative of :mod:`sparsek.functional`, with sums that are reduced.

A start from the moments of the whole row, then plain passes until a first-order polish is enough; for the rows that they leave, the
signed and the bracketed ones. What the ranks decide on are sums over all of them, k and the temperature, the same everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek.functional._implicit import solve_implicitly
from sparsek.functional._polish import polish_rows, precision
from sparsek.functional._reduction import Counts, count
from sparsek.functional._saturated import check_counts, solve_counted
from sparsek.functional._sigmoid_topk import SigmoidShape
from sparsek.functional._threshold import accurate_sum, newton_rows, pass_rows, sum_is_coarse

from ._agreement import Arguments
from ._collectives import Replicated, Shards

_PLAIN_PASSES = 5
"""Passes before a row is left; it ends earlier if all rows are settled, or cannot be by plain sums."""


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
    probs = torch.empty_like(x, memory_format=torch.contiguous_format)
    counts, square = _whole_moments(x, probs, across)
    check_counts(k, counts, validate)
    threshold, left = _descend(x, k, temperature, _start(k, temperature, counts, square), counts, probs, across)
    if left.numel():
        part = temperature[left] if isinstance(temperature, Tensor) else temperature
        some = Counts(*(value[left] for value in counts))
        probs[left], threshold[left] = solve_counted(x[left], k[left], part, threshold[left], some, across)
    return probs, threshold


def _whole_moments(x: Tensor, buffer: Tensor, across: Shards) -> tuple[Counts, Tensor]:
    """Counts of whole rows and the sum of their squared finite scores, which each rank forms around its own mean."""
    total = x.sum(-1, keepdim=True)
    finite = None
    if math.isfinite(total.sum().item()):
        none = torch.zeros_like(total)
        here = Counts(none, none + x.shape[-1], none, total)
    else:
        finite = x.isfinite()
        here = count(x)
    mean = (here.total / here.units.clamp_min(1)).to(x.dtype)
    torch.sub(x, mean, out=buffer)
    if finite is not None:
        buffer.masked_fill_(~finite, 0)
    square = torch.linalg.vector_norm(buffer, dim=-1, keepdim=True).double().square()
    total = mean.double() * here.units
    *sums, square = across.sums(*here._replace(total=total), square + mean.double() * total)
    return Counts(*sums), square


def _start(k: Tensor, temperature: float | Tensor, counts: Counts, square: Tensor) -> Tensor:
    """The threshold of a bell with the mean and the variance of the row."""
    mean = counts.total / counts.units
    variance = (square / counts.units - mean.square()).clamp_min(0)
    widening = (1 + (math.pi / 8) * variance / temperature**2).sqrt()
    return mean - torch.logit((k - counts.certain) / counts.units) * widening * temperature


def _descend(
    x: Tensor, k: Tensor, temperature: float | Tensor, start: Tensor, counts: Counts, probs: Tensor, across: Shards
) -> tuple[Tensor, Tensor]:
    """Plain passes into `probs`: thresholds, and which rows are left to the signed ones."""
    limits = precision(x.dtype)
    scale = temperature.to(x.dtype) if isinstance(temperature, Tensor) else temperature
    valid = counts.units + counts.certain
    target, number = torch.logit(k / valid).to(x.dtype), valid.to(x.dtype)
    resolved = (k > counts.certain) & (k < valid) & (counts.broken == 0) & start.isfinite()
    if not bool(resolved.any()):
        return start, torch.arange(len(start), device=start.device)
    threshold, step = start.to(x.dtype), torch.zeros_like(start, dtype=x.dtype)
    for _ in range(_PLAIN_PASSES):
        threshold = threshold - torch.where(resolved, step * scale, 0)
        total, spread = pass_rows(x, threshold, scale, probs)
        total, spread = across.sums(accurate_sum(probs) if sum_is_coarse(probs) else total, spread)
        step = newton_rows(total.to(x.dtype), spread.to(x.dtype), target, number)
        resolved = resolved & step.isfinite() & (spread >= limits.saturation * total)
        settled = resolved & (step.abs() <= limits.first_order)
        if bool((settled == resolved).all()):
            break
    polish_rows(probs, (k - total).to(x.dtype), spread.to(x.dtype), first_order=True)
    threshold = threshold - torch.where(settled, step * scale, 0)
    return threshold.double(), (~settled).squeeze(1).nonzero().squeeze(1)
