"""Gumbel perturbation through a relaxation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsek._validation import check_positive
from sparsek.functional import topk_mask
from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, PathwiseEstimator, attach, refuse_real, widen


@dataclass(frozen=True)
class Relaxed(PathwiseEstimator):
    r"""Differentiate the relaxation at Gumbel-perturbed scores.

    With independent standard Gumbel variables $\gamma$ and $z = x + \tau\gamma$,

    $$s = \text{top-k}(z), \qquad
        \hat\nabla = \Big[\frac{\partial\,\text{relaxation}(z)}{\partial z}\Big]^\top\nabla f(s).$$

    With `hard=False` the sample is $\text{relaxation}(z)$ itself, soft, and the gradient is exact for it.
    At k = 1 with a softmax relaxation this is (straight-through) Gumbel softmax.

    **Bias.** With `hard=False`, none for $E f(\text{relaxation}(z))$, which is not $E f(s)$: the gap closes as the
    relaxation's temperature goes to 0, while the variance grows without bound. `hard=True` is biased also for linear f.
    **Variance.** Low at moderate temperature.

    The hard sample follows the set law of Plackett-Luce (Gumbel top-k) with logits $x/\tau$; `design` is ignored. Any
    relaxation will do, on the capped simplex or off it. `hard=True` needs whole k.

    Args:
        noise_scale: $\tau$ > 0.
        hard: Whether the forward value is the k-hot top-k or the soft relaxation.

    Raises:
        ValueError: If `noise_scale` is out of range.

    Example:
        >>> import torch
        >>> from sparsek.estimators import Relaxed
        >>> from sparsek.relaxations import SuccessiveSoftmax
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> sample = Relaxed()(input, 2, SuccessiveSoftmax(0.5), generator=torch.Generator().manual_seed(0))
        >>> int(sample.sum())
        2

    References:
        Xie, Ermon, *Reparameterizable Subset Sampling via Continuous Relaxations*, 2019,
        https://arxiv.org/abs/1901.10517
        Jang, Gu, Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017, https://arxiv.org/abs/1611.01144
    """

    uses_design: ClassVar[bool] = False
    noise_scale: float = 1.0
    hard: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive("noise_scale", self.noise_scale)

    def check(self, k: float | Tensor, relaxation: Relaxation) -> None:
        """Refuse a real k that the relaxation or a hard sample cannot take."""
        if self.hard:
            refuse_real(k, "Relaxed(hard=True)", "Relaxed(hard=False) or StraightThrough()")
        if not relaxation.real_k:
            refuse_real(k, type(relaxation).__name__, "SigmoidTopK()")

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
        perturbed = wide + self.noise_scale * _gumbel(wide, generator)
        soft = relaxation(perturbed, k, mask=mask, generator=generator)
        if self.hard:
            soft = attach(topk_mask(perturbed, k, mask=mask), soft)
        return soft.to(input.dtype)


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(like, requires_grad=False, memory_format=torch.contiguous_format)
    return -noise.exponential_(generator=generator).log()
