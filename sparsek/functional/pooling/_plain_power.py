"""The power mean without logarithms, for a power that is known and neither small nor large: several times as fast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sparsek._validation import inspectable

from ._tokens import select

_LEAST, _MOST = 1.0, 8.0
"""Powers at which a rounded quotient costs at most a few roundings of the result, and a root of the mean is safe."""

_SMALL, _LARGE = 1e-3, 1e3
"""Largest activations between which these powers need no quotient: they neither overflow nor vanish in float32."""


def plain_exponent(p: float | Tensor) -> float | None:
    """The power as a number where the plain form is right to the precision of the dtype; None = take logarithms.

    A tensor is read where that waits for nothing, and no derivative with respect to it is wanted: that of the plain form cancels
    where activations are nearly equal.
    """
    if isinstance(p, Tensor):
        wanted = (p.requires_grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0
        if wanted or p.dim() or not p.is_cpu or not inspectable(p):
            return None
        p = p.item()
    return float(p) if isinstance(p, (int, float)) and _LEAST < p <= _MOST else None


def plain_power_mean(size: Tensor, signs: Tensor | None, p: float, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""$r (\frac1n \sum (x_t/r)^p)^{1/p}$ with r the largest activation, so that no power is above 1, or 1 where none can overflow.

    Args:
        size: Magnitudes, (..., T, D); masked ones not above the kept ones.
        signs: Signs of the powers; None = all positive.
        p: In (1, 8].
        keep: (..., T), at least one True in every row; None = all.

    Returns:
        Where a dimension is infinite, and the power mean of the others, (..., D).
    """
    reference = size.detach().amax(-2)
    infinite = reference.isinf()
    if inspectable(reference) and bool(((reference > _SMALL) & (reference < _LARGE)).all()):
        return infinite, _root(_mean(size.pow(p), signs, keep), signs, p)
    scale = torch.where(infinite | (reference == 0), 1.0, reference)
    powers = (size / scale.unsqueeze(-2)).clamp(max=1).pow(p)  # only infinity is above 1
    return infinite, scale * _root(_mean(powers, signs, keep), signs, p)


def _mean(powers: Tensor, signs: Tensor | None, keep: Tensor | None) -> Tensor:
    powers = select(powers if signs is None else signs * powers, keep)
    return powers.sum(-2) / (powers.shape[-2] if keep is None else keep.sum(-1, keepdim=True).to(powers.dtype))


def _root(mean: Tensor, signs: Tensor | None, p: float) -> Tensor:
    """The p-th root with the sign of the mean; 0 with gradient 0 where a signed mean is 0."""
    if signs is None:
        return mean.pow(1 / p)
    zero = mean == 0
    return torch.where(zero, 0.0, mean.sign() * torch.where(zero, 1.0, mean.abs()).pow(1 / p))
