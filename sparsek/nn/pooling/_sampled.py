"""Pooling of a random sample of the tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek.functional import pps
from sparsek.functional.pooling import weighted_pool
from sparsek.functional.pooling._tokens import select, wide, with_a_token
from sparsek.sampling import ConditionalPoisson, Design

from ._empty import EmptyPolicy
from ._fixed import MeanPool
from ._layout import arrange
from ._pooling import _ZERO, Pooled, Pooling
from ._sample_weighting import HorvitzThompsonWeights, NormSizes, SampleWeighting, TokenSizes
from ._variance import VarianceEstimate, default_variance

_DESIGN = ConditionalPoisson()
_WEIGHTING = HorvitzThompsonWeights()
_SIZES = NormSizes()


class SampledEstimate(NamedTuple):
    """What :meth:`SampledTokenPool.estimate` returns."""

    output: Tensor
    """(B, D), an estimate of what all tokens give."""
    weights: Tensor
    """Weights of the tokens, 0 at those not drawn, in the layout of the input."""
    variance: Tensor
    """(B, D), estimated variance of the output given the tokens; without gradient."""


class _Survey(NamedTuple):
    """A sample of the tokens and all that it was drawn from."""

    x: Tensor
    target: Tensor
    sample: Tensor
    probs: Tensor
    k: Tensor
    weights: Tensor
    output: Tensor


class SampledTokenPool(Pooling):
    r"""The mean of all tokens, or another weighted sum of them, estimated from k drawn without replacement.

    $$\hat y = \sum_{t ∈ s} \frac{w_t}{π_t} x_t, \quad π ∝ \text{sizes of } w_t x_t, \quad \sum_t π_t = k,$$

    so $E\,\hat y = \sum_t w_t x_t$ under designs with exact π, and its gradient is unbiased too: π is held constant. With
    :class:`HajekWeights` the weights are made to sum to 1. In eval mode the output is that of all tokens.

    :meth:`estimate` also returns an estimate of the variance: unbiased with Horvitz-Thompson weights and :class:`SenYatesGrundy`, the
    default under conditional Poisson, Sampford and Brewer, whose pairs all can meet; otherwise :class:`ApproximateVariance`.
    `unbiased_variance` says which.

    Rows with k kept tokens or fewer are taken whole, with variance 0. Weights: those of the drawn tokens, 0 elsewhere.

    Args:
        k: Number of tokens, a whole number >= 1.
        design: πps design of fixed size.
        of: The pooling that is estimated; one whose weights are those of whole tokens, (B, T).
        weighting: :class:`HorvitzThompsonWeights` or :class:`HajekWeights`.
        sizes: :class:`NormSizes` or :class:`EqualSizes`.
        variance: None = the exact estimate where the design has one.
        empty: What to return for a row without a token, see :class:`Pooling`.

    Raises:
        ValueError: If k is no whole number >= 1, or the parts do not fit together.

    Example:
        >>> import torch
        >>> from sparsek.nn import SampledTokenPool
        >>> x = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0)) + 2
        >>> pool = SampledTokenPool(k=10)
        >>> estimate = pool.estimate(x, generator=torch.Generator().manual_seed(0))
        >>> (estimate.weights > 0).sum().item(), estimate.variance.shape
        (10, torch.Size([1, 3]))
        >>> torch.equal(pool.eval()(x), x.mean(1))
        True

    References:
        Horvitz, Thompson (1952), "A Generalization of Sampling Without Replacement from a Finite Universe",
        https://doi.org/10.1080/01621459.1952.10483446.
    """

    def __init__(
        self,
        k: int,
        design: Design = _DESIGN,
        *,
        of: Pooling | None = None,
        weighting: SampleWeighting = _WEIGHTING,
        sizes: TokenSizes = _SIZES,
        variance: VarianceEstimate | None = None,
        empty: EmptyPolicy = _ZERO,
    ) -> None:
        super().__init__(empty=empty)
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number >= 1, got {k!r}")
        for name, value, kind in (("design", design, Design), ("weighting", weighting, SampleWeighting)):
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
        self.k = k
        self.design = design
        self.of = MeanPool() if of is None else of
        self.weighting = weighting
        self.sizes = sizes
        self.variance = default_variance(design) if variance is None else variance
        self.variance.check(design)

    @property
    def unbiased_variance(self) -> bool:
        """Whether the variance in :meth:`estimate` is unbiased."""
        return self.variance.exact and self.weighting.unbiased

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        index: Tensor | None = None,
        rows: int | None = None,
        max_length: int | None = None,
        return_weights: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor | Pooled:
        """Pool as :meth:`Pooling.forward` says; `generator` is the source of randomness, not read in eval mode."""
        layout = arrange(x, mask, offsets, index, rows, max_length)
        tokens, mask = with_a_token(wide(layout.tokens), layout.mask)
        output, weights = self._either(tokens, mask, generator)
        return self._answer(layout, mask, x.dtype, output, weights if return_weights else None)

    def estimate(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        index: Tensor | None = None,
        rows: int | None = None,
        max_length: int | None = None,
        generator: torch.Generator | None = None,
    ) -> SampledEstimate:
        """Draw, in either mode, and estimate the variance from the same sample."""
        layout = arrange(x, mask, offsets, index, rows, max_length)
        tokens, mask = with_a_token(wide(layout.tokens), layout.mask)
        survey = self._survey(tokens, mask, generator)
        with torch.no_grad():
            values = self.weighting.residuals(survey.x, survey.target, survey.output)
            variance = self.variance.estimate(values, survey.sample, survey.probs, self.design, survey.k)
        pooled = self._answer(layout, mask, x.dtype, survey.output, survey.weights)
        assert isinstance(pooled, Pooled), "weights were given"
        variance = variance.to(x.dtype)
        return SampledEstimate(*pooled, variance.squeeze(0) if layout.single else variance)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool (B, T, D) to (B, D), by a new sample when training."""
        return self._either(x, mask, None)[0]

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Weights (B, T) of a new sample when training, of all tokens in eval mode."""
        return self._either(x, mask, None)[1]

    def _either(self, x: Tensor, mask: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.of.pool(x, mask), self._target(x, mask)
        survey = self._survey(x, mask, generator)
        return survey.output, survey.weights

    def _target(self, x: Tensor, mask: Tensor | None) -> Tensor:
        weights = self.of.weights(select(x, mask), mask)
        if weights.dim() != 2:
            raise ValueError(
                f"of must be a pooling that weighs whole tokens, with weights (B, T), got {type(self.of).__name__}"
            )
        return weights

    def _survey(self, x: Tensor, mask: Tensor | None, generator: torch.Generator | None) -> _Survey:
        x = select(x, mask)
        target = self._target(x, mask)
        with torch.no_grad():
            sizes = self.sizes.sizes(target.unsqueeze(-1) * x)
            kept = torch.ones_like(sizes, dtype=torch.bool) if mask is None else mask.expand(sizes.shape)
            k = kept.sum(-1).clamp(max=self.k)
            probs = pps(torch.where(kept, sizes, 0.0), k)
            sample = self.design.sample(probs, k=k, generator=generator)
        weights = self.weighting.weights(sample, probs, target)
        return _Survey(x, target, sample, probs, k, weights, weighted_pool(x, weights))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"k={self.k}, design={self.design}, weighting={self.weighting}, sizes={self.sizes}, variance={self.variance}"
