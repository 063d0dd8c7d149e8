"""Rows of inclusion probabilities made to sum to whole numbers, as functions of a kernel.

The definitions are those of the eager designs: a row's sum is k where given, else the whole number it is close to, else
itself; what it then misses is spread in proportion to π(1 - π); a phantom unit fills it up to a whole number.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def settle(
    total: tl.tensor, room: tl.tensor, k: tl.tensor, near: tl.tensor, allowed: tl.tensor, HAS_K: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return (rate, phantom) of rows with sum `total` and Σ π(1 - π) `room`. The rate is NaN where a row misses its k."""
    if HAS_K:
        target = k
    else:
        whole = tl.floor(total + 0.5)
        target = tl.where(tl.abs(total - whole) <= near * tl.maximum(whole, 1.0), whole, total)
    miss = target - total
    rate = tl.where(room > 0.0, miss / tl.where(room > 0.0, room, 1.0), 0.0)
    rate = tl.minimum(tl.maximum(rate, -1.0), 1.0)
    valid = tl.abs(miss) <= allowed * tl.maximum(target, 1.0)
    return tl.where(valid, rate, float("nan")), tl.ceil(target) - target


@triton.jit
def checked(probs: tl.tensor) -> tl.tensor:
    """Return `probs` with NaN where they lie outside [0, 1]: a sum then tells whether all of them are inside."""
    return tl.where((probs >= 0.0) & (probs <= 1.0), probs, float("nan"))


@triton.jit
def spread(probs: tl.tensor, rate: tl.tensor) -> tl.tensor:
    """Return π + rate·π(1 - π), NaN where the rate is."""
    return probs + rate * (probs - probs * probs)
