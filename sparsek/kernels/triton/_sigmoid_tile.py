"""Device functions that solve rows held on chip as one tile (rows, units), however many passes they need."""

from __future__ import annotations

import triton
import triton.language as tl

from ._sigmoid_order import order_bracket, order_statistics
from ._sigmoid_steps import (
    advance,
    count_above,
    inverse_of,
    log_odds,
    newton_step,
    sides,
    standardise,
)

_STOP = tl.constexpr(0.25)
"""A Newton step of this size leaves an error below 0.1, since |G''/G'| ≤ 2; the Taylor series of the output pass removes it."""
_PASSES = tl.constexpr(12)
_BRACKETED_PASSES = tl.constexpr(120)
_FARTHEST = tl.constexpr(1.0e5)
"""Shift in temperatures that float32 still resolves to a hundredth."""
_PROBIT = tl.constexpr(0.39269908169872414)
"""π/8, by which the variance of a normal widens a logistic curve averaged over it."""


@triton.jit
def census(x: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Per row, how many units are finite, how many at +inf, whether there is a NaN; the extremes and sum of the finite ones.

    Rows without +inf and NaN, whose sum is finite, are counted with few instructions; −inf is where there is no unit.
    """
    there = x != -float("inf")
    units = tl.sum(there.to(tl.int32), axis=1)
    least, most = tl.min(tl.where(there, x, float("inf")), axis=1), tl.max(x, axis=1)
    total = tl.sum(tl.where(there, x, 0.0), axis=1)
    certain, wrong = tl.zeros_like(units), tl.zeros_like(units)
    if tl.max((tl.abs(total) < float("inf")).to(tl.int32) ^ 1, axis=0) > 0:
        finite = tl.abs(x) < float("inf")
        units = tl.sum(finite.to(tl.int32), axis=1)
        certain = tl.sum((x == float("inf")).to(tl.int32), axis=1)
        wrong = tl.max((x == x).to(tl.int32) ^ 1, axis=1)  # noqa: PLR0124 - false for a NaN alone
        least = tl.min(tl.where(finite, x, float("inf")), axis=1)
        most = tl.max(tl.where(finite, x, -float("inf")), axis=1)
        total = tl.sum(tl.where(finite, x, 0.0), axis=1)
    return units, certain, wrong, least, most, total


@triton.jit
def safe_bracket(
    least: tl.tensor, most: tl.tensor, odds: tl.tensor, pivot: tl.tensor, inverse: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Bounds of the shift that hold for any row: as if all units were the smallest, or the largest. Widened by their rounding."""
    below, above = (least - pivot) * inverse, (most - pivot) * inverse
    slack = 1.0e-5 * (1.0 + tl.abs(odds))
    low = below - odds - (slack + 1.0e-6 * tl.abs(below))
    high = above - odds + (slack + 1.0e-6 * tl.abs(above))
    return tl.maximum(low, -3.0e38), tl.minimum(high, 3.0e38)


@triton.jit
def _moments_start(
    x: tl.tensor,
    least: tl.tensor,
    most: tl.tensor,
    total: tl.tensor,
    units: tl.tensor,
    odds: tl.tensor,
    inverse: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Mean, and the shift from it that is right for bell-shaped scores."""
    finite = tl.abs(x) < float("inf")
    count = tl.maximum(units.to(tl.float32), 1.0)
    mean = total / count
    mean = tl.where((mean >= least) & (mean <= most), mean, 0.5 * least + 0.5 * most)
    deviation = tl.where(finite, (x - mean[:, None]) * inverse[:, None], 0.0)
    variance = tl.sum(deviation * deviation, axis=1) / count
    return mean, -odds * tl.sqrt(1.0 + variance * _PROBIT)


@triton.jit
def _refine(
    x: tl.tensor,
    pivot: tl.tensor,
    shift: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    is_open: tl.tensor,
    target: tl.tensor,
    certain: tl.tensor,
    k: tl.tensor,
    others: tl.tensor,
    temperature: tl.tensor,
    inverse: tl.tensor,
    exact: tl.constexpr,
    limit: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Steps of the open rows, until all are solved or `limit` passes are spent; a solved row no longer moves.

    Where `exact`, `x` are scores and shifts float64; else `x` is (scores − pivot)/T and shifts are float32, at a fraction of the cost.
    """
    anchor = pivot * inverse
    earlier = high - low
    previous = earlier
    passes = 0
    active = tl.max(is_open, axis=0)
    while active > 0:
        z = standardise(x, pivot, shift, temperature, inverse) if exact else x - shift[:, None]
        large, small, signs = sides(z)
        above, signed = count_above(z), tl.sum(signs, axis=1)
        excess = (above.to(shift.dtype) - target).to(tl.float32) + signed
        among = (above - certain).to(tl.float32)
        step = newton_step(excess, among, signed, tl.sum(small * large, axis=1), k, others)
        moved, low, high, solved = advance(step, excess, anchor, shift, low, high, earlier, passes, _STOP)
        shift = tl.where(is_open > 0, moved, shift)
        is_open = tl.where(solved, 0, is_open)
        earlier, previous = previous, high - low
        passes += 1
        active = tl.where(passes < limit, tl.max(is_open, axis=0), 0)
    return shift, is_open


@triton.jit
def free_and_others(
    target: tl.tensor, certain: tl.tensor, units: tl.tensor, is_open: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Units to select among the finite ones, and those to leave, in float32; 1 in rows that are not looked at."""
    free = target - certain.to(tl.float64)
    k = tl.where(is_open > 0, free, 1.0).to(tl.float32)
    return k, tl.where(is_open > 0, units.to(tl.float64) - free, 1.0).to(tl.float32)


@triton.jit
def solve_by_moments(
    x: tl.tensor,
    target: tl.tensor,
    certain: tl.tensor,
    units: tl.tensor,
    least: tl.tensor,
    most: tl.tensor,
    total: tl.tensor,
    temperature: tl.tensor,
    is_open: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Thresholds of the open rows by guarded Newton from the moments, all in float32.

    Args:
        x: Scores; −inf where there is none.
        target: k, float64.
        certain: Units at +inf.
        units: Finite units.
        least: Smallest of them.
        most: Largest of them.
        total: Their sum; infinite where it overflows.
        temperature: T, float64.
        is_open: 1 where certain < k < certain + units, else 0: those rows are not looked at.

    Returns:
        (x − pivot)/T, or `x` in the other rows; pivot; shift in temperatures; and 1 where the row is left to :func:`solve_by_order`.
    """
    inverse = tl.where(is_open > 0, inverse_of(temperature), 1.0)
    k, others = free_and_others(target, certain, units, is_open)
    least, most = tl.where(is_open > 0, least, 0.0), tl.where(is_open > 0, most, 0.0)
    odds = log_odds(k, others)
    mean, start = _moments_start(x, least, most, total, units, odds, inverse)
    low, high = safe_bracket(least, most, odds, mean, inverse)
    start = tl.minimum(tl.maximum(start, low), high)
    pivot = mean + start * temperature.to(tl.float32)
    pivot = tl.where(is_open > 0, tl.where(tl.abs(pivot) < 3.0e38, pivot, mean), 0.0)
    low, high = safe_bracket(least, most, odds, pivot, inverse)
    scores = (x - pivot[:, None]) * inverse[:, None]
    whole = target.to(tl.float32)
    start = tl.zeros_like(low)
    shift, left = _refine(
        scores, pivot, start, low, high, is_open, whole, certain, k, others, temperature, inverse, False, _PASSES
    )
    return scores, pivot, shift, tl.where(tl.abs(shift) <= _FARTHEST, left, is_open)


@triton.jit
def solve_by_order(
    x: tl.tensor,
    target: tl.tensor,
    certain: tl.tensor,
    units: tl.tensor,
    least: tl.tensor,
    most: tl.tensor,
    temperature: tl.tensor,
    is_open: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Thresholds of any open rows, as pivot and float64 shift: guarded Newton between two order statistics.

    Their gap is either narrow or one in whose middle every sigmoid is 0 or 1, so the passes are enough. Arguments are those
    of :func:`solve_by_moments`.
    """
    inverse = inverse_of(temperature)
    k, others = free_and_others(target, certain, units, is_open)
    least, most = tl.where(is_open > 0, least, 0.0), tl.where(is_open > 0, most, 0.0)
    free = tl.where(is_open > 0, target - certain.to(tl.float64), 1.0)
    pivot, second = order_statistics(x, free, certain, least, most, is_open)
    gap = (second.to(tl.float64) - pivot.to(tl.float64)) / temperature
    low, high = order_bracket(free, units.to(tl.float64), gap)
    pivot = tl.where(is_open > 0, pivot, 0.0)
    start = tl.where(is_open > 0, 0.5 * low + 0.5 * high, 0.0)
    shift, _ = _refine(
        x, pivot, start, low, high, is_open, target, certain, k, others, temperature, inverse, True, _BRACKETED_PASSES
    )
    return pivot, shift
