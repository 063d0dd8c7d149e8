"""Relaxations that are solved row by row, differentiated implicitly in every mode of autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsek._validation import values_visible

from ._implicit_gradient import Gradient, pull_back
from ._implicit_op import as_tensor, solve_op
from ._shape import Shape


def solve_implicitly(x: Tensor, k: float | Tensor, scale: float | Tensor, shape: Shape) -> Tensor:
    """Probabilities of rows, with the derivatives above.

    Args:
        x: (..., n) float32 or float64; −inf where a unit does not compete.
        k: A number, or a column that broadcasts to (..., 1).
        scale: s > 0, likewise.
        shape: Φ.
    """
    probs: Tensor
    if x.numel() == 0:
        return (x + 0 * k + 0 * scale).to(x.dtype)
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:  # a mode that traces or fakes
        column = None if isinstance(scale, (float, int)) and scale == 1 else as_tensor(scale, x)
        probs, _ = solve_op(x, as_tensor(k, x), column, shape.name)
    elif torch._C._are_functorch_transforms_active():
        probs, _ = _Transformable.apply(x, k, scale, shape)
    elif derivable(x, k, scale):
        probs = _Implicit.apply(x, k, scale, shape)
    else:
        probs = shape.probabilities(x, k, scale, validate=values_visible(x))
    return probs


def derivable(*values: float | Tensor) -> bool:
    """Whether any derivative may be asked for: a graph is being recorded, or a forward-mode or transform level is open."""
    if torch.is_grad_enabled():
        for value in values:
            if isinstance(value, Tensor) and value.requires_grad:
                return True
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class _Implicit(torch.autograd.Function):
    """(x, k, scale, shape) → probs, units last. The threshold is saved, not differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: float | Tensor, scale: float | Tensor, shape: Shape) -> Tensor:
        output = shape.solve(x, k, scale, validate=values_visible(x))
        _save(ctx, (x, k, scale, shape), output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        return pull_back(ctx.needs_input_grad, ctx.shape, grad, *_saved(ctx))

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, k_t: Tensor | None, scale_t: Tensor | None, _: object) -> Tensor:
        x, k, scale, probs, threshold = _saved(ctx)
        gradient = Gradient(ctx.shape, x, k, scale, probs, threshold)
        tangent = torch.zeros_like(probs) if x_t is None else x_t
        if scale_t is not None:
            tangent = tangent - gradient.along_scale(scale_t.to(probs.dtype))
        result = gradient.mean_and_product(gradient.divided(tangent))[1]
        if k_t is not None:
            weights = gradient.density / gradient.total if gradient.weights is None else gradient.weights
            result = result + weights * k_t.to(probs.dtype)
        return result.to(probs.dtype)


class _Transformable(torch.autograd.Function):
    """The same under `torch.func` transforms, whose set-up costs as much as a short row: plain eager goes without.

    Here whatever is saved must be an input or an output, so the threshold is a second output.
    """

    @staticmethod
    def forward(x: Tensor, k: float | Tensor, scale: float | Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        return shape.solve(x, k, scale, validate=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return _Implicit.backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        return _Implicit.jvp(ctx, *tangents), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        k: float | Tensor,
        scale: float | Tensor,
        shape: Shape,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rank = x.dim() - (in_dims[0] is not None)
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        k, scale = (_batched(v, d, rank) for v, d in zip((k, scale), in_dims[1:3], strict=True))
        return _Transformable.apply(x, k, scale, shape), (0, 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.k, ctx.scale, ctx.shape = inputs
    ctx.set_materialize_grads(False)
    tensors = [x, *output]
    if isinstance(ctx.k, Tensor):
        tensors.append(ctx.k)
        ctx.k = None
    if isinstance(ctx.scale, Tensor):
        tensors.append(ctx.scale)
        ctx.scale = None
    ctx.save_for_backward(*tensors)
    if torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        ctx.save_for_forward(*tensors)


def _saved(ctx: Any) -> tuple[Tensor, float | Tensor, float | Tensor, Tensor, Tensor]:
    """x, k, scale, probs, threshold."""
    x, probs, threshold, *tensors = ctx.saved_tensors
    k = tensors.pop(0) if ctx.k is None else ctx.k
    scale = tensors.pop(0) if ctx.scale is None else ctx.scale
    return x, k, scale, probs, threshold


def _batched(value: float | Tensor, dim: int | None, rank: int) -> float | Tensor:
    """Bring the batch dimension of a column to the front, so that it broadcasts over rows of `rank` dimensions."""
    if not isinstance(value, Tensor) or dim is None:
        return value
    value = value.movedim(dim, 0)
    return value.reshape(value.shape[0], *(1,) * (rank + 1 - value.dim()), *value.shape[1:])
