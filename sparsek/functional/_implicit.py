r"""Relaxations of the form $π_i = Φ((x_i - τ)/s)$ with $\sum_i π_i = k$, differentiated implicitly.

With the density $d_i = Φ'((x_i - τ)/s)$ and the weights $w = d / \sum d$,

$$∂L/∂x = d ∘ (g - ⟨w, g⟩) / s, \quad ∂L/∂k = ⟨w, g⟩, \quad ∂L/∂s = -⟨∂L/∂x, (x - τ)/s⟩.$$

The density is a function of π, so that derivatives of any order follow by differentiating these lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._rows import concrete
from ._saturated import shifted


class Shape(ABC):
    """The function Φ of a relaxation: how to solve its rows, and its density."""

    name: ClassVar[str]

    @abstractmethod
    def solve(self, x: Tensor, k: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probabilities (..., n) and float64 thresholds (..., 1); units that do not compete have x = -inf and get 0."""

    @abstractmethod
    def density(self, probs: Tensor) -> Tensor:
        """Φ' where Φ = `probs`; 0 at 0 and 1."""

    @abstractmethod
    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        """The weights of rows whose density vanishes in working precision: a one-sided limit with sum 1."""


class _Gradient:
    """The implicit derivative of solved rows."""

    def __init__(self, shape: Shape, x: Tensor, scale: Tensor | None, probs: Tensor, threshold: Tensor) -> None:
        self.x, self.scale, self.threshold = x, scale, threshold
        self.density = shape.density(probs)
        spread = self.density.sum(-1, keepdim=True)
        floor = 1e4 * torch.finfo(probs.dtype).eps * probs.detach().sum(-1, keepdim=True)
        resolved = (spread > 0) & (spread >= floor)
        if concrete(x) and bool(resolved.all()):
            self.weights = self.density / spread
            return
        with torch.no_grad():
            limit = shape.limit(self.standardised(), probs.detach())
        self.weights = torch.where(resolved, self.density / torch.where(resolved, spread, 1.0), limit)

    def standardised(self) -> Tensor:
        """(x − τ)/s with τ held."""
        return shifted(self.x, self.threshold.detach(), 1.0 if self.scale is None else self.scale)

    def mean(self, value: Tensor) -> Tensor:
        return (self.weights * value).sum(-1, keepdim=True)

    def spread(self, value: Tensor) -> Tensor:
        """The Jacobian in x/s applied to `value`; it is symmetric."""
        return self.density * (value - self.mean(value))

    def divided(self, value: Tensor) -> Tensor:
        return value if self.scale is None else value / self.scale.to(value.dtype)

    def along_scale(self, value: Tensor) -> Tensor:
        """`value` times (x − τ)/s, 0 where the density vanishes."""
        return torch.where(self.density > 0, self.standardised(), 0.0) * value


def _pull_back(gradient: _Gradient, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to x, k and s, not yet summed to the shapes of k and s."""
    to_x = gradient.divided(gradient.spread(grad))
    to_scale = None if gradient.scale is None else -gradient.along_scale(to_x)
    to_scale = None if to_scale is None else to_scale.double()
    return to_x, gradient.mean(grad).double(), to_scale


class _Implicit(torch.autograd.Function):
    """(x, k, scale) -> (probs, threshold), units last; the threshold is not differentiated."""

    @staticmethod
    def forward(x: Tensor, k: Tensor, scale: Tensor | None, shape: Shape) -> tuple[Tensor, Tensor]:
        return shape.solve(x, k, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, k, scale, ctx.shape = inputs
        ctx.k_shape = k.shape
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, scale, *output)
        ctx.save_for_forward(x, scale, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        scale = ctx.saved_tensors[1]
        to_x, to_k, to_scale = _pull_back(_Gradient(ctx.shape, *ctx.saved_tensors), grad)
        to_scale = None if to_scale is None else to_scale.sum_to_size(scale.shape)
        return to_x, to_k.sum_to_size(ctx.k_shape), to_scale, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, k_t: Tensor | None, scale_t: Tensor | None, _: None) -> tuple[Tensor, None]:
        gradient = _Gradient(ctx.shape, *ctx.saved_tensors)
        tangent = torch.zeros_like(gradient.density) if x_t is None else x_t
        if scale_t is not None:
            tangent = tangent - gradient.along_scale(scale_t.to(tangent.dtype))
        result = gradient.spread(gradient.divided(tangent))
        return result if k_t is None else result + gradient.weights * k_t.to(result.dtype), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, k: Tensor, scale: Tensor | None, shape: Shape
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rank = x.dim() - (in_dims[0] is not None)
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        k = _batched(k, in_dims[1], rank)
        scale = None if scale is None else _batched(scale, in_dims[2], rank)
        return _Implicit.apply(x, k, scale, shape), (0, 0)


def _batched(column: Tensor, dim: int | None, rank: int) -> Tensor:
    """Bring the batch to the front of a column, so that it broadcasts over rows of `rank` dimensions."""
    if dim is None:
        return column
    column = column.movedim(dim, 0)
    return column.reshape(column.shape[0], *(1,) * (rank + 1 - column.dim()), *column.shape[1:])


# Under torch.compile the solve is one opaque operator: one graph, and no compilation for another k.

SHAPES: dict[str, Shape] = {}
"""The shapes by name: what an operator of a compiled graph can refer to."""


@torch.library.custom_op("sparsek::implicit_topk", mutates_args=())
def _solve_op(x: Tensor, k: Tensor, scale: Tensor | None, shape: str) -> tuple[Tensor, Tensor]:
    return SHAPES[shape].solve(x.contiguous(), k, scale)


@_solve_op.register_fake
def _(x: Tensor, k: Tensor, scale: Tensor | None, shape: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=torch.float64)


def _setup_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, k, scale, ctx.shape = inputs
    ctx.k_shape = k.shape
    ctx.save_for_backward(x, scale, *output)


def _backward_op(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    scale = ctx.saved_tensors[1]
    to_x, to_k, to_scale = _pull_back(_Gradient(SHAPES[ctx.shape], *ctx.saved_tensors), grad)
    to_scale = None if to_scale is None else to_scale.sum_to_size(scale.shape)
    return to_x, to_k.sum_to_size(ctx.k_shape), to_scale, None


_solve_op.register_autograd(_backward_op, setup_context=_setup_op)


def implicit_topk(scores: Tensor, k: Tensor, scale: Tensor | None, free: Tensor | None, shape: Shape) -> Tensor:
    """Solve rows (see :class:`~sparsek.functional._rows.Rows`); 0 where units are not free."""
    if scores.numel() == 0:
        return scores
    x = scores if free is None else scores.masked_fill(~free, -torch.inf)
    probs: Tensor
    if torch.compiler.is_compiling():
        probs, _ = _solve_op(x, k, scale, shape.name)
    else:
        probs, _ = _Implicit.apply(x, k, scale, shape)
    return probs
