"""Gradients in which the experts that were not run take part, by a stand-in or by being run in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._gradient import Carried, Gated, Gradient, check_sampled, inverse_probability
from ._routing import ExpertOutputs
from ._selection import Selection, moving


@dataclass(frozen=True)
class DoublyRobust(Gradient):
    r"""Horvitz-Thompson on what the running mean output $m_i$ of each expert does not explain, for a sampled selection.

    $\sum_i \langle g, m_i \rangle\, \partial \pi_i + \sum_{i \in S} \tfrac{1}{\pi_i} \langle g, f_i - m_i \rangle\,
    \partial \pi_i$. Unbiased for a linear loss whatever m is (m comes from earlier steps); its variance is that of
    Horvitz-Thompson with $f - m$ in place of f, so it is smaller where outputs are near their mean and 0 at $f = m$.
    The forward value is untouched. In eval, as :class:`TopKOnly`.

    Args:
        decay: Of the running mean per optimizer step, in [0, 1).

    References:
        Robins, Rotnitzky & Zhao, 1994, "Estimation of Regression Coefficients When Some Regressors Are Not Always
        Observed", https://doi.org/10.1080/01621459.1994.10476818
    """

    decay: float = 0.9

    uses_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def check(self, selection: Selection) -> None:
        """Refuse a selection without inclusion probabilities."""
        check_sampled(self, selection)

    def __call__(self, gated: Gated) -> Carried:
        """Give the means the difference between what is due and what the sample gives them."""
        if not gated.drawn:
            return Carried(gated.weights)
        probs = gated.marginals.detach().clamp_min(torch.finfo(gated.marginals.dtype).tiny)
        return Carried(inverse_probability(gated), moving(gated.marginals) * (1 - gated.taken / probs))


@dataclass(frozen=True)
class DenseStraightThrough(Gradient):
    r"""The gradient of the dense mixture at the sparse forward pass: $\sum_i \langle g, f_i \rangle\, \partial w_i$.

    The forward pass runs k experts; the backward pass runs all of them on all tokens, without gradient to them, and
    keeps no output. $w = \pi$ for a sampled selection, where this is the exact gradient for a linear loss, without
    variance. Under a deterministic selection $w_i = c\,p_i$, with the gate's p and the constant c by which the chosen
    were scaled (1 without normalisation): the gradient of a dense mixture, which is not that of the sparse forward
    pass. Costs E/k times the expert FLOPs of the forward pass once more; differentiable once.

    References:
        Yao et al., 2025, "DenseMixer: Improving MoE Post-Training with Precise Router Gradient",
        https://fengyao.notion.site/moe-posttraining
    """

    uses_all: ClassVar[bool] = True

    def __call__(self, gated: Gated) -> Carried:
        """Give every expert the gradient of its marginal."""
        scale = _scale(gated)
        weights = gated.weights.detach() + scale * moving(gated.chosen)
        return Carried(weights, scale * moving(gated.marginals) * ~gated.taken)


@dataclass(frozen=True)
class DefaultVector(Gradient):
    r"""Absent experts contribute their running mean output: $y = \sum_{i \in S} w_i f_i + \sum_{i \notin S} w_i m_i$.

    This changes the forward pass, in eval too, and the gradient is the exact one of that pass (but for the constant of
    a normalised gate). It equals the dense mixture's gradient as far as $m_i$ equals $f_i(x)$; no statement about bias
    beyond that holds. m is moved once per optimizer step, by the tokens that each expert took. For a deterministic
    selection.

    Args:
        decay: Of the running mean per optimizer step, in [0, 1).

    References:
        Panda et al., 2025, "Dense Backpropagation Improves Training for Sparse Mixture-of-Experts",
        https://arxiv.org/abs/2504.12463
    """

    decay: float = 0.9

    uses_means: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def check(self, selection: Selection) -> None:
        """Refuse weights that are 1 by chance."""
        if selection.sampled:
            raise ValueError(f"selection must be deterministic for {self}, got {selection}; HardTopK() is")

    def __call__(self, gated: Gated) -> Carried:
        """Weigh the means of the absent by their marginals."""
        return Carried(gated.weights, _scale(gated) * gated.marginals * ~gated.taken)


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay}")


def _scale(gated: Gated) -> Tensor:
    """(..., 1): the constant by which the forward weights exceed the marginals; 1 where they were drawn."""
    if gated.drawn:
        return torch.ones_like(gated.chosen[..., :1])
    total = gated.chosen.detach().sum(-1, keepdim=True)
    return gated.weights.detach().sum(-1, keepdim=True) / total.clamp_min(torch.finfo(total.dtype).tiny)


class RunAllBackward(torch.autograd.Function):
    """0 in value, (T, d_model); its gradient to the weights (T, experts) is the score of every expert with the output's."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, d_model: int, outputs: ExpertOutputs) -> Tensor:
        ctx.outputs = outputs
        return weights.new_zeros(len(weights), d_model)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.outputs.scores(grad).to(grad.dtype), None, None
