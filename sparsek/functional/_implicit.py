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

from sparsek._validation import inspectable, values_visible

from ._reduction import WHOLE, Reduction
from ._saturated import shifted

RESOLVED = {torch.float32: 1e-3, torch.float64: 2e-12}
"""Σd/k above which d, formed from the rounded π, still gives w."""


class Shape(ABC):
    """The function Φ of a relaxation: how to solve its rows, and its density."""

    name: ClassVar[str]
    across: Reduction = WHOLE

    @abstractmethod
    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (..., n) and float64 thresholds (..., 1); units that do not compete have x = -inf and get 0."""

    def fused_gradient(
        self,
        grad: Tensor,
        x: Tensor,
        k: float | Tensor,
        scale: float | Tensor,
        probs: Tensor,
        threshold: Tensor,
        *,
        scaled: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """∂L/∂x, ∂L/∂k and, if `scaled`, ∂L/∂s of each row from ∂L/∂π by one kernel, where there is one for these tensors."""
        return None

    @abstractmethod
    def density(self, probs: Tensor) -> Tensor:
        """Φ' where Φ = `probs`; 0 at 0 and 1."""

    @abstractmethod
    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        """The weights of rows whose density vanishes in working precision: a one-sided limit with sum 1."""


SHAPES: dict[str, Shape] = {}
"""The shapes by name: what an operator of a compiled graph can refer to."""


def solve_implicitly(x: Tensor, k: float | Tensor, scale: float | Tensor, shape: Shape) -> Tensor:
    """Probabilities of rows, with the derivatives above.

    Args:
        x: (..., n) float32 or float64; −inf where a unit does not compete.
        k: A number, or a column that broadcasts to (..., 1).
        scale: s > 0, likewise.
        shape: Φ.
    """
    probs: Tensor
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:  # a mode that traces or fakes
        probs, _ = _solve_op(x, _as_tensor(k, x), _as_tensor(scale, x), shape.name)
    elif torch._C._are_functorch_transforms_active():
        probs, _ = _Transformable.apply(x, k, scale, shape)
    elif derivable(x, k, scale):
        probs = _Implicit.apply(x, k, scale, shape)
    else:
        probs, _ = shape.solve(x, k, scale, validate=values_visible(x))
    return probs


