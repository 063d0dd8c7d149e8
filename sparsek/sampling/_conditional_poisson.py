"""Conditional Poisson sampling: the design of maximum entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek.functional._calibration import calibrate, free_units
from sparsek.functional._conditional_poisson import covariance, log_normaliser
from sparsek.functional._conditional_poisson_sample import count_levels, draw_counts
from sparsek.functional._poisson_binomial import tilt

from ._design import Design


@dataclass(frozen=True)
class ConditionalPoisson(Design):
    r"""Conditional Poisson sampling, the design of maximum entropy among those with given π and size k.

    $$P(s) = \frac{\exp ⟨θ, s⟩}{e_k(e^θ)}, \quad |s| = k, \qquad θ \text{ such that } E[s] = π.$$

    θ is found from π by Newton's method on the log-odds of the inclusion probabilities, 3 or 4 steps also for π
    within 1e-8 of 0 or 1. Everything is O(n) by the contour integral of :func:`sparsek.functional.log_esp`:
    calibration, `log_prob` and its gradient, which is $∂θ/∂π = H^{-1}$ (H the covariance of the sample) applied to s
    − π, by the implicit function theorem; exact, and twice differentiable. `joint` is $H_{ij} + π_i π_j$. Draws split
    k along a binary tree of the units, O(n log n) each, exact, without rejection.

    The law is smooth in π everywhere inside (0, 1), which makes this the design for score-based gradients. Units with
    π = 0 are never taken and units with π = 1 always; their π gets gradient 0. k = 0 takes none and k = n all. With
    natural parameters at hand instead of π, use `sparsek.distributions.ConditionalPoisson`, which needs no calibration.

    Example:
        >>> import torch
        >>> from sparsek.sampling import ConditionalPoisson
        >>> probs = torch.tensor([0.5, 0.25, 0.75, 0.5])
        >>> ConditionalPoisson().sample(probs, (3,), generator=torch.Generator().manual_seed(0)).sum(-1)
        tensor([2., 2., 2.])
        >>> ConditionalPoisson().log_prob(probs, torch.tensor([1, 0, 1, 0])).exp()
        tensor(0.3081)

    References:
        Hájek (1964). Asymptotic theory of rejective sampling with varying probabilities from a finite population.
        https://doi.org/10.1214/aoms/1177700375

        Chen, Dempster and Liu (1994). Weighted finite population sampling to maximize entropy.
        https://doi.org/10.1093/biomet/81.3.457

        Tillé (2006). Sampling Algorithms, chapter 5. https://doi.org/10.1007/0-387-34240-0
    """

    smooth: ClassVar[bool] = True

    def _sample(self, probs: Tensor, size: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        logits, _ = _natural(probs, size)
        rows = tilt(torch.where(probs >= 1, torch.inf, logits), size.unsqueeze(-1))
        levels = count_levels(rows.probs, rows.complement)
        return draw_counts(levels, size, draws, probs.shape[-1], generator)

    def _log_prob(self, probs: Tensor, sample: Tensor, size: Tensor) -> Tensor:
        logits, left = _natural(probs, size)
        free = free_units(probs)
        score = (torch.where(free, logits, 0.0) * sample).sum(-1)
        impossible = (~free & (sample != probs)).any(-1)
        return (score - log_normaliser(logits, left)).masked_fill(impossible, -torch.inf)

    def _joint(self, probs: Tensor, size: Tensor) -> Tensor:
        return covariance(*_natural(probs, size)) + probs.unsqueeze(-1) * probs.unsqueeze(-2)


def _natural(probs: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Natural parameters of the units inside (0, 1), −inf at the others, and how many of the former are taken."""
    left = size.unsqueeze(-1) - (probs >= 1).sum(-1, keepdim=True)
    theta = calibrate(probs, left)
    return torch.where(free_units(probs), theta, -torch.inf), left
