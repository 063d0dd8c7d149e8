"""The logarithm of a power mean, stable for every power: the core of GeM and of the normalised log-sum-exp."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import _blocks as blocks
from ._portable import expm1, log1p

_SMALLEST = 1e-20
"""Powers nearer to 0 are taken as this one: the mean differs by less than 1e-16 from that at 0."""

_SERIES_TERMS = {torch.float32: 12, torch.float64: 20}


def log_mean_power(log_ratio: Tensor, p: Tensor, keep: Tensor | None) -> Tensor:
    r"""Logarithm of the power mean of $e^d$, with $p\,d ≤ 0$ at every kept token.

    $$g(d, p) = \frac1p \log \frac1n \sum_t e^{p d_t}, \qquad g(d, 0) = \frac1n \sum_t d_t.$$

    The logarithm is that of 1 + mean(expm1(p d)), so nothing cancels as p → 0 and the quotient by p needs no series. With
    $w = d - g$ and $v = p w$ the gradients are

    $$\frac{∂g}{∂d_t} = \frac{e^{v_t}}n, \qquad \frac{∂g}{∂p} = \frac1n \sum_t w_t^2 ψ(v_t), \quad
    ψ(v) = \frac{1 + e^v (v - 1)}{v^2}.$$

    The second is the divergence of the shares $e^v/n$ from equal ones over $p^2$, as a sum of terms that are all positive:
    right at every p, with ½ var(d) at 0. ψ is its own Taylor series for |v| ≤ 1. Derivatives of any order exist.

    Args:
        log_ratio: d, (..., T, D): logarithms relative to the largest (p > 0) or smallest (p < 0) kept value; finite, or ∞ at a
            token whose power is 0 (p < 0), or −∞ at one (p > 0, a constant). Masked tokens may hold any of these.
        p: 0-d, or broadcasting to (..., D).
        keep: (..., T), at least one True in every row; None = all.

    Returns:
        g, (..., D).
    """
    if blocks.in_blocks(log_ratio, p):
        function: type[_Compiled] = _InBlocks
    else:
        function = _Compiled if torch.compiler.is_compiling() else _LogMeanPower
    output: Tensor = function.apply(log_ratio, p, keep)
    return output


class _Compiled(torch.autograd.Function):
    """(d, p, keep) → g, in reverse mode: a compiler does not trace a Function with a rule for forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(d: Tensor, p: Tensor, keep: Tensor | None) -> Tensor:
        p = _not_zero(p)
        z = p.unsqueeze(-2) * d if p.dim() else p * d
        near = _mean(expm1(z), keep)
        far = _mean(z.exp(), keep)
        return torch.where(near > -0.5, log1p(near), far.log()) / p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        d, p, keep = inputs
        ctx.save_for_backward(d, p, keep, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d, p, keep, g = ctx.saved_tensors
        shares, slopes = _shares_and_slopes(d, g, p, keep)
        to_d = to_p = None
        if ctx.needs_input_grad[0]:
            to_d = _kept_only(grad.unsqueeze(-2) * shares, keep) / _number(d, keep).unsqueeze(-1)
        if ctx.needs_input_grad[1]:
            to_p = (grad * _mean(slopes, keep)).sum_to_size(p.shape)
        return to_d, to_p, None


class _LogMeanPower(_Compiled):
    """The same with forward mode."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Compiled.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def jvp(ctx: Any, d_t: Tensor | None, p_t: Tensor | None, _: object) -> Tensor:
        d, p, keep, g = ctx.saved_tensors
        shares, slopes = _shares_and_slopes(d, g, p, keep)
        tangent = torch.zeros_like(g)
        if d_t is not None:
            tangent = tangent + _mean(shares * d_t, keep)
        if p_t is not None:
            tangent = tangent + p_t * _mean(slopes, keep)
        return tangent


class _InBlocks(_Compiled):
    """The same block by block; derivatives of a derivative are those of whole tensors."""

    @staticmethod
    def forward(d: Tensor, p: Tensor, keep: Tensor | None) -> Tensor:
        return blocks.forward(d, _not_zero(p), keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d, p, keep, g = ctx.saved_tensors
        if torch.is_grad_enabled() or (d.numel() and bool((p < 0).any()) and bool(d.amax().isinf())):
            return _Compiled.backward(ctx, grad)
        return (*blocks.backward(grad, d, p, keep, g, ctx.needs_input_grad[:2]), None)


def _not_zero(p: Tensor) -> Tensor:
    return torch.where(p.abs() < _SMALLEST, torch.where(p < 0, -_SMALLEST, _SMALLEST), p)


def _shares_and_slopes(d: Tensor, g: Tensor, p: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """e^v and w² ψ(v) of every token; where d = ∞ their limits, 0 and 1/p²."""
    along, infinite = _along_tokens(p), d.isinf()
    w = _kept_only(torch.where(infinite, 0.0, d - g.unsqueeze(-2)), keep)
    v = along * w
    limit = torch.where(infinite, along, 1.0).pow(-2)
    return torch.where(infinite, 0.0, v.exp()), torch.where(infinite, limit, w.square() * _divergence(v))


def _along_tokens(p: Tensor) -> Tensor:
    """A power per (..., D) that broadcasts over (..., T, D)."""
    return p.unsqueeze(-2) if p.dim() else p


def _kept_only(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else torch.where(keep.unsqueeze(-1), x, 0.0)


def _number(x: Tensor, keep: Tensor | None) -> Tensor:
    """How many tokens there are, (..., 1)."""
    if keep is None:
        return x.new_ones(1) * x.shape[-2]
    return keep.sum(-1, keepdim=True).to(x.dtype)


def _mean(x: Tensor, keep: Tensor | None) -> Tensor:
    return _kept_only(x, keep).sum(-2) / _number(x, keep)


def _divergence(v: Tensor) -> Tensor:
    """ψ(v) = (1 + e^v (v − 1)) / v², ½ at 0."""
    small = v.abs() <= 1
    near, far = torch.where(small, v, 0.0), torch.where(small, 1.0, v)
    series = torch.zeros_like(v)
    for i in reversed(range(_SERIES_TERMS[v.dtype])):
        series = series * near + (i + 1) / math.factorial(i + 2)
    return torch.where(small, series, (1 + far.exp() * (far - 1)) / far.square())
