"""Hard top-k of rows spread over ranks: ties go to the lowest rank, and there to the lowest index."""

from __future__ import annotations

import math

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
    kinds = _kinds(x)
    ordered = x if kinds is None else x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    smallest = across.order_statistics(ordered, size.long()).masked_fill(size == 0, torch.inf)
    at = x == smallest
    above = x > smallest
    ties = _count(at)
    counts = all_gather(torch.cat((_count(above), ties, *(kinds or _all_finite(x))), -1), across.group)
    num_above, _, valid, certain, broken = counts.sum(0).split(1, -1)
    rank = num_above + counts[: dist.get_rank(across.group), :, 1:2].sum(0)  # of the first of this rank's ties, from 0
    rank = rank + (at.cumsum(-1) if bool((ties > 1).any()) else 1)
    last = torch.where(size > whole, target - whole, 1.0).to(x.dtype)
    share = torch.where(rank < size, 1.0, torch.where(rank == size, last, 0.0))
    outside = (broken > 0) | (valid < size) | (certain > whole) | ~(whole >= 0)
    selected = torch.where(at, share.to(x.dtype), above.to(x.dtype))
    return (selected.masked_fill_(outside, torch.nan) if bool(outside.any()) else selected).view(scores.shape)


def _count(units: Tensor) -> Tensor:
    return units.sum(-1, keepdim=True, dtype=torch.int32)


def _kinds(x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Numbers of valid units, of those at +inf and of NaN; None if all of this rank's scores are finite."""
    if math.isfinite(x.sum().item()):
        return None
    return _count(x > -torch.inf), _count(x == torch.inf), _count(x.isnan())


def _all_finite(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.zeros((len(x), 1), dtype=torch.int32, device=x.device)
    return none + x.shape[-1], none, none
