"""Hard top-k of rows spread over ranks: ties go to the lowest rank, and there to the lowest index."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ._collectives import Shards, all_gather


def sharded_topk_mask(scores: Tensor, k: float | Tensor, across: Shards) -> Tensor:
    """This rank's part of :func:`sparsek.functional.topk_mask`; NaN in a row that has no answer.

    The smallest selected score comes from a radix search with counts, the place of this rank's ties from all ranks' counts.

    Args:
        scores: (..., n) here, -inf where masked.
        k: A number, or a column (..., 1).
        across: The group.
    """
    batch = scores.shape[:-1]
    if scores.numel() == 0:
        return torch.zeros_like(scores)
    x = scores.reshape(batch.numel(), -1)
    target = torch.as_tensor(k, dtype=torch.float64, device=x.device).detach().expand(*batch, 1).reshape(-1, 1)
    whole, size = target.floor(), target.nan_to_num(0).ceil()
    ordered = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    smallest = across.order_statistics(ordered, size.long()).masked_fill(size == 0, torch.inf)
    above, at = x > smallest, x == smallest
    before, outside = _place(x, above, at, whole, size, across)
    last = torch.where(size > whole, target - whole, 1.0)
    rank = before + at.cumsum(-1)  # counted from 1, right for the units at the smallest selected score
    selected = torch.where(
        at & (rank < size), 1.0, torch.where(at & (rank == size), last.to(x.dtype), above.to(x.dtype))
    )
    return selected.masked_fill(outside, torch.nan).view(scores.shape)


def _place(x: Tensor, above: Tensor, at: Tensor, whole: Tensor, size: Tensor, across: Shards) -> tuple[Tensor, Tensor]:
    """Units that come before this rank's ties in the order of the whole row, and the rows without an answer."""
    kinds = (above, at, x > -torch.inf, x == torch.inf, x.isnan())
    counts = all_gather(torch.cat([kind.sum(-1, keepdim=True) for kind in kinds], -1), across.group)
    num_above, _, valid, certain, broken = counts.sum(0).split(1, -1)
    earlier = counts[: dist.get_rank(across.group), :, 1:2].sum(0)
    return num_above + earlier, (broken > 0) | (valid < size) | (certain > whole) | ~(whole >= 0)
