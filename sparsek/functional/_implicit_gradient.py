r"""Relaxations of the form $π_i = Φ((x_i - τ)/s)$ with $\sum_i π_i = k$, differentiated implicitly.

With the density $d_i = Φ'((x_i - τ)/s)$ and the weights $w = d / \sum d$,

$$∂L/∂x = d ∘ (g - ⟨w, g⟩) / s, \quad ∂L/∂k = ⟨w, g⟩, \quad ∂L/∂s = -⟨∂L/∂x, (x - τ)/s⟩.$$

The density is a function of π, so that derivatives of any order follow by differentiating these lines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import inspectable

from ._saturated import shifted
from ._shape import RESOLVED, Shape


class Gradient:
    """The implicit derivative of solved rows."""

    def __init__(
        self, shape: Shape, x: Tensor, k: float | Tensor, scale: float | Tensor, probs: Tensor, threshold: Tensor
    ) -> None:
        x, probs = single(x), single(probs)
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
            competing = self.across.total((~x.isinf()).to(probs.dtype))
            limit = limit.masked_fill(competing == 0, 0.0)  # of a row without units nothing moves
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
        z = shifted(self.x, self.threshold.detach(), self.scale)
        most = torch.finfo(z.dtype).max / 8
        return torch.where(self.x.isfinite(), z.clamp(-most, most), z)  # differences of the largest numbers overflow

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


def pull_back(
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
    gradient = Gradient(shape, x, k, scale, probs, threshold)
    mean, product = gradient.mean_and_product(single(grad))
    to_x = gradient.divided(product)
    along = -gradient.along_scale(to_x).sum(-1, keepdim=True) if scaled else None
    return to_x.to(x.dtype), mean, along


def single(value: Tensor) -> Tensor:
    """In float32, if half precision."""
    return value.float() if value.dtype.itemsize == 2 else value
