"""The distribution of a πps design, by its inclusion probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from sparsek import sampling
from sparsek._validation import check_dim, check_floating, check_k
from sparsek.constraints import capped_simplex, k_hot, rows_of
from sparsek.functional import capped_entropy
from sparsek.functional._calibration import calibrate, free_units
from sparsek.sampling import Design, Draw, Pivotal, Poisson
from sparsek.sampling._rows import as_rows

from ._conditional_poisson import ConditionalPoisson
from ._subset import SubsetDistribution

_PIVOTAL = Pivotal()


class KHot(SubsetDistribution):
    r"""k-hot vectors with inclusion probabilities `probs`, drawn by a πps design: the k-hot categorical.

    $P(s_i = 1) = π_i$ and $\sum_i s_i = k = \sum_i π_i$: at real k the size is ⌊k⌋ or ⌈k⌉, so that its mean is k.
    Inclusion probabilities do not determine the law; the design does. `log_prob`, `covariance` and their gradients in
    `probs` are the design's, and raise `NotImplementedError` with a hint where it has none. `mode`, `entropy` and KL
    have formulas for `Poisson` and, at whole k, for `ConditionalPoisson`; for other designs they are enumerated (n ≤
    16, or 2^20 entries).

    A shuffled design scores its own draws, given their permutation: `law.log_prob(law.draw())`. Of a bare sample its
    `log_prob`, and with it `mode`, `entropy` and KL, raises `NotImplementedError`.

    Units of probability 0 never occur and units of probability 1 always do; k = 0 and k = n are legal and
    deterministic.

    Shape:
        - probs: (..., n), giving batch_shape (...) and event_shape (n,).

    Args:
        probs: Inclusion probabilities π in [0, 1].
        design: A design of :mod:`sparsek.sampling`. Default: `Pivotal()`.
        k: What rows of `probs` sum to, a number or one per row. Default: the sums, whole where they are whole up to
            rounding.
        validate_args: As everywhere in :mod:`torch.distributions`.

    Raises:
        ValueError: If `probs` is not a floating-point tensor in [0, 1], or does not sum to `k`.

    Example:
        >>> import torch
        >>> from sparsek.distributions import KHot
        >>> law = KHot(torch.tensor([0.5, 0.5, 0.75, 0.25]))
        >>> law.support
        k_hot(k=2)
        >>> law.log_prob(torch.tensor([1.0, 0.0, 1.0, 0.0])).exp()
        tensor(0.3750)
        >>> law.variance
        tensor([0.2500, 0.2500, 0.1875, 0.1875])

    References:
        Tillé (2006). Sampling Algorithms. https://doi.org/10.1007/0-387-34240-0
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"probs": rows_of(constraints.unit_interval)}
    _name = "probs"

    def __init__(
        self,
        probs: Tensor,
        design: Design = _PIVOTAL,
        *,
        k: float | Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_floating("probs", probs)
        check_dim("probs", probs, -1)
        if k is not None:
            check_k(k, probs.shape[:-1], probs.shape[-1])
        self.probs = probs
        self.design = design
        self._k = k
        super().__init__(probs.shape[:-1], probs.shape[-1:], validate_args=validate_args)
        if self._validate_args and k is not None and not bool(capped_simplex(k).check(probs.detach()).all()):
            raise ValueError(f"probs must sum to k in every row, {capped_simplex(k)}, got {probs.detach().sum(-1)}")

    @property
    def k(self) -> float | Tensor:
        """Expected size: as given, else the sum of `probs`."""
        if self._k is not None:
            return self._k
        return self.probs.detach().sum(-1, dtype=torch.promote_types(self.probs.dtype, torch.float32))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Constraint:
        """k-hot vectors; all vectors of zeros and ones for a design of random size."""
        return k_hot(self.k) if self.design.fixed_size else rows_of(constraints.boolean, is_discrete=True)

    @property
    def mean(self) -> Tensor:
        """The inclusion probabilities, where the design keeps them exactly."""
        if not self.design.exact:
            raise NotImplementedError(
                f"{self.design} keeps probs approximately: its mean is not known; use `probs`, or sample"
            )
        return self.probs

    @property
    def covariance(self) -> Tensor:
        """$π_{ij} - π_i π_j$ from the design's joint inclusion probabilities: batch_shape + (n, n)."""
        joint = self.design.joint(self.probs, k=self._k)
        return joint - self.probs.unsqueeze(-1) * self.probs.unsqueeze(-2)

    @property
    def mode(self) -> Tensor:
        """The most probable vector: by formula for Poisson, and conditional Poisson at whole k, else enumerated."""
        if isinstance(self.design, Poisson):
            return (self.probs > 0.5).to(self.probs.dtype)
        natural = self.natural()
        return super().mode if natural is None else natural.mode.to(self.probs.dtype)

    def sample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw vectors of shape sample_shape + batch_shape + (n,), without gradient."""
        return self.draw(sample_shape, generator).sample

    def draw(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Draw:
        """Draw as :meth:`sample` does and keep the permutation of a shuffled design, for :meth:`log_prob`."""
        return self.design.draw(self.probs.detach(), tuple(sample_shape), k=self._k, generator=generator)

    def log_prob(self, value: Tensor | Draw) -> Tensor:
        """Return the log-probability of `value`, differentiable in `probs`.

        For a :class:`~sparsek.sampling.Draw` of a shuffled design it is the log-probability given the permutation,
        whose gradient is a valid score.
        """
        if not isinstance(value, Draw):
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value.sample)
        return self.design.log_prob(self.probs, value, k=self._k)

    def _log_prob(self, value: Tensor) -> Tensor:
        if getattr(self.design, "shuffle", False):
            raise NotImplementedError(
                f"the probability of a sample under {self.design} is a mean over permutations, which is intractable: "
                "score what `draw` returns, which holds its permutation, or use a design that does not shuffle"
            )
        return self.design.log_prob(self.probs, value, k=self._k)

    def entropy(self) -> Tensor:
        """Return the entropy in nats: by formula for Poisson and conditional Poisson (whole k), else enumerated."""
        if isinstance(self.design, Poisson):
            return capped_entropy(self.probs)
        natural = self.natural()
        return super().entropy() if natural is None else natural.entropy().to(self.probs.dtype)

    def natural(self) -> ConditionalPoisson | None:
        """Return the law by its natural parameters if the design is conditional Poisson and every k is whole, else None.

        Differentiable in `probs`; entropy and KL, which have formulas there, come from it.
        """
        low, high = k_hot(self.k).sizes(self.probs)
        if not isinstance(self.design, sampling.ConditionalPoisson) or bool((low != high).any()):
            return None
        rows = as_rows(self.probs, self._k, fixed_size=True)
        if self.probs.numel() == 0:
            return ConditionalPoisson(rows.size.reshape(self.batch_shape), self.probs)
        certain = rows.probs >= 1
        free = calibrate(rows.probs, rows.size.unsqueeze(-1) - certain.sum(-1, keepdim=True))
        logits = torch.where(free_units(rows.probs), free, torch.where(certain, torch.inf, -torch.inf))
        return ConditionalPoisson(rows.size.reshape(self.batch_shape), logits.reshape(self.probs.shape))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(probs: {tuple(self.probs.shape)}, design: {self.design})"


class KHotStraightThrough(KHot):
    r"""A :class:`KHot` whose samples carry the gradient of their inclusion probabilities (straight-through).

    The gradient of $E f(s)$ is unbiased for linear f with any exact design, and a first-order approximation otherwise.

    References:
        Bengio, Léonard, Courville (2013). Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation. https://arxiv.org/abs/1308.3432
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draw as :meth:`sample` does; the gradient to `probs` is the identity."""
        sample = self.sample(sample_shape, generator)
        return sample + (self.probs - self.probs.detach())
