"""The set law of Gumbel top-k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsek.functional import topk_mask

from ._inclusion import inclusion
from ._natural import Free, LogitSubset
from ._race import log_set_probability


class GumbelTopK(LogitSubset):
    r"""The units of the k largest logits after adding independent Gumbel noise: the set law of Plackett-Luce.

    With $w = e^{logits}$ it is successive sampling: units are taken one by one, without replacement, proportionally
    to w,

    $$P(S) = \sum_{\text{orders } σ \text{ of } S} \prod_{j=1}^{k} \frac{w_{σ_j}}{\sum_i w_i - \sum_{l<j} w_{σ_l}}
           = \int_0^∞ e^{-t} \prod_{i ∈ S} \big(1 - e^{-t w_i / W}\big) dt, \quad W = \sum_{i ∉ S} w_i.$$

    `log_prob` computes the integral in O(n + k), exact to 1e-13 in float64 (absolute, or relative where $|\log P| >
    1$; checked to k = 1000); `mean`, the inclusion probabilities, is an integral too, exact to 1e-13 at a cost of O(n
    k^{3/2}). Both are differentiable. `covariance` and `entropy` are enumerated (n ≤ 16, or 2^20 entries). The
    inclusion probabilities are not those of sigmoid top-k.

    +inf is always in, −inf never; k = 0 and k = n are legal. At k = 1 it is the categorical law.

    Shape:
        - logits: (..., n), giving batch_shape (...), broadcast with k, and event_shape (n,).

    Args:
        k: Whole number of picks, from the number of logits at +inf to the number above −inf; or a tensor of them, one
            per row.
        logits: Logs of the weights.
        validate_args: As everywhere in :mod:`torch.distributions`.

    Raises:
        ValueError: If `logits` is not floating-point or has NaN, or `k` is out of range.

    Example:
        >>> import torch
        >>> from sparsek.distributions import GumbelTopK
        >>> law = GumbelTopK(2, torch.tensor([3.0, 2.0, 1.0]).log())
        >>> law.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp()  # 3/6 · 2/3 + 2/6 · 3/4
        tensor(0.5833)
        >>> law.mean
        tensor([0.8500, 0.7333, 0.4167])

    References:
        Kool, van Hoof, Welling (2019). Stochastic Beams and Where to Find Them. https://arxiv.org/abs/1903.06059
        Kool, van Hoof, Welling (2020). Estimating Gradients for Discrete Random Variables by Sampling without
        Replacement. https://arxiv.org/abs/2002.06043 Yellott (1977). The relationship between Luce's choice axiom,
        Thurstone's theory of comparative judgment, and the double exponential distribution.
        https://doi.org/10.1016/0022-2496(77)90026-8
    """

    @property
    def mean(self) -> Tensor:
        """Inclusion probabilities, by quadrature."""
        free = self._free()
        rows = free.logits.reshape(self.batch_shape.numel(), self.event_shape[0])
        picked = inclusion(rows, free.k.expand(self.batch_shape).reshape(-1)).reshape(self.logits.shape)
        return (picked + free.certain).to(self.logits.dtype)

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape sample_shape + batch_shape + (n,), without gradient."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            perturbed = self._free().logits + gumbel(shape, self.logits, generator)
            return topk_mask(perturbed.masked_fill(self.logits == torch.inf, torch.inf), self.k).to(self.logits.dtype)

    def _log_prob_free(self, free: Free, selected: Tensor, possible: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(free.logits.shape, selected.shape)
        selected = (selected & possible.unsqueeze(-1)).expand(shape)
        most = shape[-1] if isinstance(self.k, Tensor) else int(self.k)
        return log_set_probability(free.logits.expand(shape), selected, most)


class GumbelTopKStraightThrough(GumbelTopK):
    """A :class:`GumbelTopK` whose samples carry the gradient of its inclusion probabilities (straight-through).

    The gradient is unbiased for linear functions of the sample, and a first-order approximation otherwise.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw as :meth:`sample` does; the gradient to `logits` is that of `mean`."""
        mean = self.mean
        return self.sample(sample_shape, generator) + (mean - mean.detach())


def gumbel(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise in float64 (float32 on devices without it): −log of an exponential, finite always."""
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    exponential = torch.empty(shape, dtype=dtype, device=like.device).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(dtype).tiny).log()
