"""What every pooling does first: take the kept tokens by selection, in the precision of the sums."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsek._validation import check_floating


def wide(x: Tensor) -> Tensor:
    """Half precision as float32, the rest as it is."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    """In what precision sums over `x` are formed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_tokens(x: Tensor, mask: Tensor | None) -> None:
    """Refuse what is not a floating-point tensor (..., T, D), and a mask that is not boolean or does not broadcast to (..., T)."""
    check_floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must have shape (..., T, D), got shape {tuple(x.shape)}")
    check_token_mask(mask, x.shape[:-1])


def check_token_mask(mask: Tensor | None, shape: torch.Size) -> None:
    """Refuse a mask that is not boolean or does not broadcast to `shape`, (..., T)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = f"dtype {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a boolean tensor (True = keep), got {kind}")
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"mask of shape {tuple(mask.shape)} does not broadcast to the tokens' shape {tuple(shape)}")


def select(x: Tensor, mask: Tensor | None, fill: float = 0.0) -> Tensor:
    """`fill` in place of masked tokens, whatever they hold; no gradient reaches them."""
    return x if mask is None else torch.where(mask.unsqueeze(-1), x, fill)


def empty_rows(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """Where a row has no kept token, (...); None if there is no mask."""
    return None if mask is None else ~mask.any(-1).expand(x.shape[:-2])


def kept(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask, (..., T), with empty rows taken whole: their tokens are selected to 0 before, and their answer after."""
    if mask is None:
        return None
    mask = mask.expand(x.shape[:-1])
    return mask | ~mask.any(-1, keepdim=True)


def count(x: Tensor, mask: Tensor | None) -> int | Tensor:
    """How many tokens are pooled: at least 1. An int, or a float tensor (..., 1)."""
    if mask is None:
        return max(x.shape[-2], 1)
    return mask.sum(-1, keepdim=True).clamp(min=1).to(wide_dtype(x)).expand(*x.shape[:-2], 1)


def blank(output: Tensor, empty: Tensor | None) -> Tensor:
    """0 without gradient in the empty rows: those of `output`, (..., D)."""
    return output if empty is None else output.masked_fill(empty.unsqueeze(-1), 0.0)


def with_a_token(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A sequence of length 0 as one masked token, so that every reduction has something to reduce."""
    if x.shape[-2] > 0:
        return x, mask
    return torch.nn.functional.pad(x, (0, 0, 0, 1)), x.new_zeros((*x.shape[:-2], 1), dtype=torch.bool)
