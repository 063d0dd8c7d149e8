"""Sums over the ranks of a group that autograd may pass through, and the reductions of rows made of them.

The loss is the sum over ranks of what each of them computes. So the gradient to what a rank adds to a sum is the sum over
ranks of the gradients to the result, and the gradient to an argument that every rank holds is the sum of all ranks'.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsek.functional._reduction import Reduction

from ._order import order_statistics


def all_reduce(value: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> Tensor:
    """The reduction of a small tensor over the group, out of place; nothing travels if it has no elements."""
    value = value.clone(memory_format=torch.contiguous_format)
    if value.numel():
        dist.all_reduce(value, op=op, group=group)
    return value


def all_gather(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """What each rank holds, stacked along a new first dimension in the order of ranks."""
    value = value.contiguous()
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size(group))]
    if value.numel():
        dist.all_gather(parts, value, group=group)
    return torch.stack(parts)


class SumAcross(torch.autograd.Function):
    """Sum over ranks; differentiable any number of times, forward and backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_reduce(value, dist.ReduceOp.SUM, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return SumAcross.apply(grad, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return all_reduce(tangent, dist.ReduceOp.SUM, ctx.group)


class Replicated(torch.autograd.Function):
    """The identity on an argument that every rank passes alike; its gradient is the sum of all ranks'."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return SumAcross.apply(grad, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.view_as(tangent)


class Shards(Reduction):
    """Reductions of rows of which each rank of a group holds a part. Every method but `order_statistics` is one or two collectives."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """All the sums of a pass travel together, in float64: counts are exact."""
        together = torch.cat([part.double() for part in parts], -1)
        return all_reduce(together, dist.ReduceOp.SUM, self.group).tensor_split(len(parts), -1)

    def largest(self, part: Tensor) -> Tensor:
        return all_reduce(part, dist.ReduceOp.MAX, self.group)

    def total(self, values: Tensor) -> Tensor:
        total: Tensor = SumAcross.apply(values.sum(-1, keepdim=True), self.group)
        return total

    def logsumexp(self, values: Tensor) -> Tensor:
        return all_gather(values.logsumexp(-1, keepdim=True), self.group).logsumexp(0)

    def softmax(self, values: Tensor) -> Tensor:
        powers = (values - self.largest(values.amax(-1, keepdim=True))).exp()
        return powers / self.total(powers)

    def order_statistics(self, x: Tensor, ranks: Tensor) -> Tensor:
        return order_statistics(x, ranks, lambda counts: all_reduce(counts, dist.ReduceOp.SUM, self.group))
