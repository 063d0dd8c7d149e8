"""How many tokens are taken: k within what a row has."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsek._validation import values_visible


def clip_size(k: float | Tensor, shape: torch.Size, mask: Tensor | None, like: Tensor) -> float | Tensor:
    """`k` within [1, n], n the number of kept tokens of a row (1 in an empty one).

    The gradient of a tensor passes as if it were not clipped: with the value of the limit, that is the one-sided derivative
    there, and a learnt k that has left the interval can come back.

    Args:
        k: A number >= 1, or a tensor that broadcasts to (...).
        shape: (..., T).
        mask: Broadcasts to `shape`; None = all.
        like: Gives dtype and device.

    Returns:
        A number if `k` is one and nothing is masked; else a tensor that broadcasts to (...).

    Raises:
        ValueError: If `k` is no number or tensor of that kind.
    """
    _check_size(k, shape[:-1])
    length = max(shape[-1], 1)
    if not isinstance(k, Tensor):
        if mask is None:
            return min(k, length)
        return mask.expand(shape).sum(-1).clamp(min=1).clamp(max=k).to(like.dtype)
    k = k.to(like)
    most = (
        torch.full_like(k.detach(), length) if mask is None else mask.expand(shape).sum(-1).clamp(min=1).to(like.dtype)
    )
    return k.detach().clamp(min=1).minimum(most) + (k - k.detach())


def _check_size(k: float | Tensor, batch: torch.Size) -> None:
    if isinstance(k, Tensor):
        try:
            fits = torch.broadcast_shapes(k.shape, batch) == batch
        except RuntimeError:
            fits = False
        if not fits or k.dtype == torch.bool or k.is_complex():
            raise ValueError(
                f"k must be real and broadcast to the batch shape {tuple(batch)}, got {k.dtype} of shape {tuple(k.shape)}"
            )
        if values_visible(k) and not bool(k.isfinite().all()):
            raise ValueError("k must be finite in every row")
    elif isinstance(k, bool) or not isinstance(k, (int, float)) or not 1 <= k < math.inf:
        raise ValueError(f"k must be a finite number >= 1 or a tensor, got {k!r}")


def share_of_length(fraction: float | Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """`fraction` of the number of kept tokens, (...): a real k."""
    if mask is None:
        return x.new_full(x.shape[:-2], x.shape[-2]) * fraction
    return mask.expand(x.shape[:-1]).sum(-1).to(x.dtype) * fraction
