"""A continuous relaxation of k-hot vectors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from sparsek._validation import check_dim, check_floating, check_k, check_positive
from sparsek.constraints import capped_simplex, rows_of
from sparsek.functional import sigmoid_topk

from ._gumbel_top_k import gumbel
from ._natural import broadcast_rows, show_k


class RelaxedKHot(Distribution):
    r"""Sigmoid top-k of logits with Gumbel noise, a law on the capped simplex.

    $$π = σ_k\big((θ + G)/τ\big), \quad G_i ∼ \mathrm{Gumbel}(0, 1) \text{ independent}, \quad \sum_i π_i = k.$$

    For temperature τ to 0 a sample tends to the top k of θ + G, so that the law tends to :class:`GumbelTopK` at whole k
    (one entry keeps the fraction at real k); for τ to ∞ it tends to the constant k/n. The noise does not depend on the
    parameters: `rsample` is differentiable in `logits`, `k` and `temperature`. The law has no known density, mean or
    entropy; they raise `NotImplementedError`.

    At n = 2, k = 1 it is the relaxed Bernoulli with logit θ₁ − θ₂ and temperature 2τ. +inf gives exactly 1, −inf
    exactly 0.

    Shape:
        - logits: (..., n), giving batch_shape (...), broadcast with k, and event_shape (n,).

    Args:
        temperature: τ > 0.
        k: What each sample sums to, in [0, n], real; or a tensor of them, one per row.
        logits: Scores θ to which the noise is added.
        validate_args: As everywhere in :mod:`torch.distributions`.

    Raises:
        ValueError: If `logits` is not floating-point or has NaN, or `temperature` or `k` is out of range.

    Example:
        >>> import torch
        >>> from sparsek.distributions import RelaxedKHot
        >>> law = RelaxedKHot(0.5, k=2, logits=torch.tensor([2.0, 1.0, 0.0, -1.0]))
        >>> bool(law.support.check(law.rsample((100,))).all())
        True

    References:
        Maddison, Mnih, Teh (2017). The Concrete Distribution. https://arxiv.org/abs/1611.00712
        Xie, Ermon (2019). Reparameterizable Subset Sampling via Continuous Relaxations.
        https://arxiv.org/abs/1901.10517
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": rows_of(constraints.real)}
    has_rsample = True

    def __init__(
        self, temperature: float | Tensor, k: float | Tensor, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        check_floating("logits", logits)
        check_dim("logits", logits, -1)
        check_positive("temperature", temperature)
        self.logits, self.k = broadcast_rows(logits, k)
        check_k(self.k, self.logits.shape[:-1], self.logits.shape[-1])
        self.temperature = temperature
        super().__init__(self.logits.shape[:-1], self.logits.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Constraint:
        """The capped simplex."""
        return capped_simplex(self.k)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedKHot:
        """Return the distribution with parameters expanded to `batch_shape`, not copied."""
        new: RelaxedKHot = self._get_checked_instance(RelaxedKHot, _instance)
        shape = torch.Size(batch_shape)
        new.temperature = self.temperature
        new.logits = self.logits.expand(shape + self.event_shape)
        new.k = self.k.expand(shape) if isinstance(self.k, Tensor) else self.k
        Distribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw as :meth:`rsample` does, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape sample_shape + batch_shape + (n,)."""
        noise = gumbel(self._extended_shape(sample_shape), self.logits, generator)
        perturbed = self.logits + noise.to(torch.promote_types(self.logits.dtype, torch.float32))
        relaxed: Tensor = sigmoid_topk(perturbed, self.k, temperature=self.temperature)
        return relaxed.to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise: the density is not known."""
        raise NotImplementedError("RelaxedKHot has no known density; use GumbelTopK, its limit for temperature to 0")

    @property
    def mean(self) -> Tensor:
        """Raise: the mean is not known."""
        raise NotImplementedError("RelaxedKHot has no known mean; average samples, or use GumbelTopK.mean, its limit")

    @property
    def variance(self) -> Tensor:
        """Raise: the variance is not known."""
        raise NotImplementedError("RelaxedKHot has no known variance; estimate it from samples")

    @property
    def mode(self) -> Tensor:
        """Raise: the mode is not known."""
        raise NotImplementedError("RelaxedKHot has no known mode; use GumbelTopK.mode, the mode of its limit")

    def entropy(self) -> Tensor:
        """Raise: the entropy is not known."""
        raise NotImplementedError("RelaxedKHot has no known entropy; use GumbelTopK, its limit, or ConditionalPoisson")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Raise: the support is continuous."""
        raise NotImplementedError("RelaxedKHot is continuous; enumerate the support of GumbelTopK, its limit")

    def __repr__(self) -> str:
        name = type(self).__name__
        return (
            f"{name}(temperature: {show_k(self.temperature)}, k: {show_k(self.k)}, logits: {tuple(self.logits.shape)})"
        )
