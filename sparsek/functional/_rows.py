"""Rows: the form in which every operator sees its arguments: units last, k a column, in float32 or float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsek._records import replaced
from sparsek._validation import check_dim, check_floating, check_k, check_mask, inspectable, values_visible


class Rows(NamedTuple):
    """Arguments of a relaxation after its checks.

    Attributes:
        scores: Finite scores, units last, float32 or float64; 0 where `free` is False and in rows with a NaN.
        k: What is left for the free units, shape (..., 1), float64; NaN in rows that have no answer, and in rows
            with a NaN score. Such a row is NaN after :meth:`restore`.
        free: Units that compete: valid and not +inf. None if all do.
        certain: Units at +inf, which are always selected. None if there are none.
        dim: The dimension of the units in the input.
        dtype: The dtype of the input.
    """

    scores: Tensor
    k: Tensor
    free: Tensor | None
    certain: Tensor | None
    dim: int
    dtype: torch.dtype

    def competing(self) -> Tensor:
        """The scores with -inf where a unit does not compete."""
        return self.scores if self.free is None else self.scores.masked_fill(~self.free, -torch.inf)

    def restore(self, selected: Tensor) -> Tensor:
        """Put the answer of the free units back: 1 at +inf, 0 where masked or -inf, dtype and dim of the input."""
        if self.free is not None and self.certain is not None:
            selected = torch.where(self.free, selected, self.certain.to(selected.dtype))
            selected = selected.masked_fill(self.k.isnan(), torch.nan)
        return selected.movedim(-1, self.dim).to(self.dtype)


def column(value: float | Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A number or a tensor per row as a column (..., 1) that broadcasts over rows, by default of their dtype."""
    dtype = dtype or like.dtype
    if not isinstance(value, Tensor):
        # By a product: the compiler then keeps the number an input instead of a constant.
        return torch.ones(1, dtype=dtype, device=like.device) * value
    return value.to(device=like.device, dtype=dtype).unsqueeze(-1)


def scale_column(name: str, scale: float | Tensor, scores: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A scale as a column, refused if it does not broadcast to the batch."""
    if isinstance(scale, Tensor):
        batch = scores.shape[:-1]
        try:
            fits = torch.broadcast_shapes(scale.shape, batch) == batch
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} of shape {tuple(scale.shape)} does not broadcast to the batch shape {tuple(batch)}"
            )
    return column(scale, scores, dtype)


def scaled(scores: Tensor, scale: float | Tensor) -> Tensor:
    """Finite scores over a scale, as far as they go: a quarter of the largest number where they would overflow."""
    most = torch.finfo(scores.dtype).max / 4
    return (scores / scale).clamp(-most, most)


def to_rows(input: Tensor, k: float | Tensor, dim: int, mask: Tensor | None, *, integer: bool = False) -> Rows:
    """Check the arguments of a relaxation and bring them to rows.

    Raises:
        ValueError: Naming the argument, where values are visible; otherwise a row without an answer gets `k` = NaN.
    """
    check_floating("input", input)
    dim = check_dim("input", input, dim)
    if mask is not None:
        check_mask("mask", mask, input)
        mask = mask.expand(input.shape).movedim(dim, -1)
    scores = input.movedim(dim, -1)
    n = scores.shape[-1]
    scores = scores.to(torch.promote_types(input.dtype, torch.float32))
    check_k(k, scores.shape[:-1], n, integer=integer)
    count = column(k, scores, torch.float64)
    rows = Rows(scores, count, None, None, dim, input.dtype)
    if mask is None and inspectable(scores, count) and _all_finite(scores) and not bool(_legal(count, n).isnan().any()):
        return rows
    return _split_infinities(rows, k, mask)


def _all_finite(scores: Tensor) -> bool:
    """Whether no entry is infinite or NaN, by one cheap sum; an overflow of the sum only costs the general route."""
    return bool(scores.detach().sum().isfinite())


def _legal(count: Tensor, most: int | Tensor) -> Tensor:
    """`count` with NaN where it lies outside [0, most] (seen only where values could not be checked)."""
    return count.masked_fill(~((count >= 0) & (count <= most)), torch.nan)


def _split_infinities(rows: Rows, k: float | Tensor, mask: Tensor | None) -> Rows:
    """Take the masked and the infinite entries out of the competition."""
    scores, count = rows.scores, rows.k
    valid = scores != -torch.inf if mask is None else mask & (scores != -torch.inf)
    certain = valid & (scores == torch.inf)
    free = valid & ~certain
    num_valid = valid.sum(-1, keepdim=True)
    num_certain = certain.sum(-1, keepdim=True)
    check_k(k, scores.shape[:-1], num_valid.squeeze(-1))
    if values_visible(scores, count) and bool((num_certain > count).any()):
        raise ValueError(f"input must have at most k entries at +inf in every row, got {int(num_certain.max())}")
    left = _legal(_legal(count, num_valid) - num_certain, num_valid)
    left = left.masked_fill((free & scores.isnan()).any(-1, keepdim=True), torch.nan)
    return replaced(rows, scores=scores.masked_fill(~free | left.isnan(), 0.0), k=left, free=free, certain=certain)
