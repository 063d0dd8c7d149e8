"""Rows from every rank to every rank (all-to-all), with a gradient that goes the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def exchange(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    r"""Send the first `send[0]` rows to rank 0 of the group, the next `send[1]` to rank 1, and so on; return what all ranks sent here.

    The gradient goes back to the rank that its row came from, for a loss that is the sum over ranks; it may be
    differentiated again. Collective: every rank of the group calls it, also one that sends and receives nothing, forward and
    backward.

    Shape:
        - rows: (N, ...), N the sum of `send`; the other sizes and the dtype are the same on every rank.
        - output: (M, ...), M the sum of `receive`, by rank.

    Args:
        rows: Rows by destination.
        send: How many go to each rank.
        receive: How many come from each rank: what those ranks have in their `send` (see :func:`exchange_counts`).
        group: The ranks.

    Returns:
        Rows by origin.

    Raises:
        ValueError: If there is not one number per rank, or `send` does not add up to the rows.
    """
    world_size = dist.get_world_size(group)
    for name, counts in (("send", send), ("receive", receive)):
        if len(counts) != world_size:
            raise ValueError(
                f"{name} must have a number for each of the {world_size} ranks of the group, got {len(counts)}"
            )
    if sum(send) != len(rows):
        raise ValueError(f"send must add up to the {len(rows)} rows, got {sum(send)}")
    received: Tensor = _Exchange.apply(rows, list(send), list(receive), group)
    return received


def exchange_counts(counts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Send entry r of the first dimension, one per rank, to rank r; return the entries from all ranks. No gradient."""
    received = torch.empty_like(counts, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, counts.contiguous(), group=group)
    return received


class _Exchange(torch.autograd.Function):
    """All-to-all; its adjoint is the one with the numbers swapped."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.plan = receive, send, group
        received = rows.new_empty(sum(receive), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), receive, send, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Exchange.apply(grad, *ctx.plan), None, None, None
