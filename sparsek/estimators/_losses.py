"""Losses of samples, and the scalar that carries their gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def losses(fn: Callable[[Tensor], Tensor], samples: Tensor, vectorize: bool) -> Tensor:
    """Apply `fn` to samples of shape (m, ..., n): (m, *P), where P is a leading part of (...)."""
    check_num_samples(len(samples))
    if vectorize:
        loss = fn(samples)
        shared = isinstance(loss, Tensor) and loss.dim() == 0
        if shared:
            raise ValueError(
                "fn must return one loss per sample with vectorize=True, shape (num_samples, ...), got a scalar"
            )
    else:
        loss = torch.stack([_tensor(fn(sample)) for sample in samples])
    loss = _tensor(loss)
    if loss.shape != samples.shape[: loss.dim()] or loss.dim() >= samples.dim():
        raise ValueError(
            "fn must return one loss per row, or per leading group of rows: a leading part of shape "
            f"{tuple(samples.shape[:-1] if vectorize else samples.shape[1:-1])}, "
            f"got {tuple(loss.shape if vectorize else loss.shape[1:])}"
        )
    return loss


def check_num_samples(num_samples: int) -> None:
    """Refuse fewer than one sample."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")


def _tensor(loss: object) -> Tensor:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"fn must return a floating-point tensor, got {got}")
    return loss


def per_loss(rows: Tensor, ndim: int) -> Tensor:
    """Sum values of rows that share a loss: keep the first `ndim` dimensions."""
    return rows.flatten(ndim).sum(-1) if rows.dim() > ndim else rows


def mean_with_gradient(loss: Tensor, carrier: Tensor) -> Tensor:
    """The mean of `loss` with, besides its own gradient, that of the mean of `carrier`."""
    carried = carrier.mean()
    return loss.mean() + (carried - carried.detach())
