"""Poolings that are weighted sums of tokens: mean, mean over the root of the length, given weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_floating

from ._tokens import blank, check_tokens, count, empty_rows, select, wide, wide_dtype


def mean_pool(x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean of the kept tokens.

    $$y = \frac1n \sum_{t \text{ kept}} x_t.$$

    Each kept token receives the n-th part of the gradient. On a feature map whose positions are the tokens this is global
    average pooling. A row without a kept token gives 0.

    Shape:
        - x: (..., T, D).
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Args:
        x: Tokens, floating point; half precision is summed in float32. Masked tokens may hold anything.
        mask: True = keep.

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import mean_pool
        >>> mean_pool(torch.tensor([[1.0, 2.0], [3.0, 6.0], [torch.nan, 0.0]]), torch.tensor([True, True, False]))
        tensor([2., 4.])
    """
    check_tokens(x, mask)
    return (_sum(x, mask) / count(x, mask)).to(x.dtype)


def mean_sqrt_len_pool(x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Sum of the kept tokens over the root of their number.

    $$y = \frac1{\sqrt n} \sum_{t \text{ kept}} x_t.$$

    The scale of the output of independent tokens with mean 0 does not depend on the length. Each kept token receives
    $1/\sqrt n$ of the gradient. A row without a kept token gives 0. Shapes, arguments and errors are those of :func:`mean_pool`.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import mean_sqrt_len_pool
        >>> mean_sqrt_len_pool(torch.ones(4, 1))
        tensor([2.])
    """
    check_tokens(x, mask)
    n = count(x, mask)
    return (_sum(x, mask) / n**0.5).to(x.dtype)


def weighted_pool(x: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Sum of the kept tokens, each times its weight, as given.

    $$y = \sum_{t \text{ kept}} w_t x_t.$$

    Linear in both, with the gradients of a sum of products. A row without a kept token gives 0.

    Shape:
        - x: (..., T, D).
        - weights: (..., T); where masked they may hold anything.
        - mask: broadcasts to (..., T).
        - output: (..., D).

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import weighted_pool
        >>> weighted_pool(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([0.25, 0.75]))
        tensor([2.5000, 5.0000])
    """
    check_tokens(x, mask)
    _check_weights(weights, x)
    weights = wide(weights) if mask is None else torch.where(mask, wide(weights), 0.0)
    return (weights.unsqueeze(-1) * wide(select(x, mask))).sum(-2).to(x.dtype)


def weighted_mean_pool(x: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean of the kept tokens with weights >= 0.

    $$y = \sum_{t \text{ kept}} w_t x_t \Big/ \sum_{t \text{ kept}} w_t.$$

    Weights are divided by the largest first, so their scale can neither overflow nor vanish. A row whose kept weights are all 0
    gives NaN, one without a kept token 0. Gradients reach `x` and `weights`. Shapes are those of :func:`weighted_pool`.

    Raises:
        ValueError: If an argument has the wrong type or shape.

    Example:
        >>> import torch
        >>> from sparsek.functional.pooling import weighted_mean_pool
        >>> weighted_mean_pool(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([1e-30, 3e-30]))
        tensor([2.5000, 5.0000])
    """
    return weighted_pool(x, normalised_weights(x, weights, mask), mask)


def normalised_weights(x: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """The weights of :func:`weighted_mean_pool`: at least float32, 0 where masked and in empty rows."""
    check_tokens(x, mask)
    _check_weights(weights, x)
    weights = wide(weights)
    if mask is None:
        return _shares(weights)
    empty = ~mask.any(-1, keepdim=True)
    return torch.where(mask, _shares(torch.where(mask, weights, 0.0) + empty), 0.0)


def mean_weights(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The weights of :func:`mean_pool`, (..., T): 1/n at the kept tokens, at least float32."""
    check_tokens(x, mask)
    return normalised_weights(x, x.new_ones(x.shape[:-1], dtype=wide_dtype(x)), mask)


def _check_weights(weights: Tensor, x: Tensor) -> None:
    check_floating("weights", weights)
    try:
        fits = torch.broadcast_shapes(weights.shape, x.shape[:-1])[-1] == x.shape[-2]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"weights must have shape {tuple(x.shape[:-1])}, that of the tokens, got {tuple(weights.shape)}"
        )


def _shares(weights: Tensor) -> Tensor:
    if weights.shape[-1] == 0:
        return weights
    weights = weights / weights.detach().amax(-1, keepdim=True)
    return weights / weights.sum(-1, keepdim=True)


def _sum(x: Tensor, mask: Tensor | None) -> Tensor:
    total = select(x, mask).sum(-2, dtype=wide_dtype(x))
    return blank(total, empty_rows(x, mask))
