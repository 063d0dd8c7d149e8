"""Inclusion probabilities proportional to size."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, values_visible

from ._rows import column


def pps(sizes: Tensor, k: float | Tensor, dim: int = -1) -> Tensor:
    r"""Turn sizes into inclusion probabilities that sum to k: proportional to size, capped at 1.

    $$π_i = \min(1, c\, s_i), \quad c \text{ such that } \sum_i π_i = k.$$

    Units that would pass 1 are taken with certainty, and the rest of k is shared among the others in proportion, again
    and again until none passes: the result of that iteration, found by one sort. The gradient is that of the formula by
    autograd, with the set of certain units held: on the others $π_i = (k - m)\, s_i / \sum_{j \text{ not certain}}
    s_j$; certain units receive 0 and give none, except through m, which is constant.

    k = 0 gives zeros. A size of 0 gives exactly 0; k = number of positive sizes gives 1 for all of these. Only ratios
    of sizes matter. A NaN size makes its own row NaN.

    Shape:
        - sizes: any shape, n units along `dim`.
        - k: a number, or a tensor that broadcasts to the shape of `sizes` without `dim`.
        - output: the shape of `sizes`.

    Args:
        sizes: Finite sizes >= 0, floating point; half precision is computed in float32.
        k: Expected number of units, in [0, number of positive sizes]; may be real.
        dim: Dimension of the units.

    Returns:
        The inclusion probabilities, in the dtype of `sizes`.

    Raises:
        ValueError: If an argument has the wrong type, shape or range; if a size is negative or infinite; if a row has
            fewer than k positive sizes. Values are looked at in eager mode only; otherwise such a row is NaN.

    Example:
        >>> pps(torch.tensor([10.0, 3.0, 1.0, 1.0, 0.0]), 2)
        tensor([1.0000, 0.6000, 0.2000, 0.2000, 0.0000])

    References:
        Särndal, Swensson, Wretman, 1992, "Model Assisted Survey Sampling", section 3.6,
        https://doi.org/10.1007/978-1-4612-4378-6
    """
    check_floating("sizes", sizes)
    dim = check_dim("sizes", sizes, dim)
    weights = sizes.movedim(dim, -1)
    weights = weights.to(torch.promote_types(sizes.dtype, torch.float32))
    check_k(k, weights.shape[:-1], weights.shape[-1])
    if values_visible(sizes) and bool(((sizes < 0) | sizes.isinf()).any()):
        raise ValueError(f"sizes must be finite and >= 0, got values from {sizes.min().item()} to {sizes.max().item()}")
    positive = (weights > 0).sum(-1, keepdim=True)
    count = column(k, weights, torch.float64)
    if values_visible(sizes, count):
        broken = weights.isnan().any(-1)
        check_k(k, weights.shape[:-1], positive.squeeze(-1).masked_fill(broken, weights.shape[-1]))
    legal = (count >= 0) & (count <= positive) & ((weights >= 0) & weights.isfinite()).all(-1, keepdim=True)
    return _share(weights, count.masked_fill(~legal, torch.nan)).movedim(-1, dim).to(sizes.dtype)


def _share(weights: Tensor, k: Tensor) -> Tensor:
    largest = weights.detach().amax(-1, keepdim=True) if weights.shape[-1] else weights.detach().sum(-1, keepdim=True)
    positive = weights.detach() > 0
    weights = weights.double() / torch.where(largest > 0, largest, 1.0)  # sums cannot overflow
    everyone = positive & (k.detach() == positive.sum(-1, keepdim=True))  # whatever has underflown
    certain = _certain(weights.detach(), k.detach()) | everyone
    others = weights.masked_fill(certain, 0.0)
    total = others.sum(-1, keepdim=True)
    left = (k - certain.sum(-1, keepdim=True)).to(weights.dtype)
    shares = left * others / torch.where(total > 0, total, 1.0)
    return torch.where(certain, 1.0 + 0.0 * left, shares.clamp(max=1.0))


def _certain(weights: Tensor, k: Tensor) -> Tensor:
    """Units at 1. Largest first, unit j is certain iff the units before it are and (k − j)·s_j >= s_j + s_{j+1} + …."""
    ordered, order = weights.double().sort(dim=-1, descending=True)
    rest = ordered.flip(-1).cumsum(-1).flip(-1)
    before = torch.arange(weights.shape[-1], device=weights.device)
    passes = ((k - before) * ordered >= rest * (1 - 1e-12)) & (ordered > 0)
    certain = passes.to(torch.int8).cummin(-1).values.bool()
    return torch.zeros_like(certain).scatter(-1, order, certain)
