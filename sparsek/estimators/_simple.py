"""SIMPLE: the exact marginals of the k-subset distribution, straight through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_k, check_mask
from sparsek.functional import conditional_poisson_marginals, conditional_poisson_sample
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, PathwiseEstimator, attach, widen


@dataclass(frozen=True)
class Simple(PathwiseEstimator):
    r"""Sample the k-subset distribution with natural parameters x; differentiate its exact marginals.

    The law is conditional Poisson, $P(s) \propto \exp\langle x, s\rangle$ on k-hot s, with normaliser
    $\log e_k(x)$ (elementary symmetric polynomial) and marginals $\mu = \partial\log e_k/\partial x$,

    $$\hat\nabla = \frac{\partial\mu}{\partial x}\nabla f(s), \qquad
        \frac{\partial\mu}{\partial x} = \frac{\partial^2\log e_k}{\partial x^2} = \operatorname{Cov}(s).$$

    **Bias.** None for linear f; a first-order approximation otherwise, as :class:`StraightThrough`.
    **Variance.** Low: only through $\nabla f(s)$.

    The law is fixed by `input`: `relaxation` and `design` are ignored, and the inclusion probabilities are $\mu$, not
    sigmoid top-k's (which differ by up to 0.04 for the same scores). Whole k only; no gradient to k. The marginals and
    their derivative cost O(n).

    Example:
        >>> import torch
        >>> from sparsek.estimators import Simple
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> sample = Simple()(input, k=2, generator=torch.Generator().manual_seed(0))
        >>> int(sample.sum())
        2
        >>> (sample * torch.arange(4.0)).sum().backward()
        >>> bool(input.grad.sum().abs() < 1e-6)
        True

    References:
        Ahmed, Zeng, Niepert, Van den Broeck, *SIMPLE: A Gradient Estimator for k-Subset Sampling*, 2023,
        https://arxiv.org/abs/2210.01941
    """

    uses_design: ClassVar[bool] = False
    real_k: ClassVar[bool] = False

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
        logits = widen(input)
        if mask is not None:
            check_mask("mask", mask, input)
            logits = logits.masked_fill(~mask, -torch.inf)
        check_k(k, logits.shape[:-1], logits.shape[-1], integer=True)
        size = k if isinstance(k, Tensor) else int(k)
        marginals = conditional_poisson_marginals(logits, size)
        sample = conditional_poisson_sample(logits.detach(), size, (), generator)
        return attach(sample, marginals).to(input.dtype)
