"""The score function with a first-order control variate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._loss_estimator import LossEstimator
from ._losses import losses, per_loss


@dataclass(frozen=True)
class MuProp(LossEstimator):
    r"""Score function with the first-order expansion of f at the mean as control variate.

    With $\pi = \text{relaxation}(x)$, $J = \partial\pi/\partial x$ and a sample s of the design,

    $$\hat\nabla = \frac{\partial\log P(s)}{\partial x}\big[f(s) - f(\pi) - \langle\nabla f(\pi), s - \pi\rangle\big]
        + J^\top\nabla f(\pi),$$

    averaged over the samples.

    **Bias.** None, for any f that is defined and differentiable at fractional $\pi$, under a design with exact $\pi$
    whose law is differentiable in $\pi$.
    **Variance.** None for linear f; often less than :class:`ScoreFunction`'s, more where f is far from its
    expansion.

    f is evaluated once more, at $\pi$; that call has no part in the value or in the gradients to the parameters of
    f. The gradient flows to `input`, tensor `k` and tensor temperature. Default design: `ConditionalPoisson()`; one
    whose law is not smooth, or `Systematic`, brings a :class:`ScoreWarning`.

    Args:
        vectorize: Whether `fn` is called once on all samples, shape (num_samples, ..., n), and returns losses with that
            leading dimension; otherwise it is called once a sample.

    Example:
        >>> import torch
        >>> from sparsek.estimators import MuProp
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> loss = MuProp().surrogate(
        ...     lambda s: (s.cumsum(-1) ** 2).sum(-1), input, k=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> loss.backward()
        >>> bool(input.grad.isfinite().all())
        True

    References:
        Gu, Levine, Sutskever, Mnih, *MuProp: Unbiased Backpropagation for Stochastic Neural Networks*, 2016,
        https://arxiv.org/abs/1511.05176
    """

    vectorize: bool = False

    def _carrier(
        self, fn: Callable[[Tensor], Tensor], probs: Tensor, samples: Tensor, loss: Tensor, log_prob: Tensor
    ) -> Tensor:
        value, slope = self._expand(fn, probs.detach().to(samples.dtype))
        linear = per_loss((slope * (samples - probs.detach())).sum(-1), loss.dim())
        path = per_loss((slope * probs).sum(-1), loss.dim() - 1)
        return log_prob * (loss - value - linear) + path

    def _expand(self, fn: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of f at `point`, both detached and without the sample dimension."""
        with torch.enable_grad():
            point = point.requires_grad_()
            value = losses(fn, point.unsqueeze(0), self.vectorize).squeeze(0)
            if not value.requires_grad:
                raise ValueError("fn must be differentiable in the sample for MuProp; use ScoreFunction()")
            (slope,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
        return value.detach(), torch.zeros_like(point) if slope is None else slope.detach()
