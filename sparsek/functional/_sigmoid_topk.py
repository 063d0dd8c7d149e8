"""Sigmoid top-k: the softmax of picking k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from sparsek._validation import (
    check_dim,
    check_floating,
    check_k,
    check_mask,
    check_positive,
    inspectable,
    values_visible,
)

from ._saturated import shifted
from ._threshold import solve
from ._topk_mask import topk_mask


def sigmoid_topk(
    input: Tensor,
    k: float | Tensor,
    dim: int = -1,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    hard: bool = False,
) -> Tensor:
    r"""Inclusion probabilities that sum to k: a sigmoid whose shift is solved for.

    $$σ_k(x)_i = σ\left((x_i - τ)/T\right), \quad τ \text{ such that } \sum_i σ_k(x)_i = k,$$

    the maximiser of $⟨x, π⟩ + T \sum_i H(π_i)$ over the k-capped simplex $\{π ∈ [0,1]^n, \sum π = k\}$. It keeps the order of the
    scores, ignores a constant added to them, tends to hard top-k as T → 0 and to k/n as T → ∞; at n = 2, k = 1 it is
    `softmax(x / 2)`.

    τ is found by safeguarded Newton steps in a bounded number of passes over the row on any finite input (see
    :data:`sparsek.functional.MAX_PASSES`; 1 to 3 on ordinary scores). Gradients are those of the implicit function theorem,
    any number of times, in `input`, `k` and `temperature`: with $d = π(1-π)$ and $w = d/\sum d$,
    $∂L/∂x = d ∘ (g - ⟨w, g⟩)/T$ and $∂L/∂k = ⟨w, g⟩$. Where a row is saturated in its precision, `input` gets 0 and `k` the
    limit of w (it still sums to 1); derivatives of w itself are 0 there. At k = 0 and k = n the one-sided limits hold.

    Shape:
        - input: any shape with n units along `dim`.
        - k, temperature: 0-d, or broadcasting to the shape of `input` without `dim`.
        - mask: broadcasting to `input`.
        - output: the shape and dtype of `input`. Half precision is solved in float32.

    Args:
        input: Free scores. −inf gets exactly 0, +inf exactly 1; a NaN makes its own row NaN.
        k: Sum of the probabilities, in [0, number of valid units]; may be real, may be a tensor with gradient.
        dim: Dimension of the units.
        temperature: T > 0.
        mask: True = keep. Masked units get exactly 0, whatever they hold, and do not count.
        hard: Return `topk_mask(input, k)` forward, with the gradient of the probabilities backward.

    Returns:
        π along `dim`, with |Σπ − k| ≤ 5e-7·max(k, 1) in float32 and 1e-13·max(k, 1) in float64.

    Raises:
        ValueError: An argument of the wrong type or shape; k outside [0, valid units] or below the number of +inf entries;
            temperature not above 0. Values of tensors are checked where they are visible (eager, validation on); otherwise a
            row without an answer is NaN.

    Example:
        >>> import torch
        >>> from sparsek.functional import sigmoid_topk
        >>> sigmoid_topk(torch.tensor([2.0, 1.0, 0.0, -1.0]), k=2)
        tensor([0.8176, 0.6225, 0.3775, 0.1824])
        >>> sigmoid_topk(torch.tensor([2.0, 1.0, 0.0, -1.0]), k=2, temperature=0.1)
        tensor([1.0000, 0.9933, 0.0067, 0.0000])

    References:
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot".
        Amos, Koltun, Kolter (2019), "The Limited Multi-Label Projection Layer", https://arxiv.org/abs/1906.08707.
        Sander et al. (2023), "Fast, Differentiable and Sparse Top-k: a Convex Analysis Perspective",
        https://arxiv.org/abs/2302.01425.
    """
    check_floating("input", input)
    dim = check_dim("input", input, dim)
    last = dim == input.dim() - 1
    scores = input if last else input.movedim(dim, -1)
    if mask is not None:
        check_mask("mask", mask, input)
        scores = scores.masked_fill(~mask.expand(input.shape).movedim(dim, -1), -torch.inf)
    check_k(k, scores.shape[:-1], scores.shape[-1])
    check_positive("temperature", temperature)
    if isinstance(k, Tensor):
        k = _column("k", k, scores)
    if isinstance(temperature, Tensor):
        temperature = _column("temperature", temperature, scores)
    working = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    probs = _apply(working, k, temperature).to(input.dtype)
    if hard:
        k = k.squeeze(-1) if isinstance(k, Tensor) else k
        probs = topk_mask(scores.detach(), k.detach() if isinstance(k, Tensor) else k) + (probs - probs.detach())
    return probs if last else probs.movedim(-1, dim)


def _column(name: str, value: Tensor, scores: Tensor) -> Tensor:
    """A tensor that broadcasts over the batch, as a float64 column (..., 1) that broadcasts over the rows."""
    try:
        torch.broadcast_shapes(value.shape, scores.shape[:-1])
    except RuntimeError:
        batch = tuple(scores.shape[:-1])
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} does not broadcast to the batch shape {batch}"
        ) from None
    return value.to(scores.device, torch.float64).unsqueeze(-1)


def _as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor; by a product, since the compiler then keeps it an input instead of a constant."""
    return value if isinstance(value, Tensor) else torch.ones(1, dtype=torch.float64, device=like.device) * value


