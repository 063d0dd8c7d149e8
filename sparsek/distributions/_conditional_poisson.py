"""The conditional Poisson law by its natural parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsek.functional import (
    conditional_poisson_covariance,
    conditional_poisson_marginals,
    conditional_poisson_sample,
    log_esp,
)

from ._natural import Free, LogitSubset


class ConditionalPoisson(LogitSubset):
    r"""Independent picks conditioned on their number k: the exponential family on k-subsets.

    $$P(s) = \frac{e^{⟨θ, s⟩}}{e_k(e^θ)}, \quad \sum_i s_i = k,$$

    with $e_k$ the elementary symmetric polynomial. Of all laws with the same inclusion probabilities it has the largest
    entropy. `logits` are its natural parameters θ, not the log-odds of its inclusion probabilities (which are `mean`,
    the gradient of $\log e_k$); for a law with given inclusion probabilities use `KHot(probs,
    sampling.ConditionalPoisson())`.

    Everything is exact, by formula, and differentiable: `log_prob`, `mean`, `entropy` and KL in O(n), `covariance` in
    O(n²); `mode` is the top k. +inf is always in, −inf never; k = 0 and k = n are legal. At k = 1 it is the
    categorical law.

    Shape:
        - logits: (..., n), giving batch_shape (...), broadcast with k, and event_shape (n,).

    Args:
        k: Whole number of picks, from the number of logits at +inf to the number above −inf; or a tensor of them, one
            per row.
        logits: Natural parameters. A constant added to a row changes nothing.
        validate_args: As everywhere in :mod:`torch.distributions`.

    Raises:
        ValueError: If `logits` is not floating-point or has NaN, or `k` is out of range.

    Example:
        >>> import torch
        >>> from sparsek.distributions import ConditionalPoisson
        >>> law = ConditionalPoisson(2, torch.tensor([3.0, 2.0, 1.0]).log())
        >>> law.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp()  # 3·2 / (3·2 + 3·1 + 2·1)
        tensor(0.5455)
        >>> law.mean
        tensor([0.8182, 0.7273, 0.4545])

    References:
        Hájek (1964). Asymptotic theory of rejective sampling with varying probabilities from a finite population.
        https://doi.org/10.1214/aoms/1177700375
        Chen, Dempster, Liu (1994). Weighted finite population sampling to maximize entropy.
        https://doi.org/10.1093/biomet/81.3.457
    """

    @property
    def mean(self) -> Tensor:
        """Inclusion probabilities."""
        return _mean(self._free()).to(self.logits.dtype)

    @property
    def covariance(self) -> Tensor:
        """Covariance matrix, batch_shape + (n, n)."""
        return conditional_poisson_covariance(self.logits, self._whole_k())

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape sample_shape + batch_shape + (n,), without gradient."""
        return conditional_poisson_sample(self.logits, self._whole_k(), tuple(sample_shape), generator)

    def entropy(self) -> Tensor:
        r"""Return the entropy in nats, $\log e_k(e^θ) - ⟨θ, π⟩$."""
        return self.cross_entropy(self).to(self.logits.dtype)

    def cross_entropy(self, other: ConditionalPoisson) -> Tensor:
        r"""Return $-E \log Q(s)$ for s of this law and Q of `other`, in float64: +inf where Q does not cover it."""
        mine, theirs = self._free(), other._free()
        weighted = torch.where(theirs.logits > -torch.inf, _mean(mine) * _finite(theirs.logits), 0.0).sum(-1)
        excluded = (theirs.logits == -torch.inf) & ~theirs.certain
        uncovered = (excluded & _possible(mine)) | (theirs.certain & ~_always(mine))
        wrong = uncovered.any(-1) | torch.as_tensor(self.k != other.k, device=weighted.device)
        return (log_esp(theirs.logits, theirs.k) - weighted).masked_fill(wrong, torch.inf)

    def _log_prob_free(self, free: Free, selected: Tensor, possible: Tensor) -> Tensor:
        return torch.where(selected, _finite(free.logits), 0.0).sum(-1) - log_esp(free.logits, free.k)

    def _whole_k(self) -> int | Tensor:
        return self.k if isinstance(self.k, Tensor) else int(self.k)


class ConditionalPoissonStraightThrough(ConditionalPoisson):
    """A :class:`ConditionalPoisson` whose samples carry the gradient of its inclusion probabilities (straight-through).

    The gradient is unbiased for linear functions of the sample, and a first-order approximation otherwise. It is
    SIMPLE.

    References:
        Ahmed, Zeng, Niepert, Van den Broeck (2023). SIMPLE: A Gradient Estimator for k-Subset Sampling.
        https://arxiv.org/abs/2210.01941
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw as :meth:`sample` does; the gradient to `logits` is that of `mean`, the covariance."""
        mean = self.mean
        return self.sample(sample_shape, generator) + (mean - mean.detach())


def _mean(free: Free) -> Tensor:
    return conditional_poisson_marginals(free.logits, free.k) + free.certain.to(free.logits.dtype)


def _finite(logits: Tensor) -> Tensor:
    return logits.masked_fill(logits == -torch.inf, 0.0)


def _possible(free: Free) -> Tensor:
    """Units that some sample has."""
    return free.certain | ((free.logits > -torch.inf) & (free.k > 0).unsqueeze(-1))


def _always(free: Free) -> Tensor:
    """Units that every sample has."""
    candidates = free.logits > -torch.inf
    return free.certain | (candidates & (candidates.sum(-1) == free.k).unsqueeze(-1))
