"""The gradient of SparseMixer: Heun's third-order rule over the size of an expert's contribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ._gradient import Carried, Gated, Gradient
from ._selection import Selection, moving
from ._successive_softmax import SuccessiveSoftmax, best_of_the_rest


@dataclass(frozen=True)
class SparseMixer(Gradient):
    r"""Estimates $\sum_e [L(w_e f_e) - L(0)]\, \partial w_e$ from first derivatives, for a :class:`SuccessiveSoftmax`.

    Forward, an expert that was drawn with probability w contributes $m\,w f$ with m = 1, or m = 1/3 in three of four
    cases; backward its weight has the gradient $\partial w$ of m = 1. That is Heun's third-order rule,
    $L(v) - L(0) = \tfrac14 L'(v) v + \tfrac34 L'(v / 3) v$, exact for a loss of degree 3 on the ray. As published, the
    expert with the largest probability always has m = 1, which leaves its term at first order, and the term of the
    forward weight itself, $w\, \partial L(w f)$, is left out: on a linear loss it equals the other, so that the sum is
    half the gradient of the expected loss, a factor that the optimizer's scale absorbs. Both are exact for one expert
    per token; for more, it acts on each weight with the others held. In eval all m are 1.

    The forward pass of training is noisy: the paper reports that this pays, and a comparison must see it.

    References:
        Liu et al., 2023, "Bridging Discrete and Backpropagation: Straight-Through and Beyond",
        https://arxiv.org/abs/2304.08612
        Liu et al., 2023, "Sparse Backpropagation for MoE Training", https://arxiv.org/abs/2310.00811
        Liu et al., 2024, "GRIN: GRadient-INformed MoE", https://arxiv.org/abs/2409.12136
    """

    def check(self, selection: Selection) -> None:
        """Refuse a selection whose weights are not the probabilities of the draw."""
        if not isinstance(selection, SuccessiveSoftmax):
            raise ValueError(f"selection must be a SuccessiveSoftmax for {self}, got {selection}")

    def __call__(self, gated: Gated) -> Carried:
        """Shrink some of the weights, and none of their gradients."""
        if not gated.training:
            return Carried(gated.weights)
        best = best_of_the_rest(gated.indices, gated.marginals.detach())
        value = gated.weights.detach()
        coin = torch.rand(value.shape, dtype=value.dtype, device=value.device, generator=gated.generator)
        return Carried(torch.where(best | (coin < 0.25), value, value / 3) + moving(gated.weights))
