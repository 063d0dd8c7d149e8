"""Device functions for the scores on either side of the threshold: order statistics by bisection of their bits."""

from __future__ import annotations

import triton
import triton.language as tl

from ._sigmoid_steps import log_odds


@triton.jit
def ordered_key(x: tl.tensor) -> tl.tensor:
    """float32 as an int32 of the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def from_ordered_key(key: tl.tensor) -> tl.tensor:
    """The inverse of :func:`ordered_key`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def ranks(free: tl.tensor, certain: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Ranks of the ⌈k⌉-th and (⌊k⌋+1)-th largest of the finite units, among all: those at +inf come first."""
    whole = free.to(tl.int32)
    first = tl.where(free > whole.to(tl.float64), whole + 1, whole)
    return first + certain, whole + 1 + certain


@triton.jit
def _largest_with_count(
    x: tl.tensor, rank: tl.tensor, least: tl.tensor, most: tl.tensor, is_open: tl.tensor
) -> tl.tensor:
    """The `rank`-th largest unit of the open rows: at most 32 passes that only compare."""
    keys = ordered_key(x)
    low, high = ordered_key(least).to(tl.int64), ordered_key(most).to(tl.int64)
    active = tl.max(is_open, axis=0)
    while active > 0:
        middle = low + ((high - low + 1) >> 1)
        count = tl.sum((keys >= middle.to(tl.int32)[:, None]).to(tl.int32), axis=1)
        enough = count >= rank
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
        active = tl.max(tl.where((low < high) & (is_open > 0), 1, 0), axis=0)
    return from_ordered_key(low.to(tl.int32))


@triton.jit
def order_statistics(
    x: tl.tensor, free: tl.tensor, certain: tl.tensor, least: tl.tensor, most: tl.tensor, is_open: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """The ⌈k⌉-th and (⌊k⌋+1)-th largest finite units of the open rows."""
    first, second = ranks(free, certain)
    upper = _largest_with_count(x, first, least, most, is_open)
    reached = tl.sum((x >= upper[:, None]).to(tl.int32), axis=1)
    below = tl.max(tl.where(x < upper[:, None], x, -float("inf")), axis=1)
    return upper, tl.where(reached >= second, upper, below)


@triton.jit
def order_bracket(free: tl.tensor, units: tl.tensor, gap: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Bracket of the shift from the ⌈k⌉-th largest finite unit, where the (⌊k⌋+1)-th lies `gap` ≤ 0 temperatures from it.

    At most ⌈k⌉-1 units lie above the first, so its sigmoid must reach their missing share; the ⌊k⌋+1 units at or above the
    second must not exceed k.
    """
    whole = free.to(tl.int64).to(tl.float64)
    before = tl.where(free > whole, whole, whole - 1.0)
    high = -log_odds((free - before).to(tl.float32), (units - free).to(tl.float32))
    low = -log_odds(free.to(tl.float32), (whole + 1.0 - free).to(tl.float32))
    slack = 1.0e-5 * (1.0 + tl.abs(low) + tl.abs(high))
    return gap + (low - slack).to(tl.float64), (high + slack).to(tl.float64)
