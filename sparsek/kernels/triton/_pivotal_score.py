"""Log-probability of the tournament pivotal design, and its gradient, for rows that fit on chip."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tournament import halves

LONGEST = 4096
"""Units of the longest row that is scored on chip."""

_TILE = 512

_TINY = tl.constexpr(2.2250738585072014e-308)


@torch.library.custom_op("sparsek::pivotal_log_prob", mutates_args=())
def pivotal_log_prob(probs: Tensor, sample: Tensor) -> Tensor:
    """Return log P(sample) for settled rows; -inf where the tournament cannot give the sample.

    Shape:
        - probs: (rows, m) in float64.
        - sample: (draws, rows, m), 0 or 1, in float64.
        - output: (draws, rows).
    """
    output = probs.new_empty(sample.shape[:-1])
    _launch(probs, sample, output, output, GRADIENT=False)
    return output


@torch.library.custom_op("sparsek::pivotal_score", mutates_args=())
def pivotal_score(probs: Tensor, sample: Tensor) -> Tensor:
    """Return the gradient of log P(sample) in the π of its row, (draws, rows, m); 0 where the sample is impossible."""
    output = torch.empty(sample.shape, dtype=sample.dtype, device=sample.device)
    _launch(probs, sample, output, output, GRADIENT=True)
    return output


@pivotal_log_prob.register_fake
def _(probs: Tensor, sample: Tensor) -> Tensor:
    return probs.new_empty(sample.shape[:-1])


@pivotal_score.register_fake
def _(probs: Tensor, sample: Tensor) -> Tensor:
    return torch.empty(sample.shape, dtype=sample.dtype, device=sample.device)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    score = pivotal_score(*ctx.saved_tensors)
    return (gradient.unsqueeze(-1) * score).sum(0), None


def _refuse(ctx: Any, gradient: Tensor) -> tuple[None, None]:
    raise NotImplementedError(
        "the Triton kernel of Pivotal.log_prob has no second derivative; use it under use_backends(Backend.EAGER)"
    )


pivotal_log_prob.register_autograd(_backward, setup_context=_keep)
pivotal_score.register_autograd(_refuse)


def _launch(probs: Tensor, sample: Tensor, value: Tensor, score: Tensor, *, GRADIENT: bool) -> None:
    draws, rows, m = sample.shape
    if draws * rows == 0:
        return
    leaves = max(triton.next_power_of_2(m), 2)
    height = max(_TILE // leaves, 1)
    _score_rows[(triton.cdiv(draws * rows, height),)](
        probs.contiguous(), sample.contiguous(), value, score, draws * rows, rows, m,
        GRADIENT=GRADIENT, R=height, N=leaves, LEVELS=leaves.bit_length() - 1, num_warps=4 if leaves <= 1024 else 8,
    )  # fmt: skip


@triton.jit
def weigh(a: tl.tensor, b: tl.tensor, left: tl.tensor, right: tl.tensor) -> tuple[
    tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor
]:  # fmt: skip
    """Score the fights of weights a, b whose units ended in states `left` and `right`.

    Returns (residual, its state, log-probability, derivative in a, derivative in b, 1 where the outcome is impossible).
    """
    saturated = a + b > 1.0
    full = saturated.to(tl.float64)
    sign = 1.0 - 2.0 * full
    for_left, for_right = full + sign * a, full + sign * b
    both = for_left + for_right
    decided = left != right
    left_keeps = left != saturated.to(tl.int32)
    chance = tl.where(left_keeps, for_left, for_right)
    counts = decided & (chance > 0.0)
    agrees = counts | ((left == right) & (left == saturated.to(tl.int32)))
    part, whole = tl.where(counts, chance, 1.0), tl.where(counts, both, 1.0)
    value = tl.log(tl.maximum(part, _TINY)) - tl.log(tl.maximum(whole, _TINY))
    gain = tl.where(counts, sign, 0.0)
    loss = gain / whole
    to_left = tl.where(left_keeps, gain / part, 0.0) - loss
    to_right = tl.where(left_keeps, 0.0, gain / part) - loss
    state = decided.to(tl.int32) ^ saturated.to(tl.int32)
    return full + sign * both, state, value, to_left, to_right, 1 - agrees.to(tl.int32)


@triton.jit
def pass_down(
    to_left: tl.tensor, to_right: tl.tensor, R: tl.constexpr, W: tl.constexpr, UNITS: tl.constexpr
) -> tl.tensor:
    """Give each leaf, (R, 2 W UNITS), the derivative of its half of the fight, (R, W)."""
    sides = tl.reshape(tl.join(to_left, to_right), [R, 2 * W, 1])
    return tl.reshape(tl.broadcast_to(sides, [R, 2 * W, UNITS]), [R, 2 * W * UNITS])


@triton.jit(do_not_specialize=["total", "rows"])
def _score_rows(
    probs: tl.tensor, sample: tl.tensor, value: tl.tensor, score: tl.tensor,
    total: tl.tensor, rows: tl.tensor, m: tl.tensor,
    GRADIENT: tl.constexpr, R: tl.constexpr, N: tl.constexpr, LEVELS: tl.constexpr,
) -> None:  # fmt: skip
    """Score R samples. A residual is a sum of its leaves up to a constant: the derivatives of all fights add up."""
    draw = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]
    unit = tl.arange(0, N)[None, :]
    inside = (draw < total) & (unit < m)
    weight = tl.load(probs + (draw % rows) * m + unit, mask=inside, other=0.0)
    state = (tl.load(sample + draw * m + unit, mask=inside, other=0.0) > 0.5).to(tl.int32)
    log_prob = tl.zeros([R, 1], tl.float64)
    wrong = tl.zeros([R, 1], tl.int32)
    slope = tl.zeros([R, N], tl.float64)
    for level in tl.static_range(LEVELS):
        a, b = halves(weight, R, N >> level)
        left, right = halves(state, R, N >> level)
        weight, state, logs, to_left, to_right, bad = weigh(a, b, left, right)
        wrong += tl.sum(bad, 1, keep_dims=True)
        if GRADIENT:
            slope += pass_down(to_left, to_right, R, N >> (level + 1), 1 << level)
        else:
            log_prob += tl.sum(logs, 1, keep_dims=True)
    wrong += (state != (weight > 0.5).to(tl.int32)).to(tl.int32)
    if GRADIENT:
        tl.store(score + draw * m + unit, tl.where(wrong == 0, slope, 0.0), mask=inside)
    else:
        tl.store(value + draw, tl.where(wrong == 0, log_prob, -float("inf")), mask=draw < total)
