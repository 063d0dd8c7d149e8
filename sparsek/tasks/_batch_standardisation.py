"""Batch normalisation by the statistics of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsek.nn.sparse_autoencoder._processes import processes


class BatchStandardisation(nn.BatchNorm1d):
    r"""`nn.BatchNorm1d` of (rows, dim) where the rows of all processes are one batch while training.

    The mean and the variance are those of all rows, and the gradient goes through them on every process. Two collectives of dim + 1
    and dim numbers in either direction; on one process it is `nn.BatchNorm1d` itself. PyTorch's own `SyncBatchNorm` needs a CUDA
    device.

    Example:
        >>> BatchStandardisation(1, affine=False)(torch.tensor([[1.0], [3.0]])).round(decimals=3).tolist()
        [[-1.0], [1.0]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Standardise (rows, dim)."""
        if not (self.training and processes() > 1):
            return super().forward(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        sums: Tensor = _Sum.apply(torch.cat((rows.sum(0), rows.new_full((1,), len(rows)))))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        variance: Tensor = _Sum.apply((rows - mean).square().sum(0)) / count
        self._remember(mean.detach(), variance.detach(), count)
        output = (rows - mean) * torch.rsqrt(variance + self.eps)
        return (output * self.weight + self.bias if self.affine else output).to(input)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the statistics of evaluation towards those of this batch, as `nn.BatchNorm1d` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / (count - 1).clamp_min(1)).to(self.running_var), share)


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, as every process has a loss of its own of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.contiguous().clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient
