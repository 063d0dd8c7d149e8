"""The score-function estimator with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek.relaxations import Relaxation
from sparsek.sampling import Design

from ._estimator import SIGMOID_TOPK, LossEstimator, fixed, widen
from ._losses import check_num_samples, losses, mean_with_gradient, per_loss
from ._score import design_with_score


@dataclass(frozen=True)
class ScoreFunction(LossEstimator):
    r"""REINFORCE with a leave-one-out baseline: needs no derivative of f.

    With m samples $s_1, \dots, s_m$ of the design,

    $$\hat\nabla = \frac1m \sum_i \frac{\partial\log P(s_i)}{\partial x}
        \Big[f(s_i) - \frac{1}{m-1}\sum_{j \ne i} f(s_j)\Big].$$

    **Bias.** None, for any f, wherever the law of the design is differentiable in $\pi$: the baseline of a sample does
    not see that sample. f need not be continuous.
    **Variance.** The highest here; it falls as 1/m. With m = 1 there is no baseline, and any constant in f adds
    variance.

    The gradient flows to `input`, tensor `k` and tensor temperature through the log-probability. Default design:
    `ConditionalPoisson()`; one whose law is not smooth, or `Systematic` (50 times the variance), brings a
    :class:`ScoreWarning`. A design without `log_prob` raises `NotImplementedError`.

    Args:
        vectorize: Whether `fn` is called once on all samples, shape (num_samples, ..., n), and returns losses with that
            leading dimension; otherwise it is called once a sample.

    Example:
        >>> import torch
        >>> from sparsek.estimators import ScoreFunction
        >>> input = torch.tensor([2.0, 0.0, 1.0, -1.0], requires_grad=True)
        >>> loss = ScoreFunction().surrogate(
        ...     lambda s: (s.cumsum(-1) > 1).float().sum(-1), input, k=2, num_samples=4,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> loss.backward()
        >>> bool(input.grad.isfinite().all())
        True

    References:
        Williams, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning*, 1992,
        https://doi.org/10.1007/BF00992696
        Kool, van Hoof, Welling, *Buy 4 REINFORCE Samples, Get a Baseline for Free!*, 2019,
        https://openreview.net/forum?id=r1lgTGL5DE
    """

    vectorize: bool = False

    def resolve_design(self, design: Design | None) -> Design:
        """Return `design`, or `ConditionalPoisson()` where it is None; warn of one that is not smooth."""
        return design_with_score(design)

    def surrogate(
        self,
        fn: Callable[[Tensor], Tensor],
        input: Tensor,
        k: float | Tensor,
        relaxation: Relaxation = SIGMOID_TOPK,
        design: Design | None = None,
        num_samples: int = 2,
        generator: torch.Generator | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss with the estimate as its gradient; see :class:`LossEstimator`."""
        self.check(k, relaxation)
        check_num_samples(num_samples)
        law = self.resolve_design(design)
        probs = relaxation(widen(input), k, mask=mask, generator=generator)
        draw = law.draw(probs.detach(), (num_samples,), k=fixed(k), generator=generator)
        loss = losses(fn, draw.sample.to(input.dtype), self.vectorize)
        log_prob = per_loss(law.log_prob(probs, draw, k=k), loss.dim())
        return mean_with_gradient(loss, log_prob * _leave_one_out(loss.detach()))


def _leave_one_out(loss: Tensor) -> Tensor:
    """Each loss minus the mean of the *other* samples' losses, along dimension 0."""
    others = len(loss) - 1
    return loss - (loss.sum(0) - loss) / others if others else loss
