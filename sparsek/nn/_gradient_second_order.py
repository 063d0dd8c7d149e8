"""The second-order gradient: half score function, half dense straight-through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsek.estimators._score import design_with_score

from ._gradient import Carried, Gated, Gradient, check_sampled
from ._selection import Sampled, Selection, moving


@dataclass(frozen=True)
class SecondOrder(Gradient):
    r"""Exact for linear and quadratic losses of the mixture's output, by running all experts in the backward pass.

    $\sum_i \langle g, f_i \rangle \cdot \tfrac12 \left[(s_i - \pi_i)\, \partial \log P(s) + \partial \pi_i\right]$ for
    the sample s of a sampled selection: :class:`sparsek.estimators.SecondOrder` with the mixture as its function. The
    expectation is $\partial\, E_S[L(y_S)]$ where L is at most quadratic in y and the design's law is differentiable;
    one layer at a time (a network with several routers is not quadratic in all their samples together). Its variance
    is that of a score function, above :class:`DenseStraightThrough`'s, also for a linear loss. The forward value is
    untouched. In eval, as :class:`TopKOnly`.

    Use `Sampled(ConditionalPoisson())`. A design whose law is not smooth, as `Pivotal`, brings a
    :class:`sparsek.estimators.ScoreWarning`: equal logits, which an untrained gate may have, sit on a kink of it.

    References:
        Liu et al., 2023, "Bridging Discrete and Backpropagation: Straight-Through and Beyond",
        https://arxiv.org/abs/2304.08612
        Liu et al., 2024, "GRIN: GRadient-INformed MoE", https://arxiv.org/abs/2409.12136
    """

    uses_all: ClassVar[bool] = True
    uses_score: ClassVar[bool] = True

    def check(self, selection: Selection) -> None:
        """Refuse a selection that is not drawn from a design; warn of a design without a smooth law."""
        check_sampled(self, selection)
        if isinstance(selection, Sampled):
            design_with_score(selection.design)

    def __call__(self, gated: Gated) -> Carried:
        """Give every expert half the gradient of its marginal and half that of the score, by its centred draw."""
        if not gated.drawn or gated.log_prob is None:
            return Carried(gated.weights)
        centred = gated.taken.to(gated.marginals.dtype) - gated.marginals.detach()
        share = 0.5 * (moving(gated.marginals) + centred * moving(gated.log_prob).unsqueeze(-1))
        chosen = share.gather(-1, gated.indices.clamp_min(0))
        return Carried(gated.weights.detach() + chosen, share * ~gated.taken)
