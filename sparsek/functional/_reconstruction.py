"""How well tokens are reconstructed. Sums over tokens in float64, so that they add over batches without loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_token_mask


class Moments(NamedTuple):
    """Sums over tokens, from which every measure here follows; those of two batches add."""

    tokens: Tensor
    """0-d, int64."""
    target: Tensor
    """Σ y, (d,)."""
    target_squares: Tensor
    """Σ ‖y‖², 0-d."""
    residual: Tensor
    """Σ (y − ŷ), (levels, d)."""
    residual_squares: Tensor
    """Σ ‖y − ŷ‖², (levels,)."""
    cosine: Tensor
    """Σ cos(y, ŷ), (levels,)."""


def no_moments(d: int, levels: int) -> Moments:
    """Sums over no token."""
    zero = torch.zeros((), dtype=torch.float64)
    rows = torch.zeros(levels, d, dtype=torch.float64)
    return Moments(
        torch.zeros((), dtype=torch.int64), rows[0].clone(), zero, rows, rows[:, 0].clone(), rows[:, 0].clone()
    )


def moments(reconstructions: Tensor, target: Tensor, mask: Tensor | None = None) -> Moments:
    """Of (..., levels, d) against (..., d), over the tokens (...) that `mask` keeps."""
    _check(reconstructions, target, mask)
    d, levels = target.shape[-1], reconstructions.shape[-2]
    y, predicted = target.detach().reshape(-1, d), reconstructions.detach().reshape(-1, levels, d)
    if mask is not None:
        y, predicted = y[mask.flatten()], predicted[mask.flatten()]
    y, predicted = y.double(), predicted.double()
    residual = y.unsqueeze(1) - predicted
    cosine = torch.nn.functional.cosine_similarity(y.unsqueeze(1), predicted, dim=-1)
    tokens = torch.tensor(y.shape[0], device=y.device)
    squares = residual.square().sum((0, 2))
    return Moments(tokens, y.sum(0), y.square().sum(), residual.sum(0), squares, cosine.sum(0))


def fvu_of(sums: Moments) -> Tensor:
    """(levels,)."""
    return sums.residual_squares / _about_mean(sums.target_squares, sums.target, sums.tokens)


def explained_variance_of(sums: Moments) -> Tensor:
    """(levels,)."""
    unexplained = _about_mean(sums.residual_squares, sums.residual, sums.tokens)
    return 1 - unexplained / _about_mean(sums.target_squares, sums.target, sums.tokens)


def cosine_of(sums: Moments) -> Tensor:
    """(levels,)."""
    return sums.cosine / sums.tokens


def _about_mean(squares: Tensor, total: Tensor, tokens: Tensor) -> Tensor:
    """Σ‖v − mean‖² from Σ‖v‖² and Σv."""
    return squares - total.square().sum(-1) / tokens


def fvu(reconstruction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Fraction of variance unexplained, $\sum_t \lVert y_t - \hat y_t \rVert^2 / \sum_t \lVert y_t - \bar y \rVert^2$.

    $\bar y$ is the mean of all tokens given, a vector: reconstructing it scores 1, and a constant offset of the data changes
    nothing, where dividing by $\sum \lVert y \rVert^2$ would reward it. No gradient.

    Shape:
        - reconstruction, target: (..., d).
        - mask: (...).
        - output: 0-d, float64.

    Args:
        reconstruction: ŷ.
        target: y.
        mask: True = keep: a real token, not padding.

    Returns:
        A number of at least 0. NaN where no token is kept; infinite or NaN where all tokens are equal.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> y = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> fvu(y.mean(0).expand(2, 2), y), fvu(y, y)
        (tensor(1., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    return fvu_of(moments(_one_level(reconstruction), target, mask))[0]


def explained_variance(reconstruction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Explained variance, $1 - \sum_t \lVert r_t - \bar r \rVert^2 / \sum_t \lVert y_t - \bar y \rVert^2$ with $r = y - \hat y$.

    Larger than 1 − FVU by the part of the error that is a constant offset, which this measure does not count. No gradient.

    Shape:
        - reconstruction, target: (..., d).
        - mask: (...).
        - output: 0-d, float64.

    Args:
        reconstruction: ŷ.
        target: y.
        mask: True = keep: a real token, not padding.

    Returns:
        A number of at most 1. NaN where no token is kept.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> y = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> explained_variance(y + 5, y)
        tensor(1., dtype=torch.float64)
    """
    return explained_variance_of(moments(_one_level(reconstruction), target, mask))[0]


def _one_level(reconstruction: Tensor) -> Tensor:
    check_floating("reconstruction", reconstruction)
    check_dim("reconstruction", reconstruction, -1)
    return reconstruction.unsqueeze(-2)


def _check(reconstructions: Tensor, target: Tensor, mask: Tensor | None) -> None:
    check_floating("reconstruction", reconstructions)
    check_floating("target", target)
    if target.dim() == 0 or reconstructions.shape[:-2] + reconstructions.shape[-1:] != target.shape:
        shape = (*reconstructions.shape[:-2], *reconstructions.shape[-1:])
        raise ValueError(f"reconstruction must have the shape of target, {tuple(target.shape)}, got {shape}")
    check_token_mask("mask", mask, target.shape[:-1])
