r"""Systematic sampling in fixed point, as functions of a kernel: 1 is 2^62, and sums are taken modulo 1.

Integer sums are exact in any order, so blocks and scans of any shape agree on every bound, and a unit of π = 1e-8 keeps
all of its digits. Only fractional parts matter: with $C$ the sum of the units before, unit i is taken iff the next of
the points u, u + 1, … is nearer than π_i, $(u - C) \bmod 1 < π_i$.
"""

from __future__ import annotations

import triton
import triton.language as tl

ONE = tl.constexpr(1 << 62)
FRACTION = tl.constexpr((1 << 62) - 1)


@triton.jit
def fixed(probs: tl.tensor) -> tl.tensor:
    """Return float64 numbers in [0, 1] as int64 multiples of 2^-62; NaN gives 0."""
    return (tl.where(probs >= 0.0, probs, 0.0) * 4611686018427387904.0).to(tl.int64)


@triton.jit
def signed(excess: tl.tensor) -> tl.tensor:
    """Return what a sum modulo 1 lies above a whole number, negative where it lies below."""
    part = excess & FRACTION
    return tl.where(part > (ONE >> 1), part - ONE, part)


@triton.jit
def start(seed: tl.tensor, sample: tl.tensor, excess: tl.tensor, R: tl.constexpr) -> tl.tensor:
    """Return the first point of each sample (R, 1): 62 random bits, kept off 0 and 1 by the error of the last sum.

    As many points as the size says then lie below the last sum.
    """
    zero = tl.zeros([R, 1], tl.int32)
    high, low, _, _ = tl.philox(seed, zero, zero + sample.to(tl.int32), zero, zero)
    bits = ((high.to(tl.uint64) << 32) | low.to(tl.uint64)).to(tl.int64) & FRACTION
    error = signed(excess)
    return tl.minimum(tl.maximum(bits, error), FRACTION + tl.minimum(error, 0))


@triton.jit
def hit(point: tl.tensor, before: tl.tensor, width: tl.tensor) -> tl.tensor:
    """Return 1 where the distance from `before` to the next point is below `width`, 0 elsewhere."""
    return (((point - before) & FRACTION) < width).to(tl.int32)