def _as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor; by a product, since the compiler then keeps it an input instead of a constant."""
    return value if isinstance(value, Tensor) else torch.ones(1, dtype=torch.float64, device=like.device) * value


def derivable(*values: float | Tensor) -> bool:
    """Whether any derivative may be asked for: a graph is being recorded, or a forward-mode or transform level is open."""
    if torch.is_grad_enabled():
        for value in values:
            if isinstance(value, Tensor) and value.requires_grad:
                return True
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class _Gradient:
    """The implicit derivative of solved rows."""

    def __init__(
        self, shape: Shape, x: Tensor, k: float | Tensor, scale: float | Tensor, probs: Tensor, threshold: Tensor
    ) -> None:
        x, probs = _single(x), _single(probs)
        self.x, self.scale, self.threshold, self.across = x, scale, threshold, shape.across
        self.density = shape.density(probs)
        self.total = self.across.total(self.density)
        self.weights: Tensor | None = None
        self.inspectable = inspectable(probs)
        least = RESOLVED[probs.dtype] * (k.detach() if isinstance(k, Tensor) else k)
        if self.inspectable and self._resolved(least):
            return
        with torch.no_grad():
            limit = shape.limit(self.standardised(), probs.detach())
        resolved = self.total > least
        self.weights = torch.where(resolved, self.density / torch.where(resolved, self.total, 1.0), limit)

    def _resolved(self, least: float | Tensor) -> bool:
        """Whether Σd of every row is far above its rounding error, as far as Python may look."""
        if isinstance(least, Tensor):
            return bool((self.total > least).all())
        if self.total.numel() == 1:
            return self.total.item() > least
        return self.total.numel() > 0 and self.total.min().item() > least

    def standardised(self) -> Tensor:
        """(x − τ)/s with τ held: enough wherever a constant added to all of them cancels."""
        return shifted(self.x, self.threshold.detach(), self.scale)

    def mean_and_product(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """⟨w, value⟩ along the row, and d ∘ (value − ⟨w, value⟩): the Jacobian in x/s, which is symmetric, applied to `value`."""
        if self.weights is not None:
            mean = self.across.total(self.weights * value)
            return mean, self.density * (value - mean)
        product = self.density * value
        mean = self.across.total(product) / self.total
        if product.requires_grad or not self.inspectable:
            return mean, torch.addcmul(product, self.density, mean, value=-1)
        return mean, product.addcmul_(self.density, mean, value=-1)

    def divided(self, value: Tensor) -> Tensor:
        """`value` / s."""
        if isinstance(self.scale, Tensor):
            return value / self.scale.to(value.dtype)
        return value if self.scale == 1 else value / self.scale

    def along_scale(self, value: Tensor) -> Tensor:
        """`value` times (x − τ)/s, 0 where the density vanishes."""
        return torch.where(self.density.detach() > 0, self.standardised(), 0.0) * value


def _pull_back(
    needed: tuple[bool, ...],
    shape: Shape,
    grad: Tensor,
    x: Tensor,
    k: float | Tensor,
    scale: float | Tensor,
    probs: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
    """Gradients to x, and to k and s where those are tensors and `needed`."""
    fused = None
    if not torch.is_grad_enabled():  # no graph of the gradient itself is being recorded
        fused = shape.fused_gradient(grad, x, k, scale, probs, threshold, scaled=needed[2])
    to_x, mean, along = fused or _pull_back_by_tensors(shape, grad, x, k, scale, probs, threshold, needed[2])
    to_k = mean.to(k.dtype).sum_to_size(k.shape) if isinstance(k, Tensor) and needed[1] else None
    to_scale = None
    if isinstance(scale, Tensor) and along is not None:
        to_scale = along.to(scale.dtype).sum_to_size(scale.shape)
    return to_x, to_k, to_scale, None


def _pull_back_by_tensors(
    shape: Shape,
    grad: Tensor,
    x: Tensor,
    k: float | Tensor,
    scale: float | Tensor,
    probs: Tensor,
    threshold: Tensor,
    scaled: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in differentiable operations, in float32 at least; ∂L/∂s of the part of the row that is here."""
    gradient = _Gradient(shape, x, k, scale, probs, threshold)
    mean, product = gradient.mean_and_product(_single(grad))
    to_x = gradient.divided(product)
    along = -gradient.along_scale(to_x).sum(-1, keepdim=True) if scaled else None
    return to_x.to(x.dtype), mean, along


def _single(value: Tensor) -> Tensor:
    """In float32, if half precision."""
    return value.float() if value.dtype.itemsize == 2 else value


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
        return _pull_back(ctx.needs_input_grad, ctx.shape, grad, *_saved(ctx))

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, k_t: Tensor | None, scale_t: Tensor | None, _: object) -> Tensor:
        x, k, scale, probs, threshold = _saved(ctx)
        gradient = _Gradient(ctx.shape, x, k, scale, probs, threshold)
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


# Under torch.compile the solve is one opaque operator, and so is its gradient: one graph, no recompilation for another k, the
# eager result by the same kernels.


@torch.library.custom_op("sparsek::implicit_topk", mutates_args=())
def _solve_op(x: Tensor, k: Tensor, scale: Tensor, shape: str) -> tuple[Tensor, Tensor]:
    return SHAPES[shape].solve(x.contiguous(), k, scale)


@_solve_op.register_fake
def _(x: Tensor, k: Tensor, scale: Tensor, shape: str) -> tuple[Tensor, Tensor]:
    threshold = x.new_empty((*x.shape[:-1], 1), dtype=torch.float64)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), threshold


@torch.library.custom_op("sparsek::implicit_topk_backward", mutates_args=())
def _backward_op(
    grad: Tensor, x: Tensor, k: Tensor, scale: Tensor, probs: Tensor, threshold: Tensor, shape: str, scaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        gradients = _pull_back((True, True, scaled), SHAPES[shape], grad, x, k, scale, probs, threshold)
    to_x, to_k, to_scale, _ = gradients
    assert to_k is not None, "k is a tensor"
    return to_x.contiguous(), to_k, torch.zeros_like(scale) if to_scale is None else to_scale


@_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, k: Tensor, scale: Tensor, probs: Tensor, threshold: Tensor, shape: str, scaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(k), torch.empty_like(scale)


def _setup_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.shape = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate_op(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward_op(grad, *ctx.saved_tensors, ctx.shape, ctx.needs_input_grad[2]), None


_solve_op.register_autograd(_differentiate_op, setup_context=_setup_op)
