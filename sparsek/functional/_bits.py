"""Bits per byte of a byte-level language model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsek._validation import check_floating, check_token_mask, check_whole_numbers, values_visible


def _bits_per_byte_update(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Sum of $-\log_2 p$ over the bytes that `mask` keeps, and their number."""
    check_floating("logits", logits)
    check_whole_numbers("target", target)
    if logits.dim() == 0 or logits.shape[:-1] != target.shape:
        raise ValueError(
            f"target must have the shape of logits without its last dimension, {tuple(logits.shape[:-1])}, "
            f"got {tuple(target.shape)}"
        )
    check_token_mask("mask", mask, target.shape)
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    logits = logits if logits.dtype.itemsize > 2 else logits.float()
    wanted = target.long().masked_fill(~mask, 0)  # what is masked may hold anything
    if wanted.numel() and values_visible(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < logits.shape[-1]:
        least, most = int(wanted.min()), int(wanted.max())
        raise ValueError(f"target must lie in [0, {logits.shape[-1] - 1}], got values from {least} to {most}")
    nats = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.flatten(), reduction="none").view(target.shape)
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
        ValueError: If the shapes or dtypes do not fit, or a target that is kept is none of the vocabulary (eager mode).

    Example:
        >>> bits_per_byte(torch.zeros(2, 5, 256), torch.zeros(2, 5, dtype=torch.long))
        tensor(8.)
    """
    return _bits_per_byte_compute(*_bits_per_byte_update(logits, target, mask))
