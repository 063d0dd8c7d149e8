"""Sigmoid top-k: the softmax of picking k."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_dim, check_floating, check_k, check_mask, check_positive
from sparsek.kernels import native
from sparsek.kernels._backend import triton_takes

from ._implicit import derivable, solve_implicitly
from ._reduction import WHOLE
from ._shape import RESOLVED, SHAPES, Shape
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
        tensor([1.0000e+00, 9.9331e-01, 6.6929e-03, 3.0590e-07])

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
    fused = triton_takes(scores)  # a kernel answers a bad value by NaN in that row; to look would wait for the device
    check_k(k, scores.shape[:-1], None if fused and isinstance(k, Tensor) else scores.shape[-1])
    if not (fused and isinstance(temperature, Tensor)):
        check_positive("temperature", temperature)
    if isinstance(k, Tensor):
        k = _column("k", k, scores)
    if isinstance(temperature, Tensor):
        temperature = _column("temperature", temperature, scores)
    if hard and not derivable(input, k, temperature):
        return topk_mask(input, k if not isinstance(k, Tensor) else k.squeeze(-1), dim, mask=mask)
    working = scores if fused or scores.dtype in (torch.float32, torch.float64) else scores.float()
    probs = solve_implicitly(working, k, temperature, _SIGMOID)
    if working is not scores:
        probs = probs.to(input.dtype)
    if hard:
        k = k.squeeze(-1) if isinstance(k, Tensor) else k
        probs = topk_mask(scores.detach(), k.detach() if isinstance(k, Tensor) else k) + (probs - probs.detach())
    return probs if last else probs.movedim(-1, dim)


def _column(name: str, value: Tensor, scores: Tensor) -> Tensor:
    """A tensor that broadcasts over the batch, as a float64 column (..., 1) that broadcasts over the rows."""
    batch = scores.shape[:-1]
    try:
        fits = torch.broadcast_shapes(value.shape, batch) == batch
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} of shape {tuple(value.shape)} does not broadcast to the batch shape {tuple(batch)}")
    return value.to(scores.device, torch.float64).unsqueeze(-1)


class SigmoidShape(Shape):
    """The logistic function, by the solver of :mod:`sparsek.functional._threshold`."""

    name = "sigmoid"

    def solve(
        self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False
    ) -> tuple[Tensor, Tensor]:
        batch = x.shape[:-1]
        if triton_takes(x):
            from sparsek.kernels.triton import _sigmoid_topk as kernels  # noqa: PLC0415 - loads Triton

            columns = _columns(k, batch, x.device), _columns(scale, batch, x.device)
            probs, threshold = kernels.solve(x.reshape(batch.numel(), x.shape[-1]), *columns)
            return probs.view(x.shape), threshold.view(*batch, 1)
        probs = torch.empty_like(x, memory_format=torch.contiguous_format)
        k, scale = _rows(k, batch), _rows(scale, batch)
        if len(batch) == 1:
            return probs, solve(x, k, scale, probs, validate=validate)
        shape = (batch.numel(), x.shape[-1])
        threshold = solve(x.reshape(shape), k, scale, probs.view(shape), validate=validate)
        return probs, threshold.view(*batch, 1)

    def probabilities(self, x: Tensor, k: float | Tensor, scale: float | Tensor, *, validate: bool = False) -> Tensor:
        probs = None
        if not isinstance(k, Tensor) and not isinstance(scale, Tensor) and self._is_one_row(x):
            probs = native.solve_one(x, k, scale)
        return super().probabilities(x, k, scale, validate=validate) if probs is None else probs

    def _is_one_row(self, x: Tensor) -> bool:
        """Whether `x` is a single row that lies here in one piece, and C++ solves it."""
        return x.numel() == x.shape[-1] and self.across is WHOLE and native.takes(x) and not triton_takes(x)

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
        if self.across is not WHOLE or probs.numel() == 0:
            return None
        batch, shape = probs.shape[:-1], (-1, probs.shape[-1])
        if triton_takes(x):
            from sparsek.kernels.triton._sigmoid_topk_backward import pull_back  # noqa: PLC0415 - loads Triton

            columns = _columns(k, batch, x.device), _columns(scale, batch, x.device)
            to_x, mean, along = pull_back(grad.reshape(shape), x.reshape(shape), *columns, threshold.view(-1, 1))
            return to_x.view(x.shape), mean.view(*batch, 1), along.view(*batch, 1) if scaled else None
        if scaled or not native.takes(probs):
            return None
        rows = _rows(k, batch), _rows(scale, batch)
        found = native.pull_back(grad.reshape(shape), probs.view(shape), *rows, RESOLVED[probs.dtype])
        return None if found is None else (found[0].view(probs.shape), found[1].view(*batch, 1), None)

    def density(self, probs: Tensor) -> Tensor:
        return torch.addcmul(probs, probs, probs, value=-1)

    def limit(self, z: Tensor, probs: Tensor) -> Tensor:
        """In log space.

        Where every sigmoid underflows, the sums that place τ inside the gap do too; then k is whole, and the exact τ is the
        one at which both sides of the gap weigh the same.
        """
        size = z.abs()
        log_density = -size - 2 * torch.nn.functional.softplus(-size)
        upper = self.across.logsumexp(log_density.masked_fill(z <= 0, -torch.inf))
        lower = self.across.logsumexp(log_density.masked_fill(z > 0, -torch.inf))
        shift = (upper - lower) / 2
        rebalance = shift.isfinite() & (torch.maximum(upper, lower) < -60)
        shift = torch.where(rebalance, shift, 0.0)
        return self.across.softmax(torch.where(z > 0, log_density - shift, log_density + shift))


def _rows(value: float | Tensor, batch: torch.Size) -> float | Tensor:
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1:
        return value.item()
    return value.expand(*batch, 1).reshape(-1, 1)


def _columns(value: float | Tensor, batch: torch.Size, device: torch.device) -> Tensor:
    """The numbers of the rows as a column that nothing has to wait for: (rows, 1), or (1, 1) for all of them."""
    if not isinstance(value, Tensor):
        return torch.full((1, 1), value, dtype=torch.float64, device=device)
    if value.numel() == 1:
        return value.reshape(1, 1)
    return value.expand(*batch, 1).reshape(-1, 1)


_SIGMOID = SHAPES.setdefault(SigmoidShape.name, SigmoidShape())
