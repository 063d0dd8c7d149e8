"""Device functions for rows with nothing to solve: k at its limits, out of range, or NaN."""

from __future__ import annotations

import triton
import triton.language as tl

OPEN = tl.constexpr(0)
NONE = tl.constexpr(1)
EVERY = tl.constexpr(2)
WRONG = tl.constexpr(3)
SOLVED = tl.constexpr(4)

_BEYOND = tl.constexpr(40.0)
"""Distance in temperatures at which a row with k = 0 or k = n puts its threshold: σ(-40) = 4e-18."""


@triton.jit
def classify(
    target: tl.tensor, certain: tl.tensor, units: tl.tensor, wrong_units: tl.tensor, temperature: tl.tensor
) -> tl.tensor:
    """What a row is: OPEN, NONE or EVERY of its finite units selected, or WRONG. A NaN fails every comparison."""
    free = target - certain.to(tl.float64)
    count = units.to(tl.float64)
    right = (free >= 0) & (free <= count) & (wrong_units == 0) & (temperature > 0)
    limit = tl.where(free >= count, EVERY, tl.where(free <= 0, NONE, OPEN))
    return tl.where(right, limit, WRONG)


@triton.jit
def place_limits(
    threshold: tl.tensor, status: tl.tensor, least: tl.tensor, most: tl.tensor, temperature: tl.tensor
) -> tl.tensor:
    """Thresholds with those at the limits just beyond all finite scores, which is what gradients need; NaN where WRONG."""
    low = least.to(tl.float64) - temperature * _BEYOND
    high = most.to(tl.float64) + temperature * _BEYOND
    threshold = tl.where(status == NONE, high, tl.where(status == EVERY, low, threshold))
    return tl.where(status == WRONG, float("nan"), tl.where(least > most, 0.0, threshold))


@triton.jit
def fill_limits(probs: tl.tensor, x: tl.tensor, status: tl.tensor) -> tl.tensor:
    """Probabilities with the exact values of the rows at the limits. −inf gets 0 in every row."""
    finite = tl.where(status == WRONG, float("nan"), tl.where(status == EVERY, 1.0, 0.0))[:, None]
    certain = tl.where(status == WRONG, float("nan"), 1.0)[:, None]
    filled = tl.where(x == float("inf"), certain, tl.where(x == -float("inf"), 0.0, finite))
    regular = (status == OPEN) | (status == SOLVED)
    return tl.where(regular[:, None], probs, filled)