def _forward(scores: Tensor, k: float | Tensor, temperature: float | Tensor, validate: bool) -> tuple[Tensor, Tensor]:
    """Solve rows of any leading shape; thresholds have shape (..., 1) and dtype float64."""
    batch = scores.shape[:-1]
    shape = (batch.numel(), scores.shape[-1])
    probs = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    k, temperature = _rows(k, batch), _rows(temperature, batch)
    threshold = solve(scores.reshape(shape), k, temperature, probs.view(shape), validate=validate)
    return probs, threshold.view(*batch, 1)


def _rows(value: float | Tensor, batch: torch.Size) -> float | Tensor:
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1:
        return value.item()
    return value.expand(*batch, 1).reshape(-1, 1)


_RESOLVED = {torch.float32: 1e-3, torch.float64: 2e-12}
"""Σd/Σπ above which d = π(1-π), formed from the rounded π, still gives w."""


class _Gradient:
    """The implicit derivative of a solved row."""

    def __init__(
        self, scores: Tensor, k: float | Tensor, temperature: float | Tensor, probs: Tensor, threshold: Tensor
    ) -> None:
        self.scores, self.temperature, self.threshold = scores, temperature, threshold
        self.slope = torch.addcmul(probs, probs, probs, value=-1)
        self.spread = self.slope.sum(-1, keepdim=True)
        self.weights: Tensor | None = None
        least = _RESOLVED[probs.dtype] * (k.detach() if isinstance(k, Tensor) else k)
        if not self._resolved(least):
            resolved = self.spread > least
            self.weights = torch.where(resolved, self.slope / torch.where(resolved, self.spread, 1.0), self._limit())

    def _resolved(self, least: float | Tensor) -> bool:
        """Whether Σd of every row is far above its rounding error, as far as Python may look."""
        if not inspectable(self.spread):
            return False
        spread = self.spread.detach()
        if isinstance(least, Tensor):
            return bool((spread > least).all())
        return spread.numel() > 0 and spread.min().item() > least

    def _limit(self) -> Tensor:
        """w of a saturated row, in log space.

        Where every sigmoid underflows, the sums that place τ inside the gap do too; then k is whole, and the exact τ is the
        one at which both sides of the gap weigh the same.
        """
        with torch.no_grad():
            logits = self.logits()
            size = logits.abs()
            log_slope = -size - 2 * torch.nn.functional.softplus(-size)
            upper = log_slope.masked_fill(logits <= 0, -torch.inf).logsumexp(-1, keepdim=True)
            lower = log_slope.masked_fill(logits > 0, -torch.inf).logsumexp(-1, keepdim=True)
            shift = (upper - lower) / 2
            rebalance = shift.isfinite() & (torch.maximum(upper, lower) < -60)
            shift = torch.where(rebalance, shift, 0.0)
            return torch.where(logits > 0, log_slope - shift, log_slope + shift).softmax(-1)

    def logits(self) -> Tensor:
        """(x − τ)/T, with τ held: enough wherever a constant added to all of them cancels."""
        return shifted(self.scores, self.threshold.detach(), self.temperature)

    def mean_and_product(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """⟨w, value⟩ along the row, and d ∘ (value − ⟨w, value⟩): the Jacobian in x/T applied to `value`."""
        if self.weights is not None:
            mean = (self.weights * value).sum(-1, keepdim=True)
            return mean, self.slope * (value - mean)
        product = self.slope * value
        mean = product.sum(-1, keepdim=True) / self.spread
        if product.requires_grad or not inspectable(product):
            return mean, torch.addcmul(product, self.slope, mean, value=-1)
        return mean, product.addcmul_(self.slope, mean, value=-1)

    def divided(self, value: Tensor) -> Tensor:
        """`value` / T."""
        if isinstance(self.temperature, Tensor):
            return value / self.temperature.to(value.dtype)
        return value if self.temperature == 1 else value / self.temperature


def _backward(
    grad: Tensor,
    scores: Tensor,
    k: float | Tensor,
    temperature: float | Tensor,
    probs: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients to scores, and to k and temperature where those are tensors."""
    gradient = _Gradient(scores, k, temperature, probs, threshold)
    mean, to_logits = gradient.mean_and_product(grad)
    to_k = mean.double().sum_to_size(k.shape) if isinstance(k, Tensor) else None
    to_temperature = None
    if isinstance(temperature, Tensor):
        # 0 · ∞ at units that are never or always selected counts as 0.
        product = torch.where(gradient.slope.detach() > 0, to_logits * gradient.logits(), 0.0)
        to_temperature = -gradient.divided(product.sum(-1, keepdim=True)).double().sum_to_size(temperature.shape)
    return gradient.divided(to_logits), to_k, to_temperature


def _derivable(*values: float | Tensor) -> bool:
    """Whether any derivative may be asked for: a graph is being recorded, or a forward-mode level is open."""
    recorded = torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values)
    return recorded or torch.autograd.forward_ad._current_level >= 0


def _apply(scores: Tensor, k: float | Tensor, temperature: float | Tensor) -> Tensor:
    probs: Tensor
    if torch.compiler.is_compiling():
        probs, _ = _solve_op(scores, _as_tensor(k, scores), _as_tensor(temperature, scores))
    elif torch._C._are_functorch_transforms_active():
        probs, _ = _Transformable.apply(scores, k, temperature)
    elif _derivable(scores, k, temperature):
        probs = _SigmoidTopK.apply(scores, k, temperature)
    else:
        probs, _ = _forward(scores, k, temperature, values_visible(scores))
    return probs


class _SigmoidTopK(torch.autograd.Function):
    """(scores, k, temperature) → probs, units last. The threshold is saved, not differentiated."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: float | Tensor, temperature: float | Tensor) -> Tensor:
        output = _forward(scores, k, temperature, values_visible(scores))
        _save(ctx, (scores, k, temperature), output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None) if grad is None else _backward(grad, *_saved(ctx))

    @staticmethod
    def jvp(ctx: Any, scores_t: Tensor | None, k_t: Tensor | None, temperature_t: Tensor | None) -> Tensor:
        scores, k, temperature, probs, threshold = _saved(ctx)
        gradient = _Gradient(scores, k, temperature, probs, threshold)
        tangent = torch.zeros_like(probs)
        if scores_t is not None:
            tangent = tangent + gradient.divided(scores_t)
        if temperature_t is not None:
            held = torch.where(gradient.slope > 0, gradient.logits(), 0.0)
            tangent = tangent - gradient.divided(held * temperature_t.to(probs.dtype))
        result = gradient.mean_and_product(tangent)[1]
        if k_t is not None:
            weights = gradient.slope / gradient.spread if gradient.weights is None else gradient.weights
            result = result + weights * k_t.to(probs.dtype)
        return result


class _Transformable(torch.autograd.Function):
    """The same under `torch.func` transforms, which cost as much as a short row: plain eager goes without.

    Here whatever is saved must be an input or an output, so the threshold is a second output.
    """

    @staticmethod
    def forward(scores: Tensor, k: float | Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        return _forward(scores, k, temperature, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return _SigmoidTopK.backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        return _SigmoidTopK.jvp(ctx, *tangents), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], scores: Tensor, k: float | Tensor, temperature: float | Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size, rank = info.batch_size, scores.dim() - (in_dims[0] is not None)
        scores = scores.expand(size, *scores.shape) if in_dims[0] is None else scores.movedim(in_dims[0], 0)
        k, temperature = (_batched(v, d, rank) for v, d in zip((k, temperature), in_dims[1:], strict=True))
        return _Transformable.apply(scores, k, temperature), (0, 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    scores, k, temperature = inputs
    ctx.set_materialize_grads(False)
    ctx.numbers = [None if isinstance(v, Tensor) else v for v in (k, temperature)]
    tensors = (scores, *output, *(v for v in (k, temperature) if isinstance(v, Tensor)))
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _saved(ctx: Any) -> tuple[Tensor, float | Tensor, float | Tensor, Tensor, Tensor]:
    """Scores, k, temperature, probs, threshold."""
    scores, probs, threshold, *tensors = ctx.saved_tensors
    k, temperature = (tensors.pop(0) if number is None else number for number in ctx.numbers)
    return scores, k, temperature, probs, threshold


def _batched(value: float | Tensor, dim: int | None, rank: int) -> float | Tensor:
    """Bring the batch dimension of a column to the front, with ones so that it broadcasts over rows of `rank` dimensions."""
    if not isinstance(value, Tensor) or dim is None:
        return value
    value = value.movedim(dim, 0)
    return value.reshape(value.shape[0], *(1,) * (rank + 1 - value.dim()), *value.shape[1:])


# Under torch.compile the solve is one opaque operator: one graph, no recompilation for another k, the eager result.


@torch.library.custom_op("sparsek::sigmoid_topk", mutates_args=())
def _solve_op(scores: Tensor, k: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    return _forward(scores.contiguous(), k, temperature, validate=False)


@_solve_op.register_fake
def _(scores: Tensor, k: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device), scores.new_empty(
        (*scores.shape[:-1], 1), dtype=torch.float64
    )


def _setup_op(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward_op(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _backward(grad, *ctx.saved_tensors)


_solve_op.register_autograd(_backward_op, setup_context=_setup_op)
