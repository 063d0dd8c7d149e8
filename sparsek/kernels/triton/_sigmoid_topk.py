"""Sigmoid top-k on CUDA: rows held on chip, one read and one write of each. Longer rows: :mod:`._sigmoid_topk_long`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sigmoid_limits import OPEN, classify, fill_limits, place_limits
from ._sigmoid_steps import (
    count_above,
    inverse_of,
    sides,
    standardise,
    taylor,
    taylor_shift,
    taylor_sums,
    two_sum,
)
from ._sigmoid_tile import census, solve_by_moments, solve_by_order
from ._sigmoid_topk_long import solve_long_rows

LONGEST_ROW = 16_384
"""Units of a row that one program holds."""

_TILE = 512
"""Units of a tile of several short rows."""
_MOST_ROWS = 32
_NEAR = tl.constexpr(16.0)
"""Shift from the pivot, in temperatures, up to which (x − pivot)/T − shift is right to 1e-6 of a probability."""


def solve(x: Tensor, k: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Solve every row for its threshold; never synchronises with the host.

    Args:
        x: (rows, n) float32, float16 or bfloat16, any strides; −inf is never selected, +inf always.
        k: (rows, 1) or (1, 1) float64. Outside [units at +inf, valid units] it makes its row NaN.
        temperature: Likewise, above 0.

    Returns:
        Inclusion probabilities (rows, n), contiguous, of the dtype of `x`, and thresholds (rows, 1) float64.
    """
    rows, n = x.shape
    probs = torch.empty((rows, n), dtype=x.dtype, device=x.device)
    threshold = torch.zeros((rows, 1), dtype=torch.float64, device=x.device)
    if rows and n:
        fill = solve_long_rows if n > LONGEST_ROW else solve_rows
        fill(x, k, temperature, probs, threshold)
    return probs, threshold


def solve_rows(x: Tensor, k: Tensor, temperature: Tensor, probs: Tensor, threshold: Tensor) -> None:
    """Fill `probs` and `threshold`, both contiguous, from rows that fit on chip."""
    rows, n = x.shape
    width, height, warps = tile_of(n)
    strides = (*x.stride(), row_stride(k), row_stride(temperature))
    with torch.cuda.device_of(x):
        for kernel in (_solve_kernel, _solve_left_kernel):
            kernel[(triton.cdiv(rows, height),)](
                x, k, temperature, probs, threshold, rows, n, *strides, HEIGHT=height, WIDTH=width, num_warps=warps
            )


def tile_of(n: int) -> tuple[int, int, int]:
    """Width and height of the tile of a program, and its warps."""
    width = max(8, triton.next_power_of_2(n))
    height = min(_MOST_ROWS, max(1, _TILE // width))
    return width, height, min(32, max(4, width // 256 if width <= 4096 else width // 512))


def row_stride(column: Tensor) -> int:
    """Stride of a (rows, 1) column; 0 if it holds one number for all rows."""
    return 0 if column.shape[0] == 1 else column.stride(0)


@triton.jit
def _solve_kernel(
    x_ptr: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    probs_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Solve rows whose threshold Newton finds from the moments; the others get the threshold +inf."""
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    unit = tl.arange(0, WIDTH).to(tl.int64)
    there = row < rows
    mask = there[:, None] & (unit < n)[None, :]
    source = x_ptr + row[:, None] * x_row + unit[None, :] * x_unit
    x = tl.load(source, mask=mask, other=-float("inf")).to(tl.float32)
    target = tl.load(k_ptr + row * k_row, mask=there, other=0.0)
    temperature = tl.load(temperature_ptr + row * temperature_row, mask=there, other=1.0)
    units, certain, wrong, least, most, total = census(x)
    status = classify(target, certain, units, wrong, temperature)
    is_open = (status == OPEN).to(tl.int32)
    scores, pivot, shift, left = solve_by_moments(x, target, certain, units, least, most, total, temperature, is_open)
    move = shift * temperature.to(tl.float32)
    far = tl.abs(shift) > _NEAR
    if tl.max(far.to(tl.int32), axis=0) > 0:
        inverse = inverse_of(temperature)
        nearest, rest = two_sum(pivot, move)
        x = tl.load(source, mask=mask, other=-float("inf")).to(tl.float32)
        scores = tl.where(far[:, None], (x - nearest[:, None]) * inverse[:, None], scores)
        shift = tl.where(far, rest * inverse, shift)
    probs, last = _close(scores - shift[:, None], target)
    if tl.min(is_open, axis=0) == 0:
        probs = fill_limits(probs, scores, status)
    tl.store(probs_ptr + row[:, None] * n + unit[None, :], probs.to(probs_ptr.dtype.element_ty), mask=mask)
    threshold = (pivot.to(tl.float64) + move.to(tl.float64)) - last.to(tl.float64) * temperature
    threshold = place_limits(threshold, status, least, most, temperature)
    tl.store(threshold_ptr + row, tl.where(left > 0, float("inf"), threshold), mask=there)


@triton.jit
def _solve_left_kernel(
    x_ptr: tl.tensor,
    k_ptr: tl.tensor,
    temperature_ptr: tl.tensor,
    probs_ptr: tl.tensor,
    threshold_ptr: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    x_row: tl.tensor,
    x_unit: tl.tensor,
    k_row: tl.tensor,
    temperature_row: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Solve the rows whose threshold is still +inf; a program without one ends after one look."""
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    left = tl.load(threshold_ptr + row, mask=row < rows, other=0.0) == float("inf")
    is_open = left.to(tl.int32)
    if tl.max(is_open, axis=0) > 0:
        unit = tl.arange(0, WIDTH).to(tl.int64)
        mask = left[:, None] & (unit < n)[None, :]
        source = x_ptr + row[:, None] * x_row + unit[None, :] * x_unit
        x = tl.load(source, mask=mask, other=-float("inf")).to(tl.float32)
        target = tl.load(k_ptr + row * k_row, mask=left, other=0.0)
        temperature = tl.load(temperature_ptr + row * temperature_row, mask=left, other=1.0)
        units, certain, _, least, most, _ = census(x)
        pivot, shift = solve_by_order(x, target, certain, units, least, most, temperature, is_open)
        z = standardise(x, pivot, shift, temperature, inverse_of(temperature))
        probs, last = _close(z, target)
        tl.store(probs_ptr + row[:, None] * n + unit[None, :], probs.to(probs_ptr.dtype.element_ty), mask=mask)
        threshold = pivot.to(tl.float64) + (shift - last.to(tl.float64)) * temperature
        tl.store(threshold_ptr + row, threshold, mask=left)


@triton.jit
def _close(z: tl.tensor, target: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Probabilities with the residual at z removed from them, and the shift of the logits that does it.

    A thread adds 16 units at most, which float32 does to 3e-7 even where all are equal.
    """
    large, small, signs = sides(z)
    excess = (count_above(z).to(tl.float64) - target) + tl.sum(signs, axis=1).to(tl.float64)
    first, second, third, fourth = taylor_sums(z, small, large)
    shift = taylor_shift(excess.to(tl.float32), first, second, third, fourth)
    return taylor(z, small, large, shift), shift
