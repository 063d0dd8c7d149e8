"""Bits per byte over many batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from sparsek.functional._bits import _bits_per_byte_compute, _bits_per_byte_update


class BitsPerByte(Metric):
    """Mean code length of all bytes seen. See :func:`sparsek.functional.bits_per_byte`. Accumulates in float64.

    Example:
        >>> metric = BitsPerByte()
        >>> metric.update(torch.zeros(2, 5, 256), torch.zeros(2, 5, dtype=torch.long))
        >>> metric.compute().item()
        8.0
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = True

    bits: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("bits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add one batch: logits (..., vocabulary), target (...), mask (...) with True = a real byte."""
        bits, count = _bits_per_byte_update(logits, target, mask)
        self.bits += bits
        self.count += count

    def compute(self) -> Tensor:
        """Bits per byte; NaN before any byte."""
        return _bits_per_byte_compute(self.bits, self.count)
