"""Rows of inclusion probabilities made to sum to whole numbers, as functions of a kernel.

The definitions are those of the eager designs: a row's sum is k where given, else the whole number it is close to, else
itself; what it then misses is spread in proportion to π(1 - π); a phantom unit fills it up to a whole number.
"""

from __future__ import annotations

import triton
import triton.language as tl

PARTS = 256
"""Parts in which long rows are summed."""

_PARTS = tl.constexpr(PARTS)


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


@triton.jit(do_not_specialize=["n"])
def sum_parts(
    probs: tl.tensor, partial: tl.tensor, n: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, N: tl.constexpr
) -> None:
    """Sum π and π(1 - π) over one part of a row, in float64; NaN where one of them is no probability."""
    program = tl.program_id(0).to(tl.int64)
    row, part = program // _PARTS, program % _PARTS
    length = tl.cdiv(n, _PARTS)
    end = tl.minimum((part + 1) * length, n)
    total = tl.zeros([N], tl.float64)
    room = tl.zeros([N], tl.float64)
    for start in range(0, length, N):
        unit = part * length + start + tl.arange(0, N)
        p = tl.load(probs + row * row_stride + unit * unit_stride, mask=unit < end, other=0.0)
        p = checked(p.to(tl.float64))
        total += p
        room += p - p * p
    tl.store(partial + row * 2 * _PARTS + part, tl.sum(total, 0))
    tl.store(partial + row * 2 * _PARTS + _PARTS + part, tl.sum(room, 0))


@triton.jit
def settle_row(
    partial: tl.tensor, k: tl.tensor, row: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor, HAS_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return (rate, phantom) of a long row from its partial sums, as scalars."""
    part = partial + row * 2 * _PARTS + tl.arange(0, _PARTS)
    total = tl.sum(tl.load(part), 0)
    room = tl.sum(tl.load(part + _PARTS), 0)
    target = tl.load(k + row * k_stride) if HAS_K else 0.0
    return settle(total, room, target, near, allowed, HAS_K)
