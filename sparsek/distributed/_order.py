"""Order statistics of rows spread over ranks, without sorting them together: a radix search on ordered integer keys.

A float has a signed integer of its width that is ordered as the floats are. Beginning with the smallest key, each round tries the
next 4 bits: the ranks add up how many of their units reach each of 15 larger keys, and the largest key that enough units
reach is kept. After 8 rounds for float32, 16 for float64, it is the score itself: nothing is rounded, no gap is too wide.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_DIGIT = 4
_BITS = {torch.float32: 32, torch.float64: 64}
_WORD = {torch.float32: torch.int32, torch.float64: torch.int64}


def keys(x: Tensor) -> Tensor:
    """int64 keys in the order of the scores; -0.0 and 0.0 have one key."""
    word = (x + 0.0).view(_WORD[x.dtype])
    return _mirrored(word).long()


def scores(key: Tensor, dtype: torch.dtype) -> Tensor:
    """The scores that have these keys."""
    return _mirrored(key.to(_WORD[dtype])).view(dtype)


def _mirrored(word: Tensor) -> Tensor:
    """Reverse the order of the negative ones, which floats store as sign and magnitude. Its own inverse."""
    return torch.where(word < 0, word ^ torch.iinfo(word.dtype).max, word)


def order_statistics(x: Tensor, ranks: Tensor, add_up: Callable[[Tensor], Tensor]) -> Tensor:
    """The `ranks`-th largest scores of each row.

    Args:
        x: (rows, n) here; float32 or float64 without NaN.
        ranks: (rows, m) int64, counted from 1; the same on every rank. Where a row has fewer scores the result means nothing.
        add_up: Sums a tensor of counts over the ranks.

    Returns:
        (rows, m), the same on every rank.
    """
    if not ranks.numel():
        return x.new_empty(ranks.shape)
    size = min(int(ranks.max()), x.shape[-1])  # no rank needs more than its own `size` largest
    ordered = keys(x.topk(size, dim=-1).values).flip(-1).contiguous()
    found = torch.full_like(ranks, -(2 ** (_BITS[x.dtype] - 1)))
    digits = torch.arange(1, 2**_DIGIT, device=x.device)
    for shift in range(_BITS[x.dtype] - _DIGIT, -1, -_DIGIT):
        candidates = found.unsqueeze(-1) + (digits << shift)
        reached = size - torch.searchsorted(ordered, candidates.flatten(1))
        enough = add_up(reached).view_as(candidates) >= ranks.unsqueeze(-1)
        found += enough.sum(-1) << shift
    return scores(found, x.dtype)
