"""Losses of samples, and the scalar that carries their gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def losses(fn: Callable[[Tensor], Tensor], samples: Tensor, vectorize: bool) -> Tensor:
    """Apply `fn` to samples of shape (m, ..., n): (m, *P), where P is a leading part of (...)."""
    loss = _tensor(fn(samples)) if vectorize else torch.stack([_tensor(fn(sample)) for sample in samples])
    allowed = samples.shape[:-1]
    if loss.dim() == 0 or loss.shape != allowed[: loss.dim()]:
        first = 0 if vectorize else 1  # without the dimension of the samples, which `fn` does not see then
        raise ValueError(
            f"fn must return one loss per row or group of rows, a leading part of shape {tuple(allowed[first:])}"
            f"{' that has num_samples in front' if vectorize else ''}, got shape {tuple(loss.shape[first:])}"
        )
    return loss


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
