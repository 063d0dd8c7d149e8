"""Draws of the systematic design: rows on chip; long rows in blocks, whose sums in fixed point are exact."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._points import fixed, hit, start
from ._settle import PARTS, checked, settle, settle_row, spread, sum_parts

_TILE = 1024
"""Units that a program takes of short rows, in as many rows as fit."""

_BLOCK = 4096
"""Longer rows are cut in blocks of this many units."""


@torch.library.custom_op("sparsek::systematic_sample", mutates_args=())
def systematic_sample(
    probs: Tensor, k: Tensor | None, seed: Tensor, draws: int, phantom: bool, near: float, allowed: float
) -> Tensor:
    """Draw k-hot samples with one uniform number each. Arguments, shapes and bad rows are as in `pivotal_sample`."""
    rows, n = probs.shape
    output = torch.empty(draws, rows, n, dtype=probs.dtype, device=probs.device)
    if output.numel() > 0:
        write = sample_short_rows if n <= _BLOCK else sample_long_rows
        write(probs, k, seed, output, phantom, near, allowed)
    return output


@systematic_sample.register_fake
def _(probs: Tensor, k: Tensor | None, seed: Tensor, draws: int, phantom: bool, near: float, allowed: float) -> Tensor:
    return torch.empty(draws, *probs.shape, dtype=probs.dtype, device=probs.device)


def sample_short_rows(
    probs: Tensor, k: Tensor | None, seed: Tensor, output: Tensor, phantom: bool, near: float, allowed: float
) -> None:
    """Write the samples to `output` (draws, rows, n), in one launch."""
    draws, rows, n = output.shape
    width = triton.next_power_of_2(n)
    height = max(_TILE // width, 1)
    _sample_rows[(triton.cdiv(draws * rows, height),)](
        probs, k, seed, output, draws * rows, rows, n, *probs.stride(), 0 if k is None else k.stride(0), near, allowed,
        HAS_K=k is not None, PHANTOM=phantom, R=height, N=width, num_warps=4 if width <= _TILE else 8,
    )  # fmt: skip


def sample_long_rows(
    probs: Tensor,
    k: Tensor | None,
    seed: Tensor,
    output: Tensor,
    phantom: bool,
    near: float,
    allowed: float,
    block: int = _BLOCK,
) -> None:
    """Write the samples to `output` (draws, rows, n), in blocks of that many units, in four launches."""
    draws, rows, n = output.shape
    blocks = triton.cdiv(n, block)
    partial = torch.empty(rows, 2, PARTS, dtype=torch.float64, device=probs.device)
    sums, before = torch.empty(2, rows, blocks, dtype=torch.int64, device=probs.device)
    excess = torch.empty(rows, dtype=torch.int64, device=probs.device)
    strides = (*probs.stride(), 0 if k is None else k.stride(0))
    settings = {"HAS_K": k is not None, "N": block, "num_warps": 8}
    sum_parts[(rows * PARTS,)](probs, partial, n, *probs.stride(), N=block // 2, num_warps=4)
    _sum_blocks[(rows * blocks,)](probs, k, partial, sums, n, blocks, *strides, near, allowed, **settings)
    _add_up[(rows,)](k, partial, sums, before, excess, blocks, strides[2], near, allowed,
                     HAS_K=k is not None, PHANTOM=phantom, N=1024, num_warps=4)  # fmt: skip
    _take_blocks[(draws * rows * blocks,)](
        probs, k, partial, before, excess, seed, output, rows, n, blocks, *strides, near, allowed, **settings
    )


@triton.jit(do_not_specialize=["total", "rows"])
def _sample_rows(
    probs: tl.tensor, k: tl.tensor, seed: tl.tensor, output: tl.tensor,
    total: tl.tensor, rows: tl.tensor, n: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor,
    HAS_K: tl.constexpr, PHANTOM: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Draw R of the `total` = draws · rows samples."""
    sample = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    unit = tl.arange(0, N)[None, :]
    row = sample % rows
    inside = (sample < total) & (unit < n)
    p = tl.load(probs + row * row_stride + unit.to(tl.int64) * unit_stride, mask=inside, other=0.0)
    p = checked(p.to(tl.float64))
    target = tl.load(k + row * k_stride, mask=sample < total, other=0.0) if HAS_K else 0.0
    room = tl.sum(p - p * p, 1, keep_dims=True)
    rate, phantom = settle(tl.sum(p, 1, keep_dims=True), room, target, near, allowed, HAS_K)
    width = fixed(spread(p, rate))
    excess = tl.sum(width, 1, keep_dims=True)
    if PHANTOM:
        excess += fixed(phantom)
    point = start(tl.load(seed), sample, excess, R)
    taken = hit(point, tl.cumsum(width, 1) - width, width).to(tl.float32)
    taken = tl.where(rate >= -1.0, taken, float("nan"))
    tl.store(output + sample * n + unit, taken.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _load_widths(
    probs: tl.tensor, row: tl.tensor, block: tl.tensor, n: tl.tensor,
    row_stride: tl.tensor, unit_stride: tl.tensor, rate: tl.tensor, N: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the settled π of a block in fixed point."""
    unit = block * N + tl.arange(0, N)
    p = tl.load(probs + row * row_stride + unit * unit_stride, mask=unit < n, other=0.0)
    return fixed(spread(p.to(tl.float64), rate))


@triton.jit(do_not_specialize=["n", "blocks"])
def _sum_blocks(
    probs: tl.tensor, k: tl.tensor, partial: tl.tensor, sums: tl.tensor,
    n: tl.tensor, blocks: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor, HAS_K: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Sum one block of a row."""
    program = tl.program_id(0).to(tl.int64)
    row, block = program // blocks, program % blocks
    rate, _ = settle_row(partial, k, row, k_stride, near, allowed, HAS_K)
    width = _load_widths(probs, row, block, n, row_stride, unit_stride, rate, N)
    tl.store(sums + program, tl.sum(width, 0))


@triton.jit(do_not_specialize=["blocks"])
def _add_up(
    k: tl.tensor, partial: tl.tensor, sums: tl.tensor, before: tl.tensor, excess: tl.tensor,
    blocks: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor, HAS_K: tl.constexpr, PHANTOM: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Store the sums of all blocks before each block of a row, and the sum of the row."""
    row = tl.program_id(0).to(tl.int64)
    _, phantom = settle_row(partial, k, row, k_stride, near, allowed, HAS_K)
    carry = tl.sum(tl.zeros([N], tl.int64), 0)
    for first in range(0, blocks, N):
        block = first + tl.arange(0, N)
        total = tl.load(sums + row * blocks + block, mask=block < blocks, other=0)
        tl.store(before + row * blocks + block, carry + tl.cumsum(total, 0) - total, mask=block < blocks)
        carry += tl.sum(total, 0)
    if PHANTOM:
        carry += fixed(phantom)
    tl.store(excess + row, carry)


@triton.jit(do_not_specialize=["rows", "n", "blocks"])
def _take_blocks(
    probs: tl.tensor, k: tl.tensor, partial: tl.tensor, before: tl.tensor, excess: tl.tensor, seed: tl.tensor,
    output: tl.tensor, rows: tl.tensor, n: tl.tensor, blocks: tl.tensor,
    row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor, HAS_K: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Take the units of one block of a sample that a point hits."""
    program = tl.program_id(0).to(tl.int64)
    sample, block = program // blocks, program % blocks
    row = sample % rows
    rate, _ = settle_row(partial, k, row, k_stride, near, allowed, HAS_K)
    width = _load_widths(probs, row, block, n, row_stride, unit_stride, rate, N)
    cell = tl.zeros([1, 1], tl.int64)
    point = start(tl.load(seed), cell + sample, tl.load(excess + row), 1)
    point = tl.sum(tl.sum(point, 1), 0) - tl.load(before + row * blocks + block)
    taken = hit(point, tl.cumsum(width, 0) - width, width).to(tl.float32)
    taken = tl.where(rate >= -1.0, taken, float("nan"))
    unit = block * N + tl.arange(0, N)
    tl.store(output + sample * n + unit, taken.to(output.dtype.element_ty), mask=unit < n)
