"""The solve of a relaxation as an operator of the dispatcher, with its gradient as another: what a compiled graph calls.

One opaque node in one graph, no recompilation for another k, and the eager result by the same kernels. Registered with the
plain dispatcher, whose call costs half of what :func:`torch.library.custom_op` adds: short rows feel it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._implicit_gradient import pull_back
from ._shape import SHAPES

_LIBRARY = torch.library.Library("sparsek", "FRAGMENT")
_LIBRARY.define(
    "implicit_topk(Tensor x, Tensor k, Tensor? scale, str shape) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "implicit_topk_backward(Tensor grad, Tensor x, Tensor k, Tensor? scale, Tensor probs, Tensor threshold, str shape, "
    "bool scaled) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(_LIBRARY, "implicit_topk", "CompositeExplicitAutograd")
def _solve(x: Tensor, k: Tensor, scale: Tensor | None, shape: str) -> tuple[Tensor, Tensor]:
    return SHAPES[shape].solve(x.contiguous(), k, 1.0 if scale is None else scale)


@torch.library.register_fake("sparsek::implicit_topk", lib=_LIBRARY)
def _(x: Tensor, k: Tensor, scale: Tensor | None, shape: str) -> tuple[Tensor, Tensor]:
    threshold = x.new_empty((*x.shape[:-1], 1), dtype=torch.float64)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), threshold


@torch.library.impl(_LIBRARY, "implicit_topk_backward", "CompositeExplicitAutograd")
def _solve_backward(
    grad: Tensor, x: Tensor, k: Tensor, scale: Tensor | None, probs: Tensor, threshold: Tensor, shape: str, scaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    number = 1.0 if scale is None else scale
    with torch.no_grad():
        gradients = pull_back((True, True, scaled), SHAPES[shape], grad, x, k, number, probs, threshold)
    to_x, to_k, to_scale, _ = gradients
    assert to_k is not None, "k is a tensor"
    return to_x.contiguous(), to_k, to_k.new_empty(0) if to_scale is None else to_scale


@torch.library.register_fake("sparsek::implicit_topk_backward", lib=_LIBRARY)
def _(
    grad: Tensor, x: Tensor, k: Tensor, scale: Tensor | None, probs: Tensor, threshold: Tensor, shape: str, scaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    to_scale = torch.empty_like(scale) if scaled and scale is not None else k.new_empty(0)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(k), to_scale


def _setup_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.shape = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate_op(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    scaled = ctx.needs_input_grad[2]
    to_x, to_k, to_scale = backward_op(grad, *ctx.saved_tensors, ctx.shape, scaled)
    return to_x, to_k, to_scale if scaled else None, None


torch.library.register_autograd("sparsek::implicit_topk", _differentiate_op, setup_context=_setup_op, lib=_LIBRARY)
solve_op, backward_op = torch.ops.sparsek.implicit_topk.default, torch.ops.sparsek.implicit_topk_backward.default


def as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor; by a product, since the compiler then keeps it an input instead of a constant."""
    return value if isinstance(value, Tensor) else torch.ones(1, dtype=torch.float64, device=like.device) * value
