"""LapSum: top-k through a sum of Laplace distribution functions."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_positive

from ._implicit import solve_implicitly
from ._rows import scale_column, to_rows
from ._shape import SHAPES
from ._tails import Tails, split


def lapsum_topk(
    input: Tensor, k: float | Tensor, dim: int = -1, *, scale: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Inclusion probabilities that sum to k: a Laplace distribution function whose shift is solved for.

    $$π_i = F\left((x_i - τ)/s\right), \quad F(z) = \tfrac12 e^{z} \ (z ≤ 0), \; 1 - \tfrac12 e^{-z} \ (z > 0),
    \quad τ \text{ such that } \sum_i π_i = k.$$

    Between two neighbouring scores the sum is a quadratic in $e^{τ/s}$. That quadratic is solved for the units now
    above and below τ, and again until they no longer change (bracketed): the closed form of the paper without its
    sort. The gradient is the implicit one, of any order, with $d = \min(π, 1-π)$ and $w = d/\sum d$: $∂L/∂x = d ∘ (g -
    ⟨w,g⟩)/s$, $∂L/∂k = ⟨w, g⟩$, and one for `scale`. The density has a kink at τ, where second derivatives are
    one-sided.

    k = 0 gives zeros, k = n ones, with the one-sided limits of ∂L/∂k. Ties share equally. Units at +inf are exactly 1,
    masked ones and -inf exactly 0. A NaN that is not masked makes its own row NaN.

    Shape:
        - input: any shape, n units along `dim`.
        - k, scale: a number, or a tensor that broadcasts to the shape of `input` without `dim`.
        - output: the shape of `input`.

    Args:
        input: Scores, floating point; half precision is solved in float32.
        k: Sum of the probabilities, in [0, number of valid units]; may be real.
        dim: Dimension of the units.
        scale: s > 0, the width of the transition (the paper's α is 1/s); towards 0 it is hard top-k.
        mask: True = keep; broadcasts to `input`.

    Returns:
        The probabilities, in the dtype of `input`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a row has fewer than k valid units, or more
            than k at +inf. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> lapsum_topk(torch.tensor([2.0, 1.0, 0.0, -1.0]), 2)
        tensor([0.8884, 0.6967, 0.3033, 0.1116])

    References:
        Struski, Bednarczyk, Podolak, Tabor, 2025, "LapSum - One Method to Differentiate Them All: Ranking, Sorting and
        Top-k Selection", https://arxiv.org/abs/2503.06242
    """
    check_positive("scale", scale)
    rows = to_rows(input, k, dim, mask)
    width = scale_column("scale", scale, rows.scores, torch.float64)
    return rows.restore(solve_implicitly(rows.competing(), rows.k, width, _LAPLACE))


class _Laplace(Tails):
    name = "laplace"

    def tail(self, distance: Tensor) -> Tensor:
        return distance.neg_().exp_().mul_(0.5)

    def density(self, probs: Tensor) -> Tensor:
        return torch.minimum(probs, 1 - probs)

    def log_density(self, distance: Tensor) -> Tensor:
        return -distance

    def reach(self, share: Tensor) -> Tensor:
        return -(2 * share).log().clamp(max=0)

    def step(self, z: Tensor, above: Tensor, k: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """With y = e^δ for a move by δ: upper·y² − (above − k)·y − lower = 0."""
        upper, lower = split(self.tail(z.abs_()), above)
        surplus = above.sum(-1, keepdim=True) - k
        root = (surplus.square() + 4 * upper * lower).sqrt()
        growth = torch.where(surplus > 0, (surplus + root) / (2 * upper), 2 * lower / (root - surplus))
        return surplus - upper + lower, growth.log()


_LAPLACE = SHAPES.setdefault(_Laplace.name, _Laplace())
