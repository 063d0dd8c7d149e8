"""The straight-through estimator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, PathwiseEstimator, attach, fixed, widen


@dataclass(frozen=True)
class StraightThrough(PathwiseEstimator):
    r"""Sample forward, relaxation backward: the default.

    With $\pi = \text{relaxation}(x)$, $J = \partial\pi/\partial x$ and a sample s of the design,

    $$\hat\nabla = J^\top \nabla f(s).$$

    **Bias.** None for linear f, under any design whose inclusion probabilities are exactly $\pi$; a first-order
    approximation otherwise: for a quadratic f it misses how the covariance of s moves with x. A design with
    `exact = False` adds a bias of its own.
    **Variance.** Low: only through $\nabla f(s)$; none for linear f.

    The gradient flows to `input`, tensor `k` and tensor temperature by the derivative of the relaxation. Any relaxation
    on the capped simplex and any design will do, real k included: sizes are then floor or ceil. Default design:
    `Pivotal()`, whose kinks do not matter here as its log-probability is not used.

    Example:
        >>> import torch
        >>> from sparsek.estimators import StraightThrough
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> sample = StraightThrough()(input, k=2, generator=torch.Generator().manual_seed(0))
        >>> int(sample.sum())
        2
        >>> (sample * torch.arange(4.0)).sum().backward()
        >>> bool(input.grad.sum().abs() < 1e-6)  # shifting all scores changes nothing
        True

    References:
        Bengio, Léonard, Courville, *Estimating or Propagating Gradients Through Stochastic Neurons*, 2013,
        https://arxiv.org/abs/1308.3432
        Wijk, Vinuesa, Azizpour, *Differentiable Top-k: From One-Hot to k-Hot*, 2025,
        https://openreview.net/forum?id=VMlajIH1oF
    """

    def __call__(
        self,
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = SIGMOID_TOPK,
        design: Design | None = None,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Draw a sample; see :class:`PathwiseEstimator`."""
        self.check(k, relaxation)
        probs = relaxation(widen(input), k, mask=mask, generator=generator)
        sample = self.resolve_design(design).sample(probs.detach(), k=fixed(k), generator=generator)
        return attach(sample, probs).to(input.dtype)
