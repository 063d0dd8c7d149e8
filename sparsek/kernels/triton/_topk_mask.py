"""Hard top-k of rows that fit on chip: a bisection over the scores, read as ordered integers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024
"""Units that a program takes, in as many rows as fit."""

_ZERO_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}
"""Low bits of a float32 that a number of this dtype leaves 0."""


@torch.library.custom_op("sparsek::topk_mask_rows", mutates_args=())
def topk_mask_rows(scores: Tensor, k: Tensor) -> Tensor:
    """Select the k largest entries of each row; a row where k has no answer, or with a NaN, is NaN.

    Shape:
        - scores: (rows, n), any strides.
        - k: (rows,), any stride.
        - output: (rows, n).

    Args:
        scores: In float32, float16 or bfloat16.
        k: In float64, may be real.
    """
    output = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    if output.numel() > 0:
        select_rows(scores, k, output)
    return output


@topk_mask_rows.register_fake
def _(scores: Tensor, k: Tensor) -> Tensor:
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)


def select_rows(scores: Tensor, k: Tensor, output: Tensor) -> None:
    """Write the selection to `output` (rows, n)."""
    rows, n = scores.shape
    width = triton.next_power_of_2(n)
    height = max(_TILE // width, 1)
    _select_rows[(triton.cdiv(rows, height),)](
        scores, k, output, rows, n, *scores.stride(), k.stride(0),
        SHIFT=_ZERO_BITS[scores.dtype], R=height, N=width, num_warps=min(max(width // 512, 4), 16),
    )  # fmt: skip


@triton.jit
def ordered(x: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    """Return integers in the order of the float32 x, without their SHIFT low bits; both zeros are 0."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = (bits & 0x7FFFFFFF) >> SHIFT
    return tl.where(bits < 0, -magnitude, magnitude)


@triton.jit
def smallest_selected(key: tl.tensor, size: tl.tensor, R: tl.constexpr, SHIFT: tl.constexpr) -> tl.tensor:
    """Return the `size`-th largest key of each row, (R, 1), by bisection until a row is cut as it should be."""
    infinity: tl.constexpr = 0x7F800000 >> SHIFT
    low = tl.full([R, 1], -infinity, tl.int32)
    high = tl.full([R, 1], infinity, tl.int32)
    is_open = 1
    while is_open > 0:
        # The mean of both, rounded up, without overflow.
        middle = (low | high) - ((low ^ high) >> 1)
        count = tl.sum((key >= middle).to(tl.int32), 1, keep_dims=True)
        low = tl.where(count >= size, middle, low)
        high = tl.where(count == size, middle, tl.where(count < size, middle - 1, high))
        is_open = tl.max(tl.max((low < high).to(tl.int32), 1), 0)
    return tl.min(tl.where(key >= low, key, 0x7FFFFFFF), 1, keep_dims=True)


@triton.jit(do_not_specialize=["rows"])
def _select_rows(
    scores: tl.tensor, k: tl.tensor, output: tl.tensor,
    rows: tl.tensor, n: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    SHIFT: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Select in R rows of N places; places without a unit are at -inf."""
    infinity: tl.constexpr = 0x7F800000 >> SHIFT
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    unit = tl.arange(0, N)[None, :]
    inside = (row < rows) & (unit < n)
    x = tl.load(scores + row * row_stride + unit.to(tl.int64) * unit_stride, mask=inside, other=-float("inf"))
    key = ordered(x.to(tl.float32), SHIFT)
    wanted = tl.load(k + row * k_stride, mask=row < rows, other=0.0)
    legal = wanted >= 0.0
    wanted = tl.minimum(tl.where(legal, wanted, 0.0), N + 1.0)
    whole = tl.floor(wanted)
    fraction = wanted - whole
    size = (whole + (fraction > 0.0).to(tl.float64)).to(tl.int32)

    threshold = smallest_selected(key, size, R, SHIFT)
    above = key > threshold
    at = key == threshold
    rank = tl.sum(above.to(tl.int32), 1, keep_dims=True) + tl.cumsum(at.to(tl.int32), 1)
    last = tl.where(fraction > 0.0, fraction, 1.0).to(tl.float32)
    tied = tl.where(rank < size, 1.0, tl.where(rank == size, last, 0.0))
    selected = tl.where(above, 1.0, tl.where(at, tied, 0.0))

    broken = tl.sum(((key > infinity) | (key < -infinity)).to(tl.int32), 1, keep_dims=True)
    valid = tl.sum((key > -infinity).to(tl.int32), 1, keep_dims=True)
    certain = tl.sum((key == infinity).to(tl.int32), 1, keep_dims=True)
    answered = legal & (broken == 0) & (valid >= size) & (certain <= whole.to(tl.int32))
    selected = tl.where(answered, selected, float("nan"))
    tl.store(output + row * n + unit, selected.to(output.dtype.element_ty), mask=inside)
