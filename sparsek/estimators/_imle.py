"""Implicit maximum likelihood estimation: perturb-and-MAP with finite differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsek._validation import check_k, check_positive
from sparsek.functional import topk_mask
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, PathwiseEstimator, widen


@dataclass(frozen=True)
class IMLE(PathwiseEstimator):
    r"""Perturb-and-MAP forward, a finite difference of two MAP states backward.

    With noise $\varepsilon$ and $s = \text{top-k}(x + \tau\varepsilon)$,

    $$\hat\nabla = \frac1\lambda\big[\text{top-k}(x + \tau\varepsilon)
        - \text{top-k}(x + \tau\varepsilon - \lambda\nabla f(s))\big].$$

    The noise is sum-of-gamma, $\varepsilon = \frac1k\big[\sum_{i=1}^{m} \Gamma(\tfrac1k, \tfrac ki) - \log m\big]$
    (shape, scale), so that the noise of k selected units adds up to a Gumbel variable as m grows.
    The division by $\lambda$, which the paper leaves to the learning rate, keeps the scale of the other estimators.

    **Bias.** For linear f its mean is the change of the mean sample along the step, over $\lambda$: biased by
    O($\lambda$). Otherwise it is a first-order approximation, as straight-through.
    **Variance.** O(1/$\lambda$): for small $\lambda$ most differences are 0. $\lambda$ acts on the incoming gradient:
    it must grow when the loss is a mean over many rows.

    The sample follows the law of the perturbed scores, whose inclusion probabilities have no closed form:
    `relaxation` and `design` are ignored. Whole k only; no gradient to k. The backward pass cannot be
    differentiated again.

    Args:
        lambd: $\lambda$ > 0, the step to the target distribution.
        noise_scale: $\tau$ > 0.
        terms: m ≥ 1, length of the series.

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> import torch
        >>> from sparsek.estimators import IMLE
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> sample = IMLE(lambd=10.0)(input, k=2, generator=torch.Generator().manual_seed(0))
        >>> int(sample.sum())
        2
        >>> (sample * torch.arange(4.0)).sum().backward()
        >>> int(input.grad.sum())
        0

    References:
        Niepert, Minervini, Franceschi, *Implicit MLE: Backpropagating Through Discrete Exponential Family
        Distributions*, 2021, https://arxiv.org/abs/2106.01798
    """

    uses_design: ClassVar[bool] = False
    real_k: ClassVar[bool] = False
    lambd: float = 10.0
    noise_scale: float = 1.0
    terms: int = 10

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive("lambd", self.lambd)
        check_positive("noise_scale", self.noise_scale)
        if self.terms < 1:
            raise ValueError(f"terms must be at least 1, got {self.terms}")

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
        wide = widen(input)
        check_k(k, wide.shape[:-1], wide.shape[-1], integer=True)
        noise = _sum_of_gamma(wide, k, self.terms, generator)
        sample: Tensor = _MapDifference.apply(wide + self.noise_scale * noise, k, mask, self.lambd)
        return sample.to(input.dtype)


def _sum_of_gamma(like: Tensor, k: float | Tensor, terms: int, generator: torch.Generator | None) -> Tensor:
    """Noise in the shape of `like`; k = 0 is treated as 1, as nothing is selected then."""
    size = torch.as_tensor(k, dtype=like.dtype, device=like.device).detach().clamp_min(1.0).unsqueeze(-1)
    shape = (1.0 / size).expand(like.shape)
    total = torch.zeros_like(like, requires_grad=False)
    for i in range(1, terms + 1):
        total = total + torch._standard_gamma(shape, generator=generator) / i  # scale k/i, times the 1/k in front
    return total - math.log(terms) / size


class _MapDifference(torch.autograd.Function):
    """Top-k forward; backward, its difference quotient along the incoming gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(perturbed: Tensor, k: float | Tensor, mask: Tensor | None, lambd: float) -> Tensor:
        return topk_mask(perturbed, k, mask=mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | Tensor, Tensor | None, float], output: Tensor) -> None:
        perturbed, k, mask, ctx.lambd = inputs
        ctx.number = None if isinstance(k, Tensor) else k
        ctx.save_for_backward(perturbed, output, mask, k if isinstance(k, Tensor) else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        perturbed, sample, mask, k = ctx.saved_tensors
        target = topk_mask(perturbed - ctx.lambd * grad, ctx.number if k is None else k, mask=mask)
        return (sample - target) / ctx.lambd, None, None, None
