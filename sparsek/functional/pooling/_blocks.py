"""The logarithm of a power mean block by block, eagerly on the CPU: intermediates stay in the processor's cache, few are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sparsek._validation import inspectable

_BYTES = 1 << 19
"""In one block."""

_LARGEST = 50.0
"""Above every v of a kept token, which are at most log T; masked ones may hold more."""

_LEAST = 1e-4
"""Of a power at which some |v| can be above ½."""

_TERMS = {torch.float32: 8, torch.float64: 14}
"""Of the series of ψ, for |v| <= ½."""


def in_blocks(*tensors: Tensor) -> bool:
    """Whether blocks are the way: on the CPU, not traced, not transformed, no derivative in forward mode."""
    return inspectable(*tensors) and all(t.is_cpu for t in tensors) and forward_ad._current_level < 0


class LogRatio(torch.autograd.Function):
    """Logarithm of (..., T, D) over its reference (..., D), a constant: relative to it, also where they are nearly equal."""

    @staticmethod
    def forward(ctx: Any, size: Tensor, reference: Tensor) -> Tensor:
        values, reference = _rows(size, 2), _rows(reference, 1).unsqueeze(-2)
        output = torch.empty_like(values)
        for rows, tokens in _blocks(values):
            _log_ratio(values[rows, tokens], reference[rows], out=output[rows, tokens])
        ctx.save_for_backward(size)
        return output.view_as(size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (size,) = ctx.saved_tensors
        return grad / size, None


def _log_ratio(size: Tensor, reference: Tensor, out: Tensor) -> None:
    """By log1p of the excess from ½ to 2, and by the logarithm of what is left over outside."""
    close = (size - reference).div_(reference).clamp_(-0.5, 1.0).log1p_()
    ratio = size / reference
    rest = ratio.div_(ratio.clamp(0.5, 2.0)).clamp_(min=torch.finfo(size.dtype).tiny).log_()
    torch.add(close, rest, out=out)


def forward(d: Tensor, p: Tensor, keep: Tensor | None) -> Tensor:
    """g(d, p) of :func:`~sparsek.functional.pooling._log_mean_power.log_mean_power`, p not 0."""
    powers, flags, number = _arranged(d, p, keep)
    values = _rows(d, 2)
    mean = values.new_zeros(len(values), values.shape[-1])
    for rows, tokens in _blocks(values):
        mean[rows] += _sum(_exponents(values, powers, rows, tokens).exp_(), flags, rows, tokens)
    mean = mean / number
    close, excess = mean > 0.5, torch.zeros_like(mean)
    for rows, tokens in _blocks(values):
        if bool(close[rows].any()):
            excess[rows] += _sum(_exponents(values, powers, rows, tokens).expm1_(), flags, rows, tokens)
    logarithm = torch.where(close, (excess / number).log1p(), mean.log())
    return (logarithm / powers).view(*d.shape[:-2], d.shape[-1])


def backward(
    grad: Tensor, d: Tensor, p: Tensor, keep: Tensor | None, g: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """What :func:`forward` passes back to d and to p; d finite, or −∞ where the power is above 0 and needs nothing."""
    powers, flags, number = _arranged(d, p, keep)
    values, level = _rows(d, 2), _rows(g, 1)
    to_d = torch.empty_like(values) if wanted[0] else None
    slopes = torch.zeros_like(level) if wanted[1] else None
    factor = _rows(grad, 1) / number
    inverse = torch.where(powers.abs() < _LEAST, 0.0, 1 / powers).square()
    for rows, tokens in _blocks(values):
        w, power = values[rows, tokens] - level[rows].unsqueeze(-2), _of(powers, rows)
        if flags is not None and slopes is not None:
            w.mul_(flags[rows, tokens])
        v = (w * power).clamp_(max=_LARGEST)
        shares = v.exp()
        if to_d is not None:
            into = torch.mul(shares, factor[rows].unsqueeze(-2), out=to_d[rows, tokens])
            if flags is not None:
                into.mul_(flags[rows, tokens])
        if slopes is not None:
            slopes[rows] += _slopes(w, v, shares, _of(inverse, rows)).sum(-2)
    to_p = None if slopes is None else (factor * slopes).view_as(g).sum_to_size(p.shape)
    return None if to_d is None else to_d.view_as(d), to_p


def _slopes(w: Tensor, v: Tensor, shares: Tensor, inverse: Tensor) -> Tensor:
    """w² ψ(v), by the series for |v| <= ½ and by its definition outside, with 1/p². Writes over the first three."""
    far = v.abs().gt_(0.5)  # 1 or 0
    definition = shares.mul_(v - 1).add_(1)
    definition.mul_(inverse)
    near = v.clamp_(-0.5, 0.5)
    series = torch.zeros_like(near)
    for i in reversed(range(_TERMS[near.dtype])):
        series.mul_(near).add_((i + 1) / math.factorial(i + 2))
    return series.mul_(w).mul_(w).lerp_(definition, far)


def _arranged(d: Tensor, p: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | int]:
    """Powers 0-d or (R, D), the mask as numbers (R, T, 1), and how many tokens each row has (R, 1)."""
    if p.dim():
        p = _rows(p.expand(*d.shape[:-2], d.shape[-1]), 1)
    if keep is None:
        return p, None, d.shape[-2]
    flags = keep.expand(d.shape[:-1]).to(d.dtype).reshape(-1, d.shape[-2], 1)
    return p, flags, flags.sum(-2)


def _exponents(values: Tensor, powers: Tensor, rows: slice, tokens: slice) -> Tensor:
    """The products p d, and 0 at masked tokens that would be above it."""
    return (values[rows, tokens] * _of(powers, rows)).clamp_(max=0)


def _sum(block: Tensor, flags: Tensor | None, rows: slice, tokens: slice) -> Tensor:
    return (block if flags is None else block.mul_(flags[rows, tokens])).sum(-2)


def _of(powers: Tensor, rows: slice) -> Tensor:
    return powers[rows].unsqueeze(-2) if powers.dim() else powers


def _rows(x: Tensor, kept: int) -> Tensor:
    """All dimensions but the last `kept` as one."""
    return x.reshape(-1, *x.shape[-kept:]) if x.numel() else x.reshape(0, *x.shape[-kept:])


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the rows and the tokens of (R, T, D)."""
    number, length, dim = x.shape
    most = _BYTES // x.element_size()
    rows, span = max(1, most // max(1, length * dim)), max(1, min(length, most // max(1, dim)))
    for row in range(0, number, rows):
        for token in range(0, length, span):
            yield slice(row, row + rows), slice(token, token + span)
