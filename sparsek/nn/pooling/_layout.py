"""Inputs of a pooling, all brought to tokens (B, T, D) and a mask (B, T); weights brought back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsek._records import replaced
from sparsek._validation import check_floating, values_visible
from sparsek.functional.pooling._tokens import check_token_mask

_INTEGERS = (torch.int32, torch.int64)


class Layout(NamedTuple):
    """Tokens of a batch, and the way back."""

    tokens: Tensor
    """(B, T, D)."""
    mask: Tensor | None
    """Broadcasts to (B, T); True = keep."""
    restore: Callable[[Tensor], Tensor]
    """Weights (B, T) or (B, T, D) to the layout of the input."""
    single: bool = False
    """Whether the input was one row without a batch dimension."""


def arrange(
    x: Tensor,
    mask: Tensor | None,
    offsets: Tensor | None = None,
    index: Tensor | None = None,
    rows: int | None = None,
    max_length: int | None = None,
) -> Layout:
    """Bring any input of a pooling to (B, T, D).

    Raises:
        ValueError: If the arguments do not fit together.
    """
    check_floating("x", x)
    if offsets is not None and index is not None:
        raise ValueError("offsets and index say the same in two ways; give one of them")
    if x.is_nested:
        return _nested(x, mask, offsets if offsets is not None else index, max_length)
    if offsets is not None:
        return _ragged(x, mask, _checked_offsets(offsets, x), max_length)
    if index is not None:
        return _indexed(x, mask, index, rows, max_length)
    return _dense(x, mask)


def _dense(x: Tensor, mask: Tensor | None) -> Layout:
    if x.dim() < 2:
        raise ValueError(f"x must have shape (T, D), (B, T, D) or (B, C, *spatial), got shape {tuple(x.shape)}")
    if x.dim() == 2:
        check_token_mask(mask, x.shape[:1])
        return Layout(x.unsqueeze(0), mask, lambda weights: weights.squeeze(0), single=True)
    if x.dim() == 3:
        check_token_mask(mask, x.shape[:2])
        return Layout(x, mask, lambda weights: weights)
    return _map(x, mask)


def _map(x: Tensor, mask: Tensor | None) -> Layout:
    """A feature map (B, C, *spatial), in either memory format: its positions are the tokens."""
    batch, _, *spatial = x.shape
    check_token_mask(mask, x.movedim(1, -1).shape[:-1])
    if mask is not None:
        mask = mask.expand(batch, *spatial).flatten(1)

    def restore(weights: Tensor) -> Tensor:
        positions: Tensor = weights.movedim(1, -1).unflatten(-1, spatial)
        return positions

    return Layout(x.flatten(2).transpose(1, 2), mask, restore)


def _nested(x: Any, mask: Tensor | None, places: Tensor | None, max_length: int | None) -> Layout:
    if x.layout != torch.jagged or x.dim() != 3 or x._ragged_idx != 1:
        raise ValueError("a nested x must have the jagged layout and shape (B, ragged, D)")
    if mask is not None or places is not None:
        raise ValueError("a nested x has its lengths itself: mask, offsets and index must be None")
    if x._lengths is not None:
        raise ValueError("a nested x must have no gaps between its rows; call .contiguous() first")
    offsets = x.offsets()
    layout = _ragged(x.values(), None, offsets, max_length)
    return replaced(
        layout, restore=lambda weights: torch.nested.nested_tensor_from_jagged(layout.restore(weights), offsets)
    )


def _ragged(values: Tensor, mask: Tensor | None, offsets: Tensor, max_length: int | None) -> Layout:
    """Rows of `values` that end at `offsets`, padded on the right by one gather."""
    lengths = offsets.diff()
    if max_length is None:
        max_length = int(lengths.max()) if lengths.shape[0] else 0
    elif values_visible(lengths) and bool((lengths > max_length).any()):
        raise ValueError(f"max_length must be at least the longest length, {int(lengths.max())}, got {max_length}")
    place = torch.arange(max_length, device=values.device)
    keep = place < lengths.unsqueeze(-1)
    source = torch.where(keep, offsets[:-1].unsqueeze(-1) + place, 0)
    padded = values if values.shape[0] else torch.nn.functional.pad(values, (0, 0, 0, 1))
    if mask is not None:
        check_token_mask(mask, values.shape[:1])
        flags = mask.expand(values.shape[:1]) if values.shape[0] else mask.new_zeros(1)
        keep = keep & flags[source]

    def restore(weights: Tensor) -> Tensor:
        row = torch.repeat_interleave(lengths, output_size=values.shape[0])
        position = torch.arange(values.shape[0], device=values.device) - offsets[row]
        return weights[row, position]

    return Layout(padded[source], keep, restore)


def _indexed(x: Tensor, mask: Tensor | None, index: Tensor, rows: int | None, max_length: int | None) -> Layout:
    """Tokens that say to which row they belong, in any order: sorted by row, then ragged."""
    if x.dim() != 2 or index.dtype not in _INTEGERS or index.shape != x.shape[:1]:
        raise ValueError(
            f"index must hold an integer row for each token of x of shape (N, D), got {index.dtype} of shape "
            f"{tuple(index.shape)} for x of shape {tuple(x.shape)}"
        )
    if rows is None:
        rows = int(index.max()) + 1 if len(index) else 0
    if values_visible(index) and len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
        raise ValueError(f"index must lie in [0, {rows - 1}], got {int(index.min())} to {int(index.max())}")
    order = index.argsort(stable=True)
    lengths = torch.zeros(rows, dtype=torch.long, device=x.device).index_add(0, index, torch.ones_like(index).long())
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    layout = _ragged(x[order], mask if mask is None else mask.expand(x.shape[0])[order], offsets, max_length)
    back = order.argsort()
    return replaced(layout, restore=lambda weights: layout.restore(weights)[back])


def _checked_offsets(offsets: Tensor, values: Tensor) -> Tensor:
    if values.dim() != 2:
        raise ValueError(f"x must have shape (N, D) with offsets, got shape {tuple(values.shape)}")
    if offsets.dim() != 1 or len(offsets) == 0 or offsets.dtype not in _INTEGERS:
        raise ValueError(
            f"offsets must be integers of shape (B + 1,), got {offsets.dtype} of shape {tuple(offsets.shape)}"
        )
    if values_visible(offsets):
        first, last = int(offsets[0]), int(offsets[-1])
        if first != 0 or last != len(values):
            raise ValueError(f"offsets must go from 0 to the number of tokens, {len(values)}, got {first} to {last}")
        if bool((offsets.diff() < 0).any()):
            raise ValueError("offsets must not decrease")
    return offsets.long()
