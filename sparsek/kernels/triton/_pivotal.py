"""Draws of the tournament pivotal design."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._pivotal_blocks import sample_long_rows
from ._settle import checked, settle, spread
from ._tournament import TREE, climb_tree, descend_tree, fight, settle_fight, stages, uniforms

_TILE = 1024
"""Units that a program takes, in as many rows as fit."""


@torch.library.custom_op("sparsek::pivotal_sample", mutates_args=())
def pivotal_sample(
    probs: Tensor, k: Tensor | None, seed: Tensor, draws: int, phantom: bool, near: float, allowed: float
) -> Tensor:
    """Draw k-hot samples by a tournament; a row that is not made of probabilities, or misses its k, is NaN.

    Shape:
        - probs: (rows, n), any strides.
        - k: (rows,), any stride.
        - output: (draws, rows, n).

    Args:
        probs: Inclusion probabilities in float32, float16 or bfloat16.
        k: Sums in float64. None: the sum of the row, whole where it is near to whole.
        seed: (1,) int64, the key of the random numbers. It is read on the device.
        draws: Number of independent draws per row.
        phantom: Whether a unit is added that fills a real k up to a whole number, and dropped.
        near: How far a sum may lie from a whole number, in units of max(1, sum), to count as it.
        allowed: How far it may lie from k, in units of max(1, k).
    """
    rows, n = probs.shape
    output = torch.empty(draws, rows, n, dtype=probs.dtype, device=probs.device)
    if output.numel() > 0:
        write = sample_short_rows if n <= 1 << TREE else sample_long_rows
        write(probs, k, seed, output, phantom, near, allowed)
    return output


@pivotal_sample.register_fake
def _(probs: Tensor, k: Tensor | None, seed: Tensor, draws: int, phantom: bool, near: float, allowed: float) -> Tensor:
    return torch.empty(draws, *probs.shape, dtype=probs.dtype, device=probs.device)


def sample_short_rows(
    probs: Tensor, k: Tensor | None, seed: Tensor, output: Tensor, phantom: bool, near: float, allowed: float
) -> None:
    """Write the samples to `output` (draws, rows, n), in one launch. The rest is as in `pivotal_sample`."""
    draws, rows, n = output.shape
    leaves = max(triton.next_power_of_2(n), 2)
    k_stride = 0 if k is None else k.stride(0)
    height, tree = max(_TILE // leaves, 1), stages(leaves)
    _sample_rows[(triton.cdiv(draws * rows, height),)](
        probs, k, seed, output, draws * rows, rows, n, *probs.stride(), k_stride, near, allowed,
        HAS_K=k is not None, PHANTOM=phantom, LATE=phantom and n == leaves,
        R=height, N=leaves, A=tree[0], B=tree[1], C=tree[2],
        num_warps=4 if leaves <= _TILE else 8,
    )  # fmt: skip


@triton.jit(do_not_specialize=["total", "rows"])
def _sample_rows(
    probs: tl.tensor, k: tl.tensor, seed: tl.tensor, output: tl.tensor,
    total: tl.tensor, rows: tl.tensor, n: tl.tensor, row_stride: tl.tensor, unit_stride: tl.tensor, k_stride: tl.tensor,
    near: tl.tensor, allowed: tl.tensor,
    HAS_K: tl.constexpr, PHANTOM: tl.constexpr, LATE: tl.constexpr,
    R: tl.constexpr, N: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
) -> None:  # fmt: skip
    """Draw R of the `total` = draws · rows samples, a tree of N leaves each."""
    sample = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    unit = tl.arange(0, N)[None, :]
    row = sample % rows
    inside = (sample < total) & (unit < n)
    weight = tl.load(probs + row * row_stride + unit.to(tl.int64) * unit_stride, mask=inside, other=0.0)
    weight = checked(weight.to(tl.float64))
    target = tl.load(k + row * k_stride, mask=sample < total, other=0.0) if HAS_K else 0.0
    total_weight = tl.sum(weight, 1, keep_dims=True)
    room = tl.sum(weight - weight * weight, 1, keep_dims=True)
    rate, phantom = settle(total_weight, room, target, near, allowed, HAS_K)
    weight = spread(weight, rate)
    if PHANTOM:
        weight = tl.where(unit == n, phantom, weight)
    luck = uniforms(tl.load(seed), 0, sample, R, N)
    root, luck, low, middle, high = climb_tree(weight, luck, R, N, A, B, C)
    if LATE:  # the phantom of a row of N units meets them after all others
        root, bits = fight(root, phantom, luck)
        state, _ = settle_fight((root > 0.5).to(tl.int32), bits)
    else:
        state = (root > 0.5).to(tl.int32)
    taken = descend_tree(state, low, middle, high, R, N, A, B, C).to(tl.float32)
    taken = tl.where(root >= 0.0, taken, float("nan"))
    tl.store(output + sample * n + unit, taken.to(output.dtype.element_ty), mask=inside)
