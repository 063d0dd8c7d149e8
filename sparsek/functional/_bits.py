"""Bits per byte of a byte-level language model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _bits_per_byte_update(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Sum of $-\log_2 p$ over the bytes that `mask` keeps, and their number."""
    if logits.shape[:-1] != target.shape:
        raise ValueError(
            f"target must have the shape of logits without its last dimension, {tuple(logits.shape[:-1])}, "
            f"got {tuple(target.shape)}"
        )
    if mask is not None and mask.shape != target.shape:
        raise ValueError(f"mask must have the shape of target, {tuple(target.shape)}, got {tuple(mask.shape)}")
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    logits = logits if logits.dtype.itemsize > 2 else logits.float()
    nats = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
    return nats.masked_fill(~mask, 0).sum() / math.log(2), mask.sum()


def _bits_per_byte_compute(bits: Tensor, count: Tensor) -> Tensor:
    return bits / count


def bits_per_byte(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean code length of bytes, $-\tfrac1N \sum_t \log_2 \operatorname{softmax}(\text{logits}_t)_{y_t}$.

    Differentiable in `logits`; half precision is computed in float32. NaN where no byte is kept.

    Shape:
        - logits: (..., vocabulary).
        - target: (...).
        - mask: (...).
        - output: 0-d.

    Args:
        logits: Scores of the next byte.
        target: The byte that came.
        mask: True = keep: a real byte, not padding.

    Returns:
        Bits per byte: 8 for a uniform guess over 256 bytes.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> bits_per_byte(torch.zeros(2, 5, 256), torch.zeros(2, 5, dtype=torch.long))
        tensor(8.)
    """
    return _bits_per_byte_compute(*_bits_per_byte_update(logits, target, mask))
