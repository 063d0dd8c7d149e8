"""Top-k as entropic optimal transport to the two anchors 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._implicit import solve_implicitly
from ._rows import scale_column, to_rows
from ._shape import SHAPES
from ._tails import Tails, split


def sinkhorn_topk(
    input: Tensor, k: float | Tensor, dim: int = -1, *, epsilon: float | Tensor = 0.1, mask: Tensor | None = None
) -> Tensor:
    r"""Inclusion probabilities by entropic optimal transport of the scores to the anchors 0 (left out) and 1 (picked).

    $$Γ^* = \arg\min_{Γ ≥ 0} \sum_{i,a} Γ_{ia} (x_i - a)^2 + ε \sum_{i,a} Γ_{ia} \log Γ_{ia}, \quad
    \sum_a Γ_{ia} = 1, \; \sum_i Γ_{i1} = k, \qquad π_i = Γ^*_{i1}.$$

    (Masses are n times those of the paper; costs are not divided by their maximum, so that the scale of the scores and
    ε have one fixed meaning.) With two anchors Sinkhorn's iteration has one free potential, $τ$, and updates it by the
    log-ratio of the wanted column sums to those reached, in the log domain. Here each update is divided by one minus
    its own rate of contraction and kept in a bracket, so that it converges to rounding for every ε. The gradient is the
    implicit one at the fixed point, of any order, for `input`, `k` and `epsilon`; nothing is unrolled.

    The fixed point is $σ(2(x_i - τ)/ε)$: that of :func:`sigmoid_topk` at temperature ε/2.

    k = 0 gives zeros, k = n ones, with the one-sided limits of the gradient to k. Ties share equally. Units at +inf are
    exactly 1, masked ones and -inf exactly 0. A NaN that is not masked makes its own row NaN.

    Shape:
        - input: any shape, n units along `dim`.
        - k, epsilon: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is solved in float32.
        k: Sum of the probabilities, in [0, number of valid units]; may be real.
        dim: Dimension of the units.
        epsilon: Weight ε > 0 of the entropy; towards 0 the plan is hard top-k.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The probabilities, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid units, or more
            than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> sinkhorn_topk(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2, epsilon=2.0)
        tensor([0.8176, 0.6225, 0.3775, 0.1824])

    References:
        Xie, Dai, Chen, Dai, Zhao, Zha, Wei, Pfister, 2020, "Differentiable Top-k with Optimal Transport",
        https://arxiv.org/abs/2002.06504
    """
    check_positive("epsilon", epsilon)
    rows = to_rows(input, k, dim, mask)
    width = scale_column("epsilon", epsilon / 2, rows.scores, torch.float64)
    return rows.restore(solve_implicitly(rows.competing(), rows.k, width, _LOGISTIC))


class _Logistic(Tails):
    name = "logistic"

    def tail(self, distance: Tensor) -> Tensor:
        return distance.neg_().sigmoid_()

    def density(self, probs: Tensor) -> Tensor:
        return probs * (1 - probs)

    def log_density(self, distance: Tensor) -> Tensor:
        return -distance - 2 * torch.nn.functional.softplus(-distance)

    def reach(self, share: Tensor) -> Tensor:
        return -torch.logit(share).clamp(max=0)

    def step(self, z: Tensor, above: Tensor, k: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Sinkhorn's update of the potential, over one minus its rate of contraction."""
        tail = self.tail(z.abs_())
        square = torch.linalg.vector_norm(tail, dim=-1, keepdim=True).double().square()
        upper, lower = split(tail, above)
        ones = above.sum(-1, keepdim=True)
        excess = (ones - k) + (lower - upper)
        picked, left = ones + (lower - upper), (units - ones) + (upper - lower)
        update = torch.log1p(excess / k) - torch.log1p(-excess / (units - k))
        return excess, update * picked * left / (units * (upper + lower - square))


_LOGISTIC = SHAPES.setdefault(_Logistic.name, _Logistic())
