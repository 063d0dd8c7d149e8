"""Draws of the tournament pivotal design on long rows: blocks of leaves, the tree of their residuals, and back.

Four launches. The first sums the rows, the second lets each block fight until one residual is left and keeps its codes
(a quarter of a byte per unit), the third settles the tree of the residuals, the fourth tells the units.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._settle import PARTS, settle_row, spread, sum_parts
from ._tournament import TREE, climb_tree, descend_tree, stages, uniforms


def sample_long_rows(
    probs: Tensor,
    k: Tensor | None,
    seed: Tensor,
    output: Tensor,
    phantom: bool,
    near: float,
    allowed: float,
    levels: int = TREE,
) -> None:
    """Write the samples to `output` (draws, rows, n), in blocks of 2^levels units. The rest is as in `pivotal_sample`.

    Two trees of `TREE` levels on top of each other hold 2^24 units, the phantom among them.
    """
    draws, rows, n = output.shape
    leaves = 1 << levels
    blocks = triton.cdiv(n + phantom, leaves)
    samples = draws * rows
    partial = torch.empty(rows, 2, PARTS, dtype=torch.float64, device=probs.device)
    residual, spare = torch.empty(2, samples, blocks, dtype=torch.float64, device=probs.device)
    tree, top = stages(leaves), max(triton.next_power_of_2(blocks), 2)
    code = torch.empty(samples * blocks, _codes(*tree), dtype=torch.int32, device=probs.device)
    state = torch.empty(samples, blocks, dtype=torch.int8, device=probs.device)
    strides = (*probs.stride(), 0 if k is None else k.stride(0))
    sum_parts[(rows * PARTS,)](probs, partial, n, *probs.stride(), N=leaves // 2, num_warps=4)
    _climb_blocks[(samples * blocks,)](
        probs, k, partial, seed, residual, spare, code, rows, n, blocks, *strides, near, allowed,
        HAS_K=k is not None, PHANTOM=phantom, N=leaves, A=tree[0], B=tree[1], C=tree[2], num_warps=8,
    )  # fmt: skip
    over = stages(top)
    _solve_top[(samples,)](residual, spare, state, blocks, N=top, A=over[0], B=over[1], C=over[2], num_warps=8)
    _descend_blocks[(samples * blocks,)](
        state, code, output, n, blocks, N=leaves, A=tree[0], B=tree[1], C=tree[2], num_warps=8
    )


def _codes(low: int, middle: int, high: int) -> int:
    """Return how many codes a tree of three stages has."""
    return (1 << (middle + high)) + (1 << high) + 1


@triton.jit(do_not_specialize=["rows", "n", "blocks"])
def _climb_blocks(
    probs: tl.tensor, k: tl.tensor, partial: tl.tensor, seed: tl.tensor,
    residual: tl.tensor, spare: tl.tensor, code: tl.tensor,
    rows: tl.tensor, n: tl.tensor, blocks: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor,
    HAS_K: tl.constexpr, PHANTOM: tl.constexpr,
    N: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
) -> None:  # fmt: skip
    """Let a block of N units fight until one residual is left; keep the codes of its fights."""
    program = tl.program_id(0).to(tl.int64)
    sample, block = program // blocks, program % blocks
    row = sample % rows
    rate, phantom = settle_row(partial, k, row, k_stride, near, allowed, HAS_K)
    unit = block * N + tl.arange(0, N)[None, :]
    weight = tl.load(probs + row * row_stride + unit * unit_stride, mask=unit < n, other=0.0).to(tl.float64)
    weight = spread(weight, rate)
    if PHANTOM:
        weight = tl.where(unit == n, phantom, weight)
    cell = tl.zeros([1, 1], tl.int32)
    luck = uniforms(tl.load(seed), block * N, sample + cell, 1, N)
    root, luck, low, middle, high = climb_tree(weight, luck, 1, N, A, B, C)
    tl.store(residual + program + cell, root)
    tl.store(spare + program + cell, luck)
    here = code + program * ((N >> A) + (N >> (A + B)) + 1)
    tl.store(here + tl.arange(0, N >> A)[None, :], low)
    tl.store(here + (N >> A) + tl.arange(0, N >> (A + B))[None, :], middle)
    tl.store(here + (N >> A) + (N >> (A + B)) + cell, high)


@triton.jit(do_not_specialize=["blocks"])
def _solve_top(
    residual: tl.tensor,
    spare: tl.tensor,
    state: tl.tensor,
    blocks: tl.tensor,
    N: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """Draw the states of the residuals of all blocks of a row; 2 says that the row is NaN."""
    sample = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, N)[None, :]
    weight = tl.load(residual + sample * blocks + block, mask=block < blocks, other=0.0)
    luck = tl.load(spare + sample * blocks + block, mask=block < blocks, other=0.0)
    root, luck, low, middle, high = climb_tree(weight, luck, 1, N, A, B, C)
    states = descend_tree((root > 0.5).to(tl.int32), low, middle, high, 1, N, A, B, C)
    states = tl.where(root >= 0.0, states, 2)  # not where it is NaN
    tl.store(state + sample * blocks + block, states.to(tl.int8), mask=block < blocks)


@triton.jit(do_not_specialize=["n", "blocks"])
def _descend_blocks(
    state: tl.tensor,
    code: tl.tensor,
    output: tl.tensor,
    n: tl.tensor,
    blocks: tl.tensor,
    N: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """Tell the units of a block from the state of its residual and the codes of its fights."""
    program = tl.program_id(0).to(tl.int64)
    sample, block = program // blocks, program % blocks
    cell = tl.zeros([1, 1], tl.int32)
    root = tl.load(state + program + cell).to(tl.int32)
    here = code + program * ((N >> A) + (N >> (A + B)) + 1)
    low = tl.load(here + tl.arange(0, N >> A)[None, :])
    middle = tl.load(here + (N >> A) + tl.arange(0, N >> (A + B))[None, :])
    high = tl.load(here + (N >> A) + (N >> (A + B)) + cell)
    taken = descend_tree(root & 1, low, middle, high, 1, N, A, B, C).to(tl.float32)
    taken = tl.where(root == 2, float("nan"), taken)
    unit = block * N + tl.arange(0, N)[None, :]
    tl.store(output + sample * n + unit, taken.to(output.dtype.element_ty), mask=unit < n)
