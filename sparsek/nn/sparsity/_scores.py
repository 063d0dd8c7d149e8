"""What weights are ranked by: their magnitude, their share of a layer, or numbers that are learnt beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsek._validation import check_positive


class WeightScores(ABC):
    """A map from the weights of one tensor to their scores: higher is kept first.

    A subclass writes :meth:`__call__`; one whose scores are learnt says in :meth:`initial` where they begin.

    Example:
        >>> class Distance(WeightScores):
        ...     def __call__(self, weight, learnt=None):
        ...         return (weight - 1).abs()
        >>> Distance()(torch.tensor([1.0, 3.0]))
        tensor([0., 2.])
    """

    def initial(self, weight: Tensor) -> Tensor | None:
        """Return the first values of scores that are learnt, in the shape of `weight`; None where there are none."""
        return None

    @abstractmethod
    def __call__(self, weight: Tensor, learnt: Tensor | None = None) -> Tensor:
        """Score.

        Shape:
            - weight, learnt, output: the same shape.

        Args:
            weight: The dense weights of a tensor.
            learnt: The scores that are learnt, where :meth:`initial` gave some.
        """


@dataclass(frozen=True)
class Magnitude(WeightScores):
    r"""The logarithm of the squared weight, $x = \log w^2$.

    At temperature T, sigmoid top-k of it is $\pi = |w|^{2/T} / (|w|^{2/T} + c)$: no scale of the weights matters, and a budget
    for a whole model compares them as they are. The gradient moves the weight itself: what is kept for being large can
    become small, and what is small is heard as long as $\pi$ is not 0. A weight of 0 comes last, and has gradient 0 here.

    Example:
        >>> Magnitude()(torch.tensor([1.0, -2.0])).exp()
        tensor([1., 4.])
    """

    def __call__(self, weight: Tensor, learnt: Tensor | None = None) -> Tensor:
        """Take the logarithm, in float32 or better."""
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return 2 * weight.abs().clamp(min=torch.finfo(weight.dtype).tiny).log()


@dataclass(frozen=True)
class LayerShare(WeightScores):
    r"""The squared weight over the sum of those of its tensor that are not smaller, itself included.

    $$x_u = \log w_u^2 - \log \sum_{v:\, |w_v| \ge |w_u|} w_v^2$$

    This is what removing a weight costs at least, layer by layer (LAMP): the largest weight of each tensor has x = 0, so that
    a budget for a whole model empties no layer. Within one tensor it ranks as :class:`Magnitude` does. The sum is a constant
    for the gradient. It sorts each tensor, at every step.

    Example:
        >>> LayerShare()(torch.tensor([1.0, -2.0])).exp()
        tensor([0.2000, 1.0000])

    References:
        Lee, Park, Mo, Ahn, Shin, *Layer-adaptive Sparsity for the Magnitude-based Pruning*, 2021,
        https://arxiv.org/abs/2010.07611
    """

    def __call__(self, weight: Tensor, learnt: Tensor | None = None) -> Tensor:
        """Sort, and add up from the largest."""
        scores = Magnitude()(weight)
        ordered, order = scores.detach().reshape(-1).sort(descending=True, stable=True)
        at_least = torch.empty_like(ordered).scatter(0, order, ordered.logcumsumexp(0))
        return scores - at_least.view(scores.shape)


@dataclass(frozen=True)
class LearntScores(WeightScores):
    r"""Numbers beside the weights, moved by the gradient of the loss alone: weights stay free to change sign at no cost.

    Args:
        scale: What the first scores are, in $\log w^2$: above 0. A small one leaves the first choice to the gradient.

    Raises:
        ValueError: If `scale` is not above 0.

    Example:
        >>> scores = LearntScores()
        >>> scores(torch.zeros(2), learnt=torch.tensor([0.5, 2.0]))
        tensor([0.5000, 2.0000])

    References:
        Savarese, Silva, Maire, *Winning the Lottery with Continuous Sparsification*, 2020, https://arxiv.org/abs/1912.04427
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def initial(self, weight: Tensor) -> Tensor:
        """Return scaled log-magnitudes with mean 0; weights of 0 count as 1/1000 of the root mean square."""
        weight = weight.detach()
        rms = weight.double().square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        scores = (weight.double() / rms).abs().clamp(min=1e-3).log()
        return ((scores - scores.mean()) * 2 * self.scale).to(torch.promote_types(weight.dtype, torch.float32))

    def __call__(self, weight: Tensor, learnt: Tensor | None = None) -> Tensor:
        """Return what is learnt."""
        if learnt is None:
            raise ValueError("learnt must be the scores of the weights, got None; begin with initial(weight)")
        return learnt
